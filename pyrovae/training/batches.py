"""The batches of training: their order, where their data are, and the share of each process."""

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pyrovae._process import processes
from pyrovae._process.choices import check_choice
from pyrovae._process.isolation import seed_device, stream
from pyrovae.data import Resident, Split
from pyrovae.training.progress import Progress
from pyrovae.vae import VAE

RESIDENT_SHARE = 0.25  # largest share of a GPU's memory that training data may take


def training_device(name: str) -> torch.device:
    """The device that trains; with several processes, each has a GPU to itself.

    Args:
        name: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: for another name, or if there are too few GPUs.
    """
    check_choice("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch finds no GPU; use auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu" or processes.count() == 1:
        return torch.device(name)
    if processes.local_rank() >= torch.cuda.device_count():
        raise ValueError(
            f"there are fewer GPUs ({torch.cuda.device_count()}) than processes on this machine; "
            "start one for each GPU, or set device to cpu"
        )
    return torch.device("cuda", processes.local_rank())


def resident_on(device: torch.device, train: Split) -> Resident | None:
    """Copy the training data to a device, if they fit in their share of its memory.

    Args:
        device: where steps are run.
        train: the training data.

    Returns:
        The data on the device; None, with a warning, where they are too large for a GPU.
    """
    if device.type == "cuda":
        # of the total memory, not of the free memory, so the same run always takes the same way
        room = RESIDENT_SHARE * torch.cuda.get_device_properties(device).total_memory
        if train.resident_bytes() > room:
            warnings.warn(
                f"the training data take {train.resident_bytes() / 2**30:.1f} GiB, more than a "
                f"share of {RESIDENT_SHARE:.0%} of the GPU's memory, so each batch is copied from "
                "main memory",
                stacklevel=2,
            )
            return None
    return train.on_device(device)


class Batches:
    """Training data in batches, in an order drawn anew for each epoch.

    Order and draws depend on the seed and on the number of the epoch or step alone, so a resumed
    run sees the batches that it would have seen.

    Args:
        train: the training data.
        resident: the same data on the device of the VAE; None to gather batches in main memory.
        vae: places batches on its device, in its dtype.
        size: examples per step, in all processes together.
        seed: of the run.
    """

    def __init__(
        self, train: Split, resident: Resident | None, vae: VAE, size: int, seed: int
    ) -> None:
        self.train, self.resident, self.vae = train, resident, vae
        self.size, self.seed = size, seed
        self.whole = min(size, len(train))  # examples in each batch except a smaller last one
        self.device = next(vae.parameters()).device

    def left(self, progress: Progress) -> Iterator[Tensor]:
        """The batches that are left of the running epoch.

        Args:
            progress: number of the epoch, and of the steps already taken in it.

        Yields:
            Indices into the training data ``(batch,)``, on the device that gathers them.
        """
        order = np.random.default_rng(stream(self.seed, "order", progress.epoch))
        permutation = torch.from_numpy(order.permutation(len(self.train)))
        if self.resident is not None:
            permutation = permutation.to(self.device)
        for position in range(progress.position, progress.steps_per_epoch):
            yield permutation[position * self.size : (position + 1) * self.size]

    def share(self, index: Tensor, step: int) -> Tensor:
        """This process's share of a batch; seeds the device for everything that a step draws.

        Args:
            index: the batch, as :meth:`left` yields it.
            step: number of the step; each process has a random stream of its own.

        Returns:
            ``(share, *event_shape)``, on the device of the VAE.
        """
        index = index[processes.rank() :: processes.count()]
        seed = stream(self.seed, "step", step, processes.rank())
        if self.resident is not None:
            seed_device(index.device, seed)
            return self.vae.place(self.resident.batch(index))
        x = self.vae.place(
            self.train.batch(index.numpy(), np.random.Generator(np.random.SFC64(seed)))
        )
        seed_device(x.device, seed)
        return x
