r"""Lower bounds for every example of a dataset: in batches, by several processes, resumable.

If there is much to compute, chunks of draws run compiled: see :mod:`pyrovae.evidence.lower_bounds`.
"""

import hashlib
import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrovae._process import choices, files, isolation, processes
from pyrovae._process.compilation import has_compiler
from pyrovae.estimates import Examples, batches, number_of_examples
from pyrovae.evidence import lower_bounds
from pyrovae.evidence.results import WeightedBounds
from pyrovae.vae import VAE

__all__ = ["MODES", "per_example"]

MODES = ("auto", "off", "inductor")
"""How the draws of a bound can be run: see :func:`evaluate`."""

WORTH = 10**12  # examples times draws times parameters from which compiling pays off
SECONDS = 10.0  # between writes: at most about this much work is lost by an interruption

NAMES = [field.name for field in fields(WeightedBounds)]

Task = tuple[int, Tensor]
"""The position of a batch in the dataset, and the batch."""


def per_example(
    vae: VAE,
    data: Examples,
    *,
    samples: int = lower_bounds.DRAWS,
    limit: int | None = None,
    seed: int = 0,
    compile: str = "auto",
    progress: Callable[[int], None] | None = None,
    store: Path | None = None,
) -> WeightedBounds:
    """Compute bounds for each example of a dataset, in order.

    Several processes, inside :func:`pyrovae._process.joined`, take turns at the batches, and each
    receives the bounds of all.

    Args:
        vae: the model and its posterior; evaluated in eval mode, without dropout and the like.
        data: one part of a dataset, usually the test set.
        samples: draws of z for each example.
        limit: use only the first ``limit`` examples.
        seed: seed of the draws; those of a batch depend only on it and on the batch's position.
        compile: how draws are computed. ``"off"`` runs the program as written. ``"inductor"``
            compiles it first, which takes some seconds and changes the results of the same draws
            by rounding only; if that fails, a warning gives the reason and the program runs as
            written. ``"auto"`` compiles on a CPU with a C++ compiler if there is more than one
            draw, and examples times draws times parameters reach 10^12.
        progress: callback, called with the number of examples finished.
        store: a file that keeps finished bounds, so that the same evaluation can resume after an
            interruption; only the first process reads and writes it.

    Returns:
        Bounds and statistics of the weights, each ``(examples,)``.

    Raises:
        ValueError: if ``samples`` or ``limit`` is not positive, ``compile`` is not a known mode,
            or it is ``"inductor"`` and there is no C++ compiler.

    Example:
        >>> per_example(vae, data, samples=10, limit=30).log_evidence.shape
        torch.Size([30])
    """
    if samples < 1:
        raise ValueError(f"samples must be positive, got {samples}")
    count, size = number_of_examples(data, limit), lower_bounds.batch_size(samples)
    mode = _mode(compile, vae, count, samples)
    settings = {"samples": samples, "seed": seed, "rows": lower_bounds.ROWS, "size": size}
    kept = Store(store, settings | {"compile": mode}, vae, data)
    compiled: lower_bounds.Compiled | None = None
    parts: list[Tensor] = []  # each (names, examples)

    def computed(place: int, x: Tensor) -> Tensor:
        torch.manual_seed(isolation.derived(seed, place))
        return torch.stack(list(lower_bounds.bounds(vae, x, samples, compiled).arrays().values()))

    with torch.random.fork_rng(), isolation.evaluating(vae):
        whole = min(size, count)  # examples in each batch except perhaps the last
        if mode == "inductor" and len(kept.parts) < count // whole:
            compiled = _compiled_chunk(vae, data, whole, samples)
            if compiled is None:
                kept = Store(store, settings | {"compile": "off"}, vae, data)
        tasks = enumerate(map(vae.place, batches(data, size, limit)))
        try:
            for part in kept.resumed(tasks, count, computed):
                parts.append(part)
                if progress is not None:
                    progress(part.shape[1])
        finally:
            kept.save()
    return WeightedBounds(*torch.cat([part.cpu() for part in parts], 1))


def _mode(compile: str, vae: VAE, examples: int, samples: int) -> str:
    """The mode that ``"auto"`` stands for; it depends only on the amount of work."""
    choices.check_choice("compile", compile, MODES)
    if compile == "inductor" and not has_compiler():
        raise ValueError(
            "compile is inductor, which needs a C++ compiler, and there is none (g++, clang++ or "
            "c++); install one, or set compile to auto or off"
        )
    if compile != "auto":
        return compile
    parameters = list(vae.parameters())
    work = examples * samples * sum(p.numel() for p in parameters)
    on_cpu = all(p.device.type == "cpu" for p in parameters)
    worth = samples > 1 and work >= WORTH and on_cpu and has_compiler()
    return "inductor" if worth else "off"


def _compiled_chunk(
    vae: VAE, data: Examples, examples: int, samples: int
) -> lower_bounds.Compiled | None:
    """The chunk that all whole batches run, compiled; None, with a warning, if that fails."""
    x = vae.place(next(iter(data.batches(examples))))
    try:
        return lower_bounds.Compiled(vae, x, lower_bounds.draws_per_chunk(examples, samples))
    except lower_bounds.NotCompiledError as error:
        # named after the caller of evaluate, which is five calls up
        warnings.warn(f"not compiled, so draws run as written: {error}", stacklevel=5)
        return None


def _in_turns(tasks: Iterator[Task], compute: Callable[[int, Tensor], Tensor]) -> Iterator[Tensor]:
    """Bounds of all batches: each process computes one, all exchange theirs, and so on."""
    while turn := list(itertools.islice(tasks, processes.count())):
        parts = [torch.zeros(len(NAMES), len(x), dtype=torch.float64).to(x.device) for _, x in turn]
        if processes.rank() < len(turn):
            parts[processes.rank()] = compute(*turn[processes.rank()])
        yield from processes.summed(parts)


class Store:
    """Bounds of the first batches of an evaluation, kept in a file that identifies it.

    All processes see the bounds that the first one has read; only that one writes.

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
        self.parts: list[Tensor] = []  # each (names, size)
        self.saved = time.monotonic()
        self.about: dict[str, Any] = {}
        if self.path is not None:
            self.about = dict(settings) | {"fields": NAMES, "of": _fingerprint(vae, data)}
            if self.path.is_file():
                tensors, about = files.read_tensors(self.path)
                if about == self.about:
                    self.parts = list(torch.stack([tensors[name] for name in NAMES], 1))
        count = torch.tensor(len(self.parts))
        processes.from_first([count])
        values = torch.zeros(int(count), len(NAMES), self.size, dtype=torch.float64)
        if self.parts:
            values = torch.stack(self.parts)
        processes.from_first([values])
        self.parts = list(values)

    def resumed(
        self, tasks: Iterator[Task], examples: int, compute: Callable[[int, Tensor], Tensor]
    ) -> Iterator[Tensor]:
        """Go through batches: the stored bounds of the first ones, then new bounds, stored too.

        Args:
            tasks: the batches of the dataset in order.
            examples: their number of examples. A batch cut short by the limit is never stored,
                since its draws are not those of a whole one.
            compute: from the position of a batch and the batch to its bounds.
        """
        for part, _ in zip(self.parts[: examples // self.size], tasks, strict=False):
            yield part
        for part in _in_turns(tasks, compute):
            if part.shape[1] == self.size:
                self.parts.append(part)
                if time.monotonic() - self.saved > SECONDS:
                    self.save()
            yield part

    def save(self) -> None:
        """Write what there is to the file."""
        self.saved = time.monotonic()
        if self.path is not None and self.parts:
            columns = torch.stack([part.cpu() for part in self.parts], 1)  # (names, batches, size)
            self.path.parent.mkdir(exist_ok=True)
            files.write_tensors(self.path, dict(zip(NAMES, columns, strict=True)), self.about)


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
        first = lower_bounds.bounds(vae, vae.place(next(iter(data.batches(100)))), 1)
    digest.update(first.elbo.cpu().numpy().tobytes())
    return digest.hexdigest()
