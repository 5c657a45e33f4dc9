r"""Lower bounds on the evidence log p(x) from draws of q(z | x).

.. math::
    \log p(x) \ge \mathbb{E}_{z_k \sim q(z \mid x)} \log \frac{1}{K} \sum_{k=1}^{K}
    \frac{p(z_k) \, p(x \mid z_k)}{q(z_k \mid x)}

K = 1 is the ELBO; the bound rises with K. The examples of a dataset are evaluated in batches, by
several processes, and an evaluation can be resumed. If there is much to compute, chunks of draws
run compiled.
"""

import hashlib
import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyrovae import distributions
from pyrovae._process import choices, files, isolation, processes
from pyrovae._process.compilation import has_compiler
from pyrovae._process.memory import check_draws, rows_per_chunk
from pyrovae.estimates import (
    AnyExamples,
    Examples,
    as_examples,
    batches,
    log_slope_of,
    number_of_examples,
)
from pyrovae.evidence._draws import Compiled, NotCompiledError, chunk
from pyrovae.evidence.proposals import check_proposal, proposed
from pyrovae.evidence.results import WeightedBounds, in_units
from pyrovae.evidence.weights import weight_statistics
from pyrovae.vae import VAE

__all__ = ["DRAWS", "MODES", "batch_size", "bounds", "per_example"]

MODES = ("auto", "off", "inductor")
"""How the draws of a bound can be run: see :func:`evaluate`."""
DRAWS = 1_000
"""Default number of draws of z per example."""

# Batches and chunks draw one after the other, so both numbers are part of what a seed means.
ROWS = 2_000  # examples times draws in a chunk
EXAMPLES = 20  # fewest examples in a batch, if there are as many
CACHED = 800  # rows whose intermediate results fit in the CPU cache

WORTH = 10**12  # examples times draws times parameters from which compiling pays off
SECONDS = 10.0  # between writes: at most about this much work is lost by an interruption

NAMES = [field.name for field in fields(WeightedBounds)]

Task = tuple[int, Tensor]
"""The position of a batch in the dataset, and the batch."""


def per_example(
    vae: VAE,
    data: AnyExamples,
    *,
    samples: int = DRAWS,
    proposal: str = "posterior",
    limit: int | None = None,
    seed: int = 0,
    compile: str = "auto",
    progress: Callable[[int], None] | None = None,
    store: Path | None = None,
    scaled: bool = False,
) -> WeightedBounds:
    """Compute bounds for each example of a dataset, in order.

    Several processes, inside :func:`pyrovae._process.joined`, take turns at the batches, and each
    receives the bounds of all.

    Args:
        vae: the model and its posterior; evaluated in eval mode, without dropout and the like.
        data: one part of a dataset, usually the test set, or examples as
            :func:`pyrovae.data.as_split` takes them.
        samples: draws of z for each example.
        proposal: what z is drawn from for the importance-weighted bound, one of ``PROPOSALS``:
            ``"posterior"``, q(z | x); ``"refined"``, a distribution fitted to each example from
            draws of q, if q is no point; ``"mixture"``, one that does not rely on q, which takes
            far longer. The ELBO and its parts are always those of q.
        limit: use only the first ``limit`` examples.
        seed: seed of the draws; those of a batch depend only on it and on the batch's position.
        compile: how draws of q are computed. ``"off"`` runs the program as written. ``"inductor"``
            compiles it first, which takes some seconds and changes the results of the same draws
            by rounding only; if that fails, a warning gives the reason and the program runs as
            written. ``"auto"`` compiles on a CPU with a C++ compiler if there is more than one
            draw, and examples times draws times parameters reach 10^12.
        progress: callback, called with the number of examples finished.
        store: a file that keeps finished bounds, so that the same evaluation can resume after an
            interruption; only the first process reads and writes it.
        scaled: whether densities are those of the scaled values that the VAE sees, not of the data
            in their own units.

    Returns:
        Bounds and statistics of the weights, each ``(examples,)``.

    Raises:
        ValueError: if ``samples`` or ``limit`` is not positive, ``proposal`` or ``compile`` is not
            a known one, ``samples`` is below 20 with a proposal that is fitted, or ``compile`` is
            ``"inductor"`` and there is no C++ compiler.

    Example:
        >>> per_example(vae, data, samples=10, limit=30).log_evidence.shape
        torch.Size([30])
    """
    if samples < 1:
        raise ValueError(f"samples must be positive, got {samples}")
    check_proposal(proposal, samples)
    data = as_examples(data)
    count, size = number_of_examples(data, limit), batch_size(samples)
    mode = _mode(compile, vae, count, samples)
    check_draws("samples", samples, min(size, count))
    settings = {
        "samples": samples,
        "proposal": proposal,
        "seed": seed,
        "rows": ROWS,
        "size": size,
    }
    kept = Store(store, settings | {"compile": mode}, vae, data)
    compiled: Compiled | None = None
    parts: list[Tensor] = []  # each (names, examples)

    def computed(place: int, x: Tensor) -> Tensor:
        torch.manual_seed(isolation.derived(seed, place))
        found = bounds(vae, x, samples, compiled, proposal=proposal)
        return torch.stack(list(found.arrays().values()))

    known = distributions.missing_values(getattr(data, "gaps", None))
    with isolation.isolated(), isolation.evaluating(vae), known:
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
    found = WeightedBounds(*torch.cat([part.cpu() for part in parts], 1))
    slope = None if scaled else log_slope_of(data, limit)
    return WeightedBounds(**in_units(found.arrays(), slope))


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


def _compiled_chunk(vae: VAE, data: Examples, examples: int, samples: int) -> Compiled | None:
    """The chunk that all whole batches run, compiled; None, with a warning, if that fails."""
    x = vae.place(next(iter(data.batches(examples))))
    try:
        return Compiled(vae, x, draws_per_chunk(examples, samples))
    except NotCompiledError as error:
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


@isolation.alone()
@torch.no_grad()
def bounds(
    vae: VAE,
    x: Tensor,
    samples: int,
    compiled: Compiled | None = None,
    *,
    proposal: str = "posterior",
) -> WeightedBounds:
    """Estimate the ELBO, its two parts and the importance-weighted bound.

    With the proposal ``"posterior"`` all are from the same draws.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519

    Args:
        vae: the model and its posterior.
        x: data ``(batch, *event_shape)``.
        samples: number K of draws for each example. At most 2,000 rows are held in memory at a
            time, besides the weight of each draw.
        compiled: runs the chunks that have its shape.
        proposal: what z is drawn from for the importance-weighted bound, see :func:`per_example`.

    Returns:
        Estimates for each example; no weights are shared between examples.

    Raises:
        ValueError: if ``samples`` is not positive, or too small for the proposal.

    Example:
        >>> found = bounds(vae, x, samples=100)
        >>> bool((found.elbo <= found.log_evidence).all())
        True
    """
    if samples < 1:
        raise ValueError(f"samples must be positive, got {samples}")
    q, p = vae.posterior(x), vae.prior()
    reconstruction = kl = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    log_weights = []
    size = draws_per_chunk(len(x), samples)
    at_once = None if x.is_cuda else rows_per_chunk(len(x), CACHED)
    if compiled is not None:
        # the distributions check their arguments and the data, which compiled chunks do not
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            vae.log_likelihood(x, q.sample((1,)))
    for start in range(0, samples, size):
        draws = min(size, samples - start)
        if compiled is not None and (x.shape, draws) == (compiled.shape, compiled.draws):
            sums = compiled(x)
        elif start == 0:
            sums = chunk(vae, p, q, x, draws, at_once)
        else:
            with pyro.validation_enabled(False):  # the first chunk was validated
                sums = chunk(vae, p, q, x, draws, at_once)
        reconstruction = reconstruction + sums[0]
        kl = kl + sums[1]
        log_weights.append(sums[3])
    log_w, found = torch.cat(log_weights), {}
    if proposal == "mixture" or (proposal == "refined" and not distributions.is_point(q)):
        log_w, found["standard_error"] = proposed(vae, x, samples, proposal)
    return WeightedBounds(
        elbo=(reconstruction - kl) / samples,
        reconstruction=reconstruction / samples,
        kl=kl / samples,
        log_evidence=log_w.logsumexp(0) - math.log(len(log_w)),
        **vars(weight_statistics(log_w)) | found,
    )


def batch_size(samples: int) -> int:
    """Number of examples in a batch of an evaluation; an example's draws depend on its batch.

    Args:
        samples: draws of z for each example.

    Example:
        >>> batch_size(10), batch_size(1_000)
        (200, 20)
    """
    return max(EXAMPLES, ROWS // samples)


def draws_per_chunk(examples: int, samples: int) -> int:
    """Number of draws for each example that are made at a time.

    Args:
        examples: number of examples in the batch.
        samples: number of draws for each example in all.

    Example:
        >>> draws_per_chunk(20, 1_000)
        100
    """
    return min(samples, rows_per_chunk(examples, ROWS))


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
            self.about["format"] = files.FORMAT
            try:
                tensors, about = files.read_tensors(self.path)
                if about == self.about:
                    self.parts = list(torch.stack([tensors[name] for name in NAMES], 1))
            except FileNotFoundError:
                pass
            except (ValueError, OSError) as error:
                warnings.warn(f"{error}; it is not used, and the work starts anew", stacklevel=2)
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
            try:
                files.write_tensors(self.path, dict(zip(NAMES, columns, strict=True)), self.about)
            except OSError as error:
                self.path = None
                warnings.warn(
                    f"{error.filename}: {error.strerror}; the work goes on, and if it is "
                    "interrupted it starts anew",
                    stacklevel=2,
                )


def _fingerprint(vae: VAE, data: Examples) -> str:
    """A digest of all weights, all data, and one bound, which depends on everything else."""
    digest = hashlib.sha256()
    for name, value in vae.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    for batch in data.batches(1_000):
        digest.update(batch.numpy().tobytes())
    with isolation.isolated(), isolation.evaluating(vae):
        torch.manual_seed(0)
        first = bounds(vae, vae.place(next(iter(data.batches(100)))), 1)
    digest.update(first.elbo.cpu().numpy().tobytes())
    return digest.hexdigest()
