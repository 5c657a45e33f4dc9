r"""Lower bounds for every example of a dataset: in batches, by several processes, resumable.

If there is much to compute, chunks of draws run compiled: see :mod:`pyrovae.evidence._compiled`.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from pyrovae._process import processes
from pyrovae._process.choices import check_choice
from pyrovae._process.compilation import has_compiler
from pyrovae._process.isolation import derived, evaluating
from pyrovae.distributions import missing_values
from pyrovae.estimates import Examples, batches, number_of_examples
from pyrovae.evidence._compiled import Compiled, NotCompiledError
from pyrovae.evidence._store import NAMES, Store, Task
from pyrovae.evidence.lower_bounds import (
    DRAWS,
    ROWS,
    WeightedBounds,
    batch_size,
    bounds,
    draws_per_chunk,
)
from pyrovae.vae import VAE

__all__ = ["MODES", "per_example"]

MODES = ("auto", "off", "inductor")
"""How the draws of a bound can be run: see :func:`evaluate`."""

WORTH = 10**12  # examples times draws times parameters from which compiling pays off


def per_example(
    vae: VAE,
    data: Examples,
    *,
    samples: int = DRAWS,
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
    count, size = number_of_examples(data, limit), batch_size(samples)
    mode = _mode(compile, vae, count, samples)
    settings = {"samples": samples, "seed": seed, "rows": ROWS, "size": size}
    kept = Store(store, settings | {"compile": mode}, vae, data)
    compiled: Compiled | None = None
    parts: list[WeightedBounds] = []

    def computed(task: Task) -> WeightedBounds:
        place, x = task
        torch.manual_seed(derived(seed, place))
        return bounds(vae, x, samples, compiled)

    known = missing_values(getattr(data, "gaps", None))
    with torch.random.fork_rng(), evaluating(vae), known:
        whole = min(size, count)  # examples in each batch except perhaps the last
        if mode == "inductor" and len(kept.parts) < count // whole:
            compiled = _compiled_chunk(vae, data, whole, samples)
            if compiled is None:
                kept = Store(store, settings | {"compile": "off"}, vae, data)
        tasks = enumerate(map(vae.place, batches(data, size, limit)))
        with kept:
            for part in kept.resumed(tasks, count, lambda left: _in_turns(left, computed)):
                parts.append(part)
                if progress is not None:
                    progress(len(part.elbo))
    return WeightedBounds(
        **{name: torch.cat([getattr(part, name).cpu() for part in parts]) for name in NAMES}
    )


def _mode(compile: str, vae: VAE, examples: int, samples: int) -> str:
    """The mode that ``"auto"`` stands for; it depends only on the amount of work."""
    check_choice("compile", compile, MODES)
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


def _compiled_chunk(vae: VAE, data: Examples, examples: int, samples: int) -> Compiled | None:
    """The chunk that all whole batches run, compiled; None, with a warning, if that fails."""
    x = vae.place(next(iter(data.batches(examples))))
    try:
        return Compiled(vae, x, draws_per_chunk(examples, samples))
    except NotCompiledError as error:
        # named after the caller of evaluate, which is five calls up
        warnings.warn(f"not compiled, so draws run as written: {error}", stacklevel=5)
        return None


def _in_turns(
    tasks: Iterator[Task], compute: Callable[[Task], WeightedBounds]
) -> Iterator[WeightedBounds]:
    """Bounds of all batches: each process computes one, all exchange theirs, and so on."""
    while turn := list(itertools.islice(tasks, processes.count())):
        mine = processes.rank()
        parts = [compute(t) if n == mine else _nothing(t) for n, t in enumerate(turn)]
        sums = iter(processes.summed([getattr(part, name) for part in parts for name in NAMES]))
        yield from [WeightedBounds(*(next(sums) for _ in NAMES)) for _ in turn]


def _nothing(task: Task) -> WeightedBounds:
    """Zeros in place of the bounds that another process computes, to be added to."""
    _, x = task
    return WeightedBounds(*torch.zeros(len(NAMES), len(x), dtype=torch.float64, device=x.device))
