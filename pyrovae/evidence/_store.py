r"""The file in which an unfinished evaluation keeps its bounds."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from pyrovae._process import processes
from pyrovae._process.files import read_tensors, write_tensors
from pyrovae.estimates import Examples
from pyrovae.evidence.lower_bounds import WeightedBounds, bounds
from pyrovae.vae import VAE

__all__ = ["NAMES", "Store", "Task"]

SECONDS = 10.0  # between writes: at most about this much work is lost by an interruption

NAMES = [field.name for field in fields(WeightedBounds)]

Task = tuple[int, Tensor]
"""The position of a batch in the dataset, and the batch."""


class Store:
    """Bounds of the first batches of an evaluation, kept in a file that identifies it.

    All processes see the bounds that the first one has read; only that one writes. As a context
    manager it writes what there is at the end, even if an exception ends the work.

    Args:
        path: the file; None keeps nothing.
        settings: all that the bounds depend on besides model and data; ``size`` is the number of
            examples in a batch.
        vae: the model.
        data: the examples.
    """

    def __init__(
        self, path: Path | None, settings: Mapping[str, Any], vae: VAE, data: Examples
    ) -> None:
        self.path = path if processes.is_first() else None
        self.size: int = settings["size"]
        self.parts: list[WeightedBounds] = []
        self.saved = time.monotonic()
        self.about: dict[str, Any] = {}
        if self.path is not None:
            self.about = dict(settings) | {"fields": NAMES, "of": _fingerprint(vae, data)}
            self._read(self.path)
        self._share()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._save()

    def resumed(
        self,
        tasks: Iterator[Task],
        examples: int,
        compute: Callable[[Iterator[Task]], Iterator[WeightedBounds]],
    ) -> Iterator[WeightedBounds]:
        """Go through batches: the stored bounds of the first ones, then new bounds, stored too.

        Args:
            tasks: the batches of the dataset in order.
            examples: their number of examples. A batch cut short by the limit is never stored,
                since its draws are not those of a whole one.
            compute: from the remaining batches to their bounds.
        """
        for part, _ in zip(self.parts[: examples // self.size], tasks, strict=False):
            yield part
        for part in compute(tasks):
            if len(part.elbo) == self.size:
                self.parts.append(part)
                if time.monotonic() - self.saved > SECONDS:
                    self._save()
            yield part

    def _read(self, path: Path) -> None:
        if path.is_file():
            tensors, about = read_tensors(path)
            if about == self.about:
                batches = zip(*(tensors[name] for name in NAMES), strict=True)
                self.parts = [WeightedBounds(*batch) for batch in batches]

    def _share(self) -> None:
        count = torch.tensor(len(self.parts))
        processes.from_first([count])
        values = torch.zeros(int(count), len(NAMES), self.size, dtype=torch.float64)
        if self.parts:
            values = torch.stack(
                [torch.stack([getattr(part, name) for name in NAMES]) for part in self.parts]
            )
        processes.from_first([values])
        self.parts = [WeightedBounds(*part) for part in values]

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.path is not None and self.parts:
            tensors = {
                name: torch.stack([getattr(part, name).cpu() for part in self.parts])
                for name in NAMES
            }  # (batches, size)
            self.path.parent.mkdir(exist_ok=True)
            write_tensors(self.path, tensors, self.about)


def _fingerprint(vae: VAE, data: Examples) -> str:
    """A digest of all weights, all data, and one bound, which depends on everything else."""
    digest = hashlib.sha256()
    for name, value in vae.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    for batch in data.batches(1_000):
        digest.update(batch.numpy().tobytes())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = bounds(vae, vae.place(next(iter(data.batches(100)))), 1)
    digest.update(first.elbo.cpu().numpy().tobytes())
    return digest.hexdigest()
