"""Training from the batches of a torch ``DataLoader``, as they come."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyrovae._process import processes
from pyrovae._process.isolation import seed_device, stream
from pyrovae.data import Split, loaded
from pyrovae.training.checkpoint import TrainingOptions, TrainingState
from pyrovae.training.progress import Progress

__all__: list[str] = []

FIRST = 1_000
"""Number of first examples from which a model is checked and initialized, or a few more."""


class Loaded:
    """The training data that a loader gives; warns of what is lost by that.

    Args:
        loader: of tensors ``(batch, *event_shape)``, or of tuples that begin with one.
        seed: of the training run, from which torch's generator is seeded.

    Attributes:
        first: its first examples.
        steps: the number of its batches, which is that of the steps in an epoch.

    Raises:
        TypeError: if the loader has no length.
        ValueError: if it has no batches, or there are several processes.
    """

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        if processes.count() > 1:
            raise ValueError(
                "a DataLoader trains in one process, and there are several; give fit the "
                "loader's dataset, of whose batches each process takes a share"
            )
        self.loader = loader
        try:
            self.steps = len(loader)
        except TypeError as error:
            raise TypeError(
                "the DataLoader has no length, so it is unknown where an epoch ends; give its "
                "dataset a method __len__, the number of examples in an epoch"
            ) from error
        self.first = _first(loader, seed)
        warnings.warn(
            f"the batches of a DataLoader are taken as they come: an epoch is {self.steps} of "
            "them, whatever their sizes; batch_size and drop_last are the loader's; the first "
            f"{len(self.first):,} examples stand for all where the model is checked and "
            "initialized; and a resumed run need not equal an uninterrupted one to the bit. Give "
            "fit the loader's dataset to avoid this",
            stacklevel=3,
        )

    def options(self, options: TrainingOptions) -> TrainingOptions:
        """The options with those that the loader sets.

        With batches of its own sizes, steps run as written unless told otherwise, since each size
        would have a graph of its own.
        """
        if self.loader.batch_size is None:
            mode = "off" if options.compile == "auto" else options.compile
            return replace(options, compile=mode, drop_last=False)
        size, drop_last = self.loader.batch_size, self.loader.drop_last
        return replace(options, batch_size=size, drop_last=drop_last)


def _first(loader: DataLoader[Any], seed: int) -> Split:
    found: list[Tensor] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "order", 0))
        for x in loaded(loader):
            found.append(x.detach().cpu())
            if sum(map(len, found)) >= FIRST:
                break
    if not found:
        raise ValueError("the loader has no batches; it needs at least one")
    return Split.from_array(torch.cat(found))


class LoaderBatches:
    """The batches of a loader, as long as an epoch lasts.

    Torch's generator is seeded at the start of each epoch, so a loader that draws its order from it
    has the same order under the same seed.

    Args:
        train: the loader.
        state: the VAE, which places batches on its device, in its dtype; and the seed.
    """

    def __init__(self, train: Loaded, state: TrainingState) -> None:
        self.train, self.vae = train, state.vae
        self.device = next(state.vae.parameters()).device
        self.seed, self.whole = state.options.seed, state.options.batch_size

    def left(self, progress: Progress) -> Iterator[Tensor]:
        """The batches that are left of the running epoch.

        A loader that ends before the epoch does is begun again.

        Args:
            progress: number of the epoch, and of the steps already taken in it, whose batches are
                left out.

        Yields:
            The examples of each batch, ``(batch, *event_shape)``.
        """
        torch.manual_seed(stream(self.seed, "order", progress.epoch))
        position, taken, last = 0, progress.position, progress.steps_per_epoch
        while position < last:
            before = position
            for x in loaded(self.train.loader):
                position += 1
                if position > taken:
                    yield x
                if position == last:
                    return
            if position == before:
                raise ValueError("the loader has no batches left; it must begin anew each time")

    def share(self, batch: Tensor, step: int) -> Tensor:
        """The batch on the device of the VAE; seeds the device for everything that a step draws.

        Args:
            batch: the batch, as :meth:`left` yields it.
            step: number of the step.

        Returns:
            ``(batch, *event_shape)``.

        Raises:
            ValueError: if values are missing, and none of the first examples had any.
        """
        seed_device(self.device, stream(self.seed, "step", step, 0))
        x = self.vae.place(batch)
        if not self.train.first.gaps and bool(x.isnan().any()):
            raise ValueError(
                f"step {step + 1} has missing values (NaN), and the loader's first "
                f"{len(self.train.first):,} examples have none; give fit the loader's dataset"
            )
        return x
