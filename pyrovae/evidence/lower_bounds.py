r"""The evidence log p(x), and what is known of it: bounds by sampling from q(z | x).

.. math::
    \log p(x) \ge \mathbb{E}_{z_k \sim q(z \mid x)} \log \frac{1}{K} \sum_{k=1}^{K}
    \frac{p(z_k) \, p(x \mid z_k)}{q(z_k \mid x)}

K = 1 is the ELBO; the bound rises with K.

Draws are made in chunks of ``ROWS`` rows. Where there is much to do, a chunk is compiled: see
:mod:`pyrovae.evidence._compiled`.
"""

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.distributions import Delta
from torch import Tensor

from pyrovae._process import processes
from pyrovae._process.files import read_tensors, write_tensors
from pyrovae._process.graphs import has_compiler
from pyrovae._process.isolation import derived, evaluating
from pyrovae.distributions import base
from pyrovae.estimates import Estimate, Examples, batches, number_of_examples
from pyrovae.evidence._compiled import Compiled, NotCompiledError, chunk
from pyrovae.evidence.weights import RELIABLE, Weights, weight_statistics
from pyrovae.vae import VAE

__all__ = [
    "MODES",
    "Bounds",
    "Evidence",
    "WeightedBounds",
    "batch_size",
    "bits_per_dimension",
    "bounds",
    "evaluate",
    "in_short",
    "kind",
    "of_weights",
    "per_example",
]

MODES = ("auto", "off", "inductor")
"""How the draws of a bound can be run: see :func:`evaluate`."""

ROWS = 2_000  # of a chunk: examples times draws
CACHED = 800  # rows of which a CPU keeps in its cache what is computed operation by operation
EXAMPLES = 20  # at least so many in a batch, where there are as many
WORTH = 10**12  # examples times draws times parameters, from which compiling is repaid
NO_BOUND = "log p(x, z) at one point z: no bound on log p(x), since a point has no density"
"""What is estimated where the posterior is a point."""
STORE_SECONDS = 10.0  # about as much work as an interruption can lose


@dataclass(frozen=True)
class Bounds:
    """Per-example estimates from one set of draws, each ``(examples,)``, in nats.

    Attributes:
        elbo: mean over draws of log p(x, z) - log q(z | x).
        reconstruction: mean over draws of log p(x | z).
        kl: mean over draws of log q(z | x) - log p(z).
        log_evidence: the importance-weighted bound from all draws together.
    """

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    log_evidence: Tensor


@dataclass(frozen=True)
class WeightedBounds(Weights, Bounds):
    """Bounds, and what the weights of the importance-weighted one say of it."""


@dataclass(frozen=True)
class Evidence:
    """What one method knows of log p(x), example by example, in nats.

    Attributes:
        log_evidence: ``(examples,)``.
        standard_error: ``(examples,)``, of the method's own sampling for a given example; where
            nothing is sampled, the error of integration, or zero.
        kind: what the numbers are, in words: exact, or a bound of which sort.
        samples: draws, chains or values of z for each example; None where there are none to count.
        details: more about each example by name, each ``(examples, ...)``.
    """

    log_evidence: Tensor
    standard_error: Tensor
    kind: str
    samples: int | None
    details: dict[str, Tensor]


@torch.no_grad()
def bounds(vae: VAE, x: Tensor, samples: int, compiled: Compiled | None = None) -> WeightedBounds:
    """The ELBO with its parts, and the importance-weighted bound, from the same draws.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519

    Args:
        vae: the model and its posterior.
        x: data ``(batch, *event_shape)``.
        samples: number K of draws for each example; at most ``ROWS`` rows are held at a time,
            and of each draw its weight.
        compiled: runs the chunks that it fits.

    Returns:
        Estimates for each example; weights are never shared between examples.

    Raises:
        ValueError: if ``samples`` is not positive.
    """
    if samples < 1:
        raise ValueError(f"samples must be positive, got {samples}")
    q, p = vae.posterior(x), vae.prior()
    reconstruction = kl = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    log_sum = torch.full_like(kl, -math.inf)
    log_weights = []
    size = _draws(len(x), samples)
    at_once = None if x.is_cuda else max(1, CACHED // len(x))
    if compiled is not None:
        _validate(vae, q, x)
    for start in range(0, samples, size):
        draws = min(size, samples - start)
        if compiled is not None and compiled.fits(x, draws):
            sums = compiled(x)
        elif start == 0:
            sums = chunk(vae, p, q, x, draws, at_once=at_once)
        else:
            with pyro.validation_enabled(False):  # the first chunk was validated
                sums = chunk(vae, p, q, x, draws, at_once=at_once)
        reconstruction = reconstruction + sums[0]
        kl = kl + sums[1]
        log_sum = torch.logaddexp(log_sum, sums[2])
        log_weights.append(sums[3])
    return WeightedBounds(
        elbo=(reconstruction - kl) / samples,
        reconstruction=reconstruction / samples,
        kl=kl / samples,
        log_evidence=log_sum - math.log(samples),
        **vars(weight_statistics(torch.cat(log_weights))),
    )


def evaluate(
    vae: VAE,
    data: Examples,
    *,
    samples: int = 1_000,
    limit: int | None = None,
    seed: int = 0,
    compile: str = "auto",
    advance: Callable[[int], None] | None = None,
    store: Path | None = None,
) -> dict[str, Any]:
    """Mean bounds over a dataset, with standard errors over its examples.

    Several processes, inside of :func:`pyrovae._process.joined`, take turns at the batches, and
    each has the bounds of all.

    Args:
        vae: the model and its posterior; dropout and the like are switched off meanwhile.
        data: one part of a dataset, usually the test set.
        samples: draws for each example.
        limit: only the first so many examples.
        seed: of the draws; a batch's draws depend on it and on the batch's place alone.
        compile: how draws are run. ``"off"``: as written. ``"inductor"``: compiled, which takes
            some seconds at first, makes the same draws and moves results by rounding; what cannot
            be compiled runs as written, and a warning says why. ``"auto"``: compiled on a CPU where
            there is a C++ compiler and examples times draws times parameters reach ``WORTH``, with
            more than one draw.
        advance: told the number of examples after each batch.
        store: as for :func:`per_example`.

    Returns:
        ``elbo``, ``reconstruction`` and ``kl``, each an estimate with its standard error;
        ``log_evidence``, likewise, with ``samples`` and ``kind``; ``weights``, what they say of
        it, or None for one draw or a posterior without a density: ``at_a_tenth``, the bound from a
        tenth of the draws, and ``bias_corrected``, both estimates with standard errors;
        ``sampling_error``, the part of the standard error of ``log_evidence`` that comes from the
        draws; ``ess`` with its ``median`` and ``minimum``; ``unreliable``, the share of examples
        with a Pareto shape above 0.7, and ``largest_pareto_k``; ``images``. In nats per example.

    Raises:
        ValueError: if ``samples`` or ``limit`` is not positive, ``compile`` is none of these, or it
            is ``"inductor"`` and there is no compiler.
    """
    every = per_example(
        vae,
        data,
        samples=samples,
        limit=limit,
        seed=seed,
        compile=compile,
        advance=advance,
        store=store,
    )
    return in_short(every, samples, kind(vae, data, samples))


def in_short(every: WeightedBounds, samples: int, kind: str) -> dict[str, Any]:
    """Means over examples, as :func:`evaluate` gives them.

    Args:
        every: as :func:`per_example` gives it.
        samples: draws for each example.
        kind: as :func:`kind` gives it.
    """
    result: dict[str, Any] = {
        field.name: Estimate.of(getattr(every, field.name)).to_dict() for field in fields(Bounds)
    }
    result["log_evidence"] |= {"samples": samples, "kind": kind}
    result["weights"] = of_weights(every) if samples > 1 and kind != NO_BOUND else None
    result["images"] = len(every.elbo)
    return result


def of_weights(weights: Weights) -> dict[str, Any]:
    """What weights say over all examples: ``weights`` of what :func:`evaluate` gives.

    Args:
        weights: statistics of each example.
    """
    fitted = weights.pareto_k[~weights.pareto_k.isnan()]
    whole = not weights.at_a_tenth.isnan().any()
    return {
        "at_a_tenth": Estimate.of(weights.at_a_tenth).to_dict() if whole else None,
        "bias_corrected": Estimate.of(weights.bias_corrected).to_dict(),
        "sampling_error": (weights.standard_error.norm() / len(weights.ess)).item(),
        "ess": {"median": weights.ess.median().item(), "minimum": weights.ess.min().item()},
        "unreliable": (weights.pareto_k > RELIABLE).double().mean().item(),
        "largest_pareto_k": fitted.max().item() if len(fitted) else None,
    }


def per_example(
    vae: VAE,
    data: Examples,
    *,
    samples: int = 1_000,
    limit: int | None = None,
    seed: int = 0,
    compile: str = "auto",
    advance: Callable[[int], None] | None = None,
    store: Path | None = None,
) -> WeightedBounds:
    """Bounds for each example of a dataset, in its order.

    Args:
        vae, data, samples, limit, seed, compile, advance: as for :func:`evaluate`.
        store: a file that keeps the bounds of each example as work goes on, so that the same
            evaluation, interrupted or repeated, does not begin again; read and written by the first
            process.

    Returns:
        Bounds and statistics of the weights, each ``(examples,)``.

    Raises:
        ValueError: if ``samples`` or ``limit`` is not positive, ``compile`` is none of these, or it
            is ``"inductor"`` and there is no compiler.
    """
    if samples < 1:
        raise ValueError(f"samples must be positive, got {samples}")
    count = number_of_examples(data, limit)
    size = batch_size(samples)
    settings = {"samples": samples, "seed": seed, "rows": ROWS, "size": size}
    mode = _mode(compile, vae, count, samples)
    store = store if processes.is_first() else None
    kept = _Store(store, settings | {"compile": mode}, vae, data)
    kept.share(size)
    compiled: Compiled | None = None
    parts: list[WeightedBounds] = []
    turns: list[WeightedBounds] = []  # of one round, a batch for each process
    with torch.random.fork_rng(), evaluating(vae):
        try:
            whole = min(size, count)  # examples in all batches but a smaller last one
            if mode == "inductor" and len(kept.parts) < count // whole:
                x = vae.place(next(iter(data.batches(whole))))
                try:
                    compiled = Compiled(vae, x, _draws(whole, samples))
                except NotCompiledError as error:
                    warnings.warn(f"not compiled, so draws run as written: {error}", stacklevel=3)
                    kept = _Store(store, settings | {"compile": "off"}, vae, data)
                    kept.share(size)
            for place, x in enumerate(batches(data, size, limit)):
                last = place * size + len(x) == count
                if place < len(kept.parts) and len(x) == size:
                    parts.append(kept.parts[place])
                elif len(turns) == processes.rank():
                    torch.manual_seed(derived(seed, place))
                    turns.append(bounds(vae, vae.place(x), samples, compiled))
                else:
                    turns.append(_nothing(vae.place(x)))
                if len(turns) == processes.count() or last:
                    for part in _of_all(turns):
                        parts.append(part)
                        if len(part.elbo) == size:
                            kept.add(part)
                    turns.clear()
                if advance is not None:
                    advance(len(x))
        finally:
            kept.save()
    return WeightedBounds(
        **{name: torch.cat([getattr(part, name) for part in parts]).cpu() for name in _NAMES}
    )


_NAMES = [field.name for field in fields(WeightedBounds)]


def _mode(compile: str, vae: VAE, examples: int, samples: int) -> str:
    """The mode that ``"auto"`` stands for, by the amount of work and nothing that varies."""
    if compile not in MODES:
        raise ValueError(f"compile must be one of {', '.join(MODES)}, got {compile!r}")
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


def batch_size(samples: int) -> int:
    """Examples in a batch of an evaluation; an example's draws depend on its batch.

    Args:
        samples: draws of z for each example.
    """
    return max(EXAMPLES, ROWS // samples)


def _draws(examples: int, samples: int) -> int:
    """How many draws for each example make a chunk."""
    return min(samples, max(1, ROWS // examples))


def _validate(vae: VAE, q: Any, x: Tensor) -> None:
    """Let the distributions check their arguments and the data, as a compiled chunk does not."""
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        vae.likelihood(q.sample((1,))).log_prob(x)


def bits_per_dimension(nats: float, event_shape: Sequence[int]) -> float:
    r"""A log-probability of one example as bits for each of its dimensions.

    .. math:: -\frac{\log p(x)}{D \ln 2}

    It is a code length where the likelihood is a probability of the data as they are: ``bernoulli``
    of bits, and of counts ``binomial``, ``discretized_logistic``, ``categorical``, ``poisson`` and
    ``negative_binomial``; these may be compared with each other. A density is relative to the
    unit of x: that of :math:`x / m` is above that of x by :math:`\log_2 m` bits, and neither
    compares with a probability. A bound from below on log p(x) gives one from above on the bits.

    Args:
        nats: log p(x) or a bound, in nats per example, as :func:`evaluate` gives it.
        event_shape: shape of one observation, of D dimensions.

    Returns:
        Bits per dimension. The standard error of ``nats`` becomes theirs by the same factor.

    Raises:
        ValueError: if an observation has no dimensions.
    """
    dimensions = math.prod(event_shape)
    if not event_shape or dimensions < 1:
        raise ValueError(
            f"event_shape must have at least one dimension, all positive, got {tuple(event_shape)}"
        )
    return -nats / (dimensions * math.log(2))


def kind(vae: VAE, data: Examples, samples: int) -> str:
    """What :func:`evaluate` estimates for log p(x), in words.

    Args:
        vae: the model and its posterior.
        data: of which one example is looked at.
        samples: draws for each example.
    """
    with torch.no_grad():
        q = base(vae.posterior(vae.place(next(iter(data.batches(1))))))
    if isinstance(q, Delta):
        return NO_BOUND
    return "importance-weighted lower bound" if samples > 1 else "evidence lower bound"


def _nothing(x: Tensor) -> WeightedBounds:
    """In place of the bounds of a batch that another process computes: zeros, to be added to."""
    return WeightedBounds(*torch.zeros(len(_NAMES), len(x), dtype=torch.float64, device=x.device))


def _of_all(turns: Sequence[WeightedBounds]) -> list[WeightedBounds]:
    """The bounds of batches of which each process has computed one."""
    sums = iter(processes.summed([getattr(turn, name) for turn in turns for name in _NAMES]))
    return [WeightedBounds(*(next(sums) for _ in _NAMES)) for _ in turns]


class _Store:
    """Bounds of the first batches of an evaluation, in a file that says whose they are."""

    def __init__(
        self, path: Path | None, settings: dict[str, Any], vae: VAE, data: Examples
    ) -> None:
        self.path, self.parts, self.saved = path, list[WeightedBounds](), time.monotonic()
        if path is None:
            return
        self.about = settings | {"fields": _NAMES, "of": _fingerprint(vae, data)}
        if path.is_file():
            tensors, about = read_tensors(path)
            if about == self.about:
                batches = zip(*(tensors[name] for name in _NAMES), strict=True)
                self.parts = [WeightedBounds(*batch) for batch in batches]

    def share(self, size: int) -> None:
        """Let all processes have the parts of the first one, each of ``size`` examples."""
        count = torch.tensor(len(self.parts))
        processes.from_first([count])
        values = torch.zeros(int(count), len(_NAMES), size, dtype=torch.float64)
        if self.parts:
            values = torch.stack(
                [torch.stack([getattr(part, name) for name in _NAMES]) for part in self.parts]
            )
        processes.from_first([values])
        self.parts = [WeightedBounds(*part) for part in values]

    def add(self, part: WeightedBounds) -> None:
        self.parts.append(part)
        if time.monotonic() - self.saved > STORE_SECONDS:
            self.save()

    def save(self) -> None:
        self.saved = time.monotonic()
        if self.path is not None and self.parts:
            tensors = {
                name: torch.stack([getattr(part, name) for part in self.parts]) for name in _NAMES
            }  # (batches, size)
            self.path.parent.mkdir(exist_ok=True)
            write_tensors(self.path, tensors, self.about)


def _fingerprint(vae: VAE, data: Examples) -> str:
    """A digest of all weights, of all data, and of a bound, which depends on all else."""
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
