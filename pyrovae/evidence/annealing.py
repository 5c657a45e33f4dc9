r"""Annealed importance sampling: log p(x) along a path from a distribution that is easy to draw.

.. math::
    f_\beta(z) = r(z)^{1 - \beta} \, p(x, z)^{\beta}, \qquad 0 = \beta_0 < \dots < \beta_T = 1

A chain starts from :math:`r`, the prior or q(z | x), and moves by Hamiltonian Monte Carlo, which
leaves each :math:`f_\beta` invariant. Its weight

.. math:: \log w = \sum_{t=1}^{T} (\beta_t - \beta_{t-1})
    \left( \log p(x, z_{t-1}) - \log r(z_{t-1}) \right)

has :math:`\mathbb{E}\, w = p(x)` for any number of temperatures and any step sizes that do not
depend on the chain. Step sizes are therefore tuned on other chains beforehand.

The same path backwards from an exact draw of p(z | x) has :math:`\mathbb{E}\, w^{-1} = 1 / p(x)`.
If x was drawn from the model itself, such a draw is available: the z that x was drawn from.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import pyro
import torch
from torch import Tensor

from pyrovae._process import choices, isolation, memory
from pyrovae.distributions import expand, is_point, is_real, moments
from pyrovae.estimates import AnyExamples, as_tensor
from pyrovae.evidence.results import Evidence, Sandwich
from pyrovae.evidence.weights import weight_statistics
from pyrovae.vae import VAE

__all__ = ["CHAINS", "annealed", "gradients", "sandwich", "sigmoidal"]

CHAINS = 16
"""Default number of chains per example."""

ROWS = 800  # chains times examples in a chunk, which has a seed of its own
ACCEPTANCE = 0.65
PILOTS = 8  # chains per example that tune its step sizes
WARMUP = 20  # transitions of theirs before the path begins
GAIN = 0.1  # change of the log step size per unit of excess acceptance
JITTER = 0.2  # largest relative change of a step size, at random
STEEPNESS = 4.0
LOWER, UPPER = "lower bound in expectation", "upper bound in expectation"


def sigmoidal(temperatures: int) -> Tensor:
    r"""Space inverse temperatures densely at both ends.

    .. math:: \beta_t = \frac{\sigma(\delta (2t / T - 1)) - \sigma(-\delta)}
        {\sigma(\delta) - \sigma(-\delta)}, \qquad \delta = 4

    References:
        Wu, Burda, Salakhutdinov and Grosse (2017), On the Quantitative Analysis of Decoder-Based
        Generative Models, arXiv:1611.04273

    Args:
        temperatures: T, at least 1.

    Returns:
        :math:`\beta_0, \dots, \beta_T`, in double precision.

    Example:
        >>> betas = sigmoidal(10)
        >>> len(betas), betas[0].item(), betas[-1].item()
        (11, 0.0, 1.0)
    """
    s = torch.linspace(-STEEPNESS, STEEPNESS, temperatures + 1, dtype=torch.float64).sigmoid()
    return (s - s[0]) / (s[-1] - s[0])


def annealed(
    vae: VAE,
    x: AnyExamples,
    *,
    samples: int | None = None,
    seed: int = 0,
    temperatures: int = 500,
    leapfrog: int = 5,
    start: Literal["prior", "posterior"] = "prior",
    progress: Callable[[float], None] | None = None,
) -> Evidence:
    r"""Estimate log p(x) by annealed importance sampling with Hamiltonian Monte Carlo.

    A transition takes ``leapfrog`` steps. Their size is tuned for each example and temperature on
    separate chains, to an acceptance probability of 0.65, and jittered at random. The unit of each
    dimension moves from the prior's standard deviation to that of q(z | x).

    References:
        Neal (2001), Annealed Importance Sampling, Statistics and Computing 11; Wu, Burda,
        Salakhutdinov and Grosse (2017), On the Quantitative Analysis of Decoder-Based Generative
        Models, arXiv:1611.04273

    Args:
        vae: a model with a real z; evaluated in eval mode, without dropout and the like.
        x: data ``(examples, *event_shape)``, or as :func:`pyrovae.data.as_split` takes them.
        samples: number of chains for each example; None for the default, 16.
        seed: seed of all draws; those of a batch depend only on it and on the batch's position.
        temperatures: T, number of steps from :math:`\beta = 0` to 1.
        leapfrog: number of leapfrog steps in a transition.
        start: r: ``"prior"``, or ``"posterior"`` for q(z | x). Starting from q takes fewer
            temperatures, but misses what q misses.
        progress: callback, called with the number of examples finished, in fractions.

    Returns:
        The logarithm of the mean weight, a lower bound in expectation. Its standard error comes
        from the jackknife and is itself uncertain below a few hundred chains. ``details`` holds
        ``ess``, the effective sample size of the chains' weights, ``bias_corrected``, their
        jackknife estimate, ``acceptance``, the mean acceptance probability along the path, and
        ``step``, the last step size.

    Raises:
        ValueError: if an option is outside its range, z is not a real vector, or ``start`` is
            ``"posterior"`` and that is a point.

    Example:
        >>> found = annealed(vae, x[:3], samples=4, temperatures=20)
        >>> found.kind, found.details["step"].shape
        ('lower bound in expectation', torch.Size([3]))
    """
    x = as_tensor(x)
    samples = CHAINS if samples is None else samples
    _check(samples, temperatures, leapfrog, start)
    vae.check_data(vae.place(x))
    parts = []
    with _prepared(vae, x.device):
        for place, batch in enumerate(memory.in_chunks(x, samples, ROWS)):
            torch.manual_seed(isolation.derived(seed, place))
            path = _Path(vae, vae.place(batch), start, temperatures, leapfrog, progress, stages=2)
            parts.append(path.chains(path.draw(samples)))
    return _evidence(parts, samples, LOWER)


def sandwich(
    vae: VAE,
    examples: int = 100,
    *,
    samples: int | None = None,
    seed: int = 0,
    temperatures: int = 500,
    leapfrog: int = 5,
    start: Literal["prior", "posterior"] = "prior",
    progress: Callable[[float], None] | None = None,
) -> Sandwich:
    r"""Bound log p(x) from both sides, on data drawn from the model: bidirectional Monte Carlo.

    .. math::
        \mathbb{E} \log \frac{1}{C} \sum_{c} w_c \;\le\; \log p(x) \;\le\;
        -\mathbb{E} \log \frac{1}{C} \sum_{c} \tilde w_c^{-1}

    All backward chains start at the z of their x, so their weights are not independent, and the
    standard error of a single upper bound is too small. The standard error
    of a mean over examples is not affected: it comes from the differences between them.

    References:
        Grosse, Ancha and Roy (2016), Measuring the Reliability of MCMC Inference with Bidirectional
        Monte Carlo, arXiv:1606.02275

    Args:
        vae: a model with a real z.
        examples: number of x to draw.
        samples: number of chains in each direction; None for the default, 16.
        seed, temperatures, leapfrog, start, progress: as for :func:`annealed`.

    Returns:
        Both bounds and the data.

    Raises:
        ValueError: as :func:`annealed`, or if ``examples`` is not positive.

    Example:
        >>> both = sandwich(vae, 4, samples=4, temperatures=20)
        >>> both.upper.kind
        'upper bound in expectation'
    """
    samples = CHAINS if samples is None else samples
    _check(samples, temperatures, leapfrog, start)
    if examples < 1:
        raise ValueError(f"examples must be positive, got {examples}")
    device = next((p.device for p in vae.parameters()), torch.device("cpu"))
    lower, upper, data = [], [], []
    with _prepared(vae, device):
        size = memory.rows_per_chunk(samples, ROWS)
        for place, done in enumerate(range(0, examples, size)):
            torch.manual_seed(isolation.derived(seed, place))
            with torch.no_grad():
                z = vae.prior().sample((min(size, examples - done),))
                x = vae.likelihood(z).sample()
            path = _Path(vae, x, start, temperatures, leapfrog, progress, stages=3)
            lower.append(path.chains(path.draw(samples)))
            upper.append(path.chains(z.expand(samples, *z.shape), backward=True))
            data.append(x.cpu())
    bounds = _evidence(lower, samples, LOWER), _evidence(upper, samples, UPPER)
    return Sandwich(*bounds, torch.cat(data))


_Chains = tuple[Tensor, Tensor, Tensor]
"""Log weights ``(chains, examples)``; acceptance and last step size of each example."""


class _Path:
    """The path of distributions from r to p(x, z) for a batch, and chains along it."""

    def __init__(
        self,
        vae: VAE,
        x: Tensor,
        start: str,
        temperatures: int,
        leapfrog: int,
        progress: Callable[[float], None] | None,
        stages: int,
    ) -> None:
        self.vae, self.x, self.leapfrog = vae, x, leapfrog
        self.progress, self.stages = progress, stages
        self.betas = sigmoidal(temperatures).tolist()
        with torch.no_grad():
            self.prior, q = vae.prior(), vae.posterior(x)
            if not is_real(self.prior) or is_point(self.prior):
                raise ValueError(
                    f"annealing moves z over real vectors, but the prior "
                    f"{type(vae.prior).__name__} is not over these; use the method iw, or exact "
                    "for a categorical prior"
                )
            if start == "posterior" and is_point(q):
                raise ValueError(
                    f"{type(vae.posterior).__name__} has no density to start from; use start prior"
                )
            self.from_prior = start == "prior"
            self.start: Any = expand(self.prior, x.shape[:1]) if self.from_prior else q
            self.precisions = [_precision(d, len(x)) for d in (self.start, q)]
            if not self.from_prior:
                self.precisions[0] = self.precisions[1]
        self.steps = self.tuned()

    def report(self, fraction: float) -> None:
        """Report a fraction of one of the stages as examples."""
        if self.progress is not None:
            self.progress(fraction * len(self.x) / self.stages)

    @torch.no_grad()
    def draw(self, count: int) -> Tensor:
        """Draws of r ``(count, examples, latent_dim)``."""
        return self.start.sample((count,))

    def terms(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log r(z), and log p(x, z) - log r(z), each ``(chains, examples)``."""
        log_likelihood = self.vae.log_likelihood(self.x, z)
        log_start = self.start.log_prob(z)
        if self.from_prior:
            return log_start, log_likelihood
        return log_start, self.prior.log_prob(z) + log_likelihood - log_start

    def slope(self, z: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
        """log f at this temperature, its gradient, and log p(x, z) - log r(z)."""
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            log_start, rest = self.terms(z)
            log_f = log_start + beta * rest
            (gradient,) = torch.autograd.grad(log_f.sum(), z)
        return log_f.detach().double(), gradient, rest.detach().double()

    def move(self, z: Tensor, beta: float, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make one transition that leaves f at this temperature invariant.

        Returns:
            The new state of the chains, log p(x, z) - log r(z) there, and the probability of
            acceptance ``(chains, examples)``.
        """
        first, last = self.precisions
        unit = ((1 - beta) * first + beta * last).rsqrt()  # (examples, latent_dim)
        jitter = 1 + JITTER * (2 * torch.rand_like(step) - 1)
        stride = (jitter * step)[:, None] * unit
        momentum = torch.randn_like(z)
        log_f, gradient, rest = self.slope(z, beta)
        energy = log_f - momentum.double().square().sum(-1) / 2
        position = z
        momentum = momentum + stride / 2 * gradient
        for number in range(self.leapfrog):
            position = position + stride * momentum
            new_log_f, gradient, new_rest = self.slope(position, beta)
            whole = 1.0 if number + 1 < self.leapfrog else 0.5
            momentum = momentum + whole * stride * gradient
        change = new_log_f - momentum.double().square().sum(-1) / 2 - energy
        probability = change.clamp(max=0).exp().nan_to_num(0.0)
        taken = torch.rand_like(probability) < probability
        z = torch.where(taken[..., None], position, z)
        return z, torch.where(taken, new_rest, rest), probability

    def tuned(self) -> Tensor:
        """Step sizes at each inner temperature ``(T - 1, examples)``, from pilot chains."""
        z = self.draw(PILOTS)
        log_step = torch.full((len(self.x),), math.log(0.5)).to(z)
        inner = self.betas[1:-1]
        steps = []
        for number, beta in enumerate([*inner[:1] * WARMUP, *inner]):
            z, _, probability = self.move(z, beta, log_step.exp())
            if number >= WARMUP:
                steps.append(log_step.exp())
                self.report(1 / len(inner))
            log_step = log_step + GAIN * (probability.mean(0) - ACCEPTANCE).to(z)
        return torch.stack(steps) if steps else log_step.exp()[:0, None]

    def chains(self, z: Tensor, *, backward: bool = False) -> _Chains:
        """Chains along the path, or back along it.

        Args:
            z: draws of r, or for chains back of p(z | x) ``(chains, examples, latent_dim)``.
            backward: in this direction, where a log weight is -log(1 / w).
        """
        increments = [after - before for before, after in pairwise(self.betas)]
        places = list(zip(self.betas[1:-1], self.steps, strict=True))
        if backward:
            increments, places = increments[::-1], places[::-1]
        with torch.no_grad():
            rest = self.terms(z)[1].double()
        log_weights = increments[0] * rest
        accepted = torch.zeros_like(rest)
        for (beta, step), increment in zip(places, increments[1:], strict=True):
            z, rest, probability = self.move(z, beta, step)
            log_weights = log_weights + increment * rest
            accepted = accepted + probability
            self.report(1 / len(places))
        log_weights = -log_weights if backward else log_weights
        if not places:
            nothing = torch.full_like(log_weights[0], math.nan)
            return log_weights, nothing, nothing
        return log_weights, accepted.mean(0) / len(places), self.steps[-1].double()


def gradients(samples: int = CHAINS, temperatures: int = 500, leapfrog: int = 5) -> int:
    """Count the gradients of log p(x, z) that annealing takes for each example.

    Args:
        samples, temperatures, leapfrog: as for :func:`annealed`.

    Example:
        >>> gradients()
        72816
    """
    transitions = (temperatures - 1) * (samples + PILOTS)
    if temperatures > 1:
        transitions += WARMUP * PILOTS
    return transitions * (leapfrog + 1)


def _precision(d: Any, examples: int) -> Tensor:
    """Inverse variance of each dimension; 1 where that is zero, infinite or unknown."""
    mean, variance = moments(d)
    precision = 1 / variance
    usable = precision.isfinite() & (precision > 0)
    return torch.where(usable, precision, 1.0).expand(examples, mean.shape[-1])


def _evidence(parts: list[_Chains], chains: int, kind: str) -> Evidence:
    columns = (torch.cat(column, -1).cpu() for column in zip(*parts, strict=True))
    log_weights, acceptance, step = columns
    weights = weight_statistics(log_weights)
    sign = -1 if kind == UPPER else 1
    details = {"ess": weights.ess, "bias_corrected": sign * weights.bias_corrected}
    details |= {"acceptance": acceptance, "step": step}
    value = sign * (log_weights.logsumexp(0) - math.log(chains))
    return Evidence(value, weights.standard_error, kind, chains, details)


@contextmanager
def _prepared(vae: VAE, device: torch.device) -> Iterator[None]:
    """Eval mode, isolated random numbers, weights without gradients, and no checks at each step."""
    wanted = [p for p in vae.parameters() if p.requires_grad]
    with isolation.isolated(device), isolation.evaluating(vae), pyro.validation_enabled(False):
        try:
            for parameter in wanted:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in wanted:
                parameter.requires_grad_(True)


def _check(samples: int, temperatures: int, leapfrog: int, start: str) -> None:
    numbers = {"samples": samples, "temperatures": temperatures, "leapfrog": leapfrog}
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be positive, got {value}")
    choices.check_choice("start", start, ("prior", "posterior"))
    memory.check_draws("samples", samples)
    memory.check_draws("temperatures", temperatures)
