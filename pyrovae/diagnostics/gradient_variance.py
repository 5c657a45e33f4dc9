r"""The noise in the gradient of the bound with respect to the encoder, by three estimators.

With :math:`z = z(\epsilon, \phi)` and :math:`\phi` the parameters of q, the gradient of the plain
ELBO is the mean over draws of any of

.. math::
    \nabla_\phi \left[ \log p(x, z) - \log q_\phi(z \mid x) \right], \qquad
    \nabla_\phi \left[ \log p(x \mid z) - \mathrm{KL}(q_\phi \,\|\, p) \right], \qquad
    \nabla_z \left[ \log p(x, z) - \log q_\phi(z \mid x) \right] \nabla_\phi z

which are the objectives ``elbo`` (Monte Carlo KL), ``analytic`` and ``stl`` (sticking the landing).
They differ only in variance. A closed form removes the noise of the KL term and leaves the noise of
the likelihood. Sticking the landing lets the two cancel: exactly if q is the exact posterior of
each example, and not at all if q is far from it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyrovae._process.isolation import derived, evaluating, isolated
from pyrovae.distributions import is_point, name
from pyrovae.estimates import AnyExamples, Estimate, Result, as_examples, number_of_examples
from pyrovae.kl import closed_form
from pyrovae.objectives import OBJECTIVES
from pyrovae.vae import VAE

__all__ = [
    "GRADIENT_LIMIT",
    "GradientComparison",
    "GradientDifference",
    "GradientEstimator",
    "GradientMean",
    "GradientNoise",
    "LayerNoise",
    "Variance",
    "compare_gradients",
]

GRADIENT_LIMIT = 100
"""Default number of examples in the batch."""

DRAWS = 100
ESTIMATORS = ("elbo", "analytic", "stl")


class Variance(Estimate):
    """A variance, or a ratio of two.

    Attributes:
        value: the variance.
        standard_error: its standard error; None for two draws.

    Example:
        >>> from pyrovae.diagnostics import Variance
        >>> Variance(0.012345, 0.00067)
        0.01235 ± 0.00067
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {}

    def __repr__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2g}"
        return f"{self.value:.4g}{error}"


class GradientMean(Result):
    r"""The mean gradient over draws.

    Attributes:
        norm: its length.
        standard_error: root mean squared length of the noise in the mean, :math:`\sqrt{V / N}`.
        squared_norm: unbiased estimate of its squared length; may be negative.

    Example:
        >>> from pyrovae.diagnostics import GradientMean
        >>> GradientMean(norm=2.0, standard_error=0.5, squared_norm=3.75)
        GradientMean(norm=2, standard_error=0.5, squared_norm=3.75)
    """

    norm: float
    standard_error: float
    squared_norm: float


class GradientDifference(Result):
    """The difference between a mean gradient and the mean gradient of ``elbo``.

    Attributes:
        norm: its length.
        standard_error: root mean squared length of its noise, the expected ``norm`` if the two
            gradients differ only by noise.
        z_score: z-score of its component in one random direction; None without noise.

    Example:
        >>> from pyrovae.diagnostics import GradientDifference
        >>> GradientDifference(norm=0.1, standard_error=0.09, z_score=0.7)
        GradientDifference(norm=0.1, standard_error=0.09, z_score=0.7)
    """

    norm: float
    standard_error: float
    z_score: float | None


class LayerNoise(Result):
    """The gradient with respect to one parameter tensor.

    Attributes:
        name: name of the tensor.
        parameters: its number of elements.
        squared_norm: unbiased estimate of the squared length of the mean gradient.
        variance: variance of the gradient of one draw.

    Example:
        >>> from pyrovae.diagnostics import LayerNoise
        >>> LayerNoise("encoder.bias", parameters=4, squared_norm=-0.1, variance=2.5)
        LayerNoise(name='encoder.bias', parameters=4, squared_norm=-0.1, variance=2.5)
    """

    name: str
    parameters: int
    squared_norm: float
    variance: float


class GradientNoise(Result):
    """Mean and noise of one estimator of the gradient.

    Attributes:
        mean: the mean gradient.
        variance: variance V of the gradient of one draw.
        signal_to_noise: None if ``squared_norm`` is not positive or V is zero.
        variance_ratio: V divided by V of ``elbo``; None if the latter is zero.
        difference: difference from the mean gradient of ``elbo``; None for ``elbo``.
        layers: the same for each parameter tensor.

    Example:
        >>> from pyrovae.diagnostics import compare_gradients
        >>> noise = compare_gradients(vae, data, draws=3).estimators[0].noise
        >>> noise.variance.value > 0, noise.difference is None
        (True, True)
    """

    mean: GradientMean
    variance: Variance
    signal_to_noise: float | None
    variance_ratio: Variance | None
    difference: GradientDifference | None
    layers: list[LayerNoise]


class GradientEstimator(Result):
    """One estimator of the gradient.

    Attributes:
        name: ``elbo``, ``analytic`` or ``stl``.
        formula: its formula; None if it does not apply.
        noise: its mean and noise; None if it does not apply.
        reason: the reason if it does not apply.

    Example:
        >>> from pyrovae.diagnostics import GradientEstimator
        >>> GradientEstimator("analytic", formula=None, noise=None, reason="no closed form")
        GradientEstimator(name='analytic', formula=None, noise=None, reason='no closed form')
    """

    name: str
    formula: str | None
    noise: GradientNoise | None
    reason: str | None

    def to_dict(self) -> dict[str, object]:
        """Plain data on one level; numbers are None for an estimator that does not apply."""
        nothing = dict.fromkeys(GradientNoise.__dataclass_fields__) | {"layers": []}
        noise = nothing if self.noise is None else self.noise.to_dict()
        return {"name": self.name, "formula": self.formula, **noise, "reason": self.reason}


class GradientComparison(Result):
    """Estimators of the gradient of the ELBO, compared on one batch.

    Attributes:
        estimators: one for each of ``elbo``, ``analytic`` and ``stl``.
        draws: number N of draws.
        examples: size of the batch.
        parameters: number of trained parameters of the posterior.
        q: name of the posterior.
        p: name of the prior.
        note: anything else that the numbers depend on, or None.

    Example:
        >>> from pyrovae.diagnostics import compare_gradients
        >>> found = compare_gradients(vae, data, draws=3)
        >>> found.draws, found.examples
        (3, 64)
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"examples": "images"}

    estimators: list[GradientEstimator]
    draws: int
    examples: int
    parameters: int
    q: str
    p: str
    note: str | None


def compare_gradients(
    vae: VAE,
    data: AnyExamples,
    *,
    draws: int = DRAWS,
    limit: int = GRADIENT_LIMIT,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> GradientComparison:
    r"""Compare mean and variance of the ELBO's gradient between three estimators, on one batch.

    The bound is the ELBO at beta 1, per example, whatever objective the VAE was trained with. A
    draw is one z for each example of the batch, and all estimators use the same draws. With g the
    gradient of one draw, a vector over all trained parameters of the posterior:

    .. math::
        V = \operatorname{tr} \operatorname{Var} g, \qquad
        \widehat{|\mathbb{E} g|^2} = |\bar g|^2 - V / N, \qquad
        \mathrm{SNR} = |\mathbb{E} g| / \sqrt V

    :math:`|\bar g|^2` alone is too large by V / N on average, because noise remains in the mean of
    N draws. After the subtraction the estimate is unbiased and may be negative. The mean is then
    lost in the noise and there is no signal-to-noise ratio: it is below about
    :math:`1 / \sqrt N`. V is inversely proportional to the number of examples in the batch.

    Args:
        vae: the VAE whose encoder's gradient is taken, in eval mode, without dropout.
        data: one part of a dataset, usually the test set, or examples as
            :func:`pyrovae.data.as_split` takes them.
        draws: number N of draws.
        limit: the batch consists of the first ``limit`` examples.
        seed: seed of the draws; each draw depends only on it and on the draw's number.
        progress: callback, called with the number of draws finished.

    Returns:
        Mean and noise of each estimator, in nats per example and unit of the parameters.

    Raises:
        ValueError: if ``draws`` is below 2, ``limit`` is not positive, there are no examples, the
            posterior has no trained parameters, or a gradient is not finite.

    Example:
        >>> from pyrovae.diagnostics import compare_gradients
        >>> found = compare_gradients(vae, data, draws=5)
        >>> [row.name for row in found.estimators]
        ['elbo', 'analytic', 'stl']
    """
    if draws < 2:
        raise ValueError(f"draws must be at least 2 for a variance, got {draws}")
    data = as_examples(data)
    count = number_of_examples(data, limit)
    parameters = _trained(vae.posterior)
    x = vae.place(next(iter(data.batches(count))))
    with isolated(x.device), torch.enable_grad(), evaluating(vae):
        q, p = vae.posterior(x), vae.prior()
        formulas, reasons = _formulas(q, p)
        note = _note(vae, q, p)
        objectives = {key: OBJECTIVES[key]() for key in ESTIMATORS if key in formulas}
        noise, differences = ({key: Moments() for key in objectives} for _ in range(2))
        sizes = {key: parameter.numel() for key, parameter in parameters.items()}
        direction = _signs(sum(sizes.values()), seed)
        for draw in range(draws):
            stream = derived(seed, draw)
            gradients = _gradients(vae, x, list(parameters.values()), objectives, stream)
            for key, gradient in gradients.items():
                noise[key].add(gradient)
                differences[key].add(gradient - gradients["elbo"], direction)
            if progress is not None:
                progress(1)
    found = {key: _noise(noise[key], noise["elbo"], differences[key], sizes) for key in objectives}
    return GradientComparison(
        estimators=[
            GradientEstimator(key, formulas.get(key), found.get(key), reasons.get(key))
            for key in ESTIMATORS
        ],
        draws=draws,
        examples=count,
        parameters=sum(sizes.values()),
        q=name(q),
        p=name(p),
        note=note,
    )


@dataclass
class Moments:
    """Running mean and spread of vectors, by Welford's recurrence.

    ``increments`` holds the amount that each vector after the first adds to the total sum of
    squares. Each has mean V, and for independent normal vectors they are independent, so their
    spread gives the standard error of V without keeping any vector.
    """

    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))
    increments: list[float] = field(default_factory=list)
    components: list[float] = field(default_factory=list)
    count: int = 0

    def add(self, vector: Tensor, direction: Tensor | None = None) -> None:
        self.count += 1
        shift = vector - self.mean
        self.mean = self.mean + shift / self.count
        added = shift * (vector - self.mean)
        self.squares = self.squares + added
        if self.count > 1:
            self.increments.append(added.sum().item())
        if direction is not None:
            self.components.append((direction @ vector).item())

    @property
    def variance(self) -> float:
        return self.squares.sum().item() / (self.count - 1)

    @property
    def standard_error(self) -> float:
        return math.sqrt(self.variance / self.count)


def _noise(
    moments: Moments, reference: Moments, difference: Moments, sizes: Mapping[str, int]
) -> GradientNoise:
    """Summarize the draws of one estimator's gradient, next to those of the first estimator."""
    squared_norm, variance = _signal(moments.mean, moments.squares, moments.count)
    means, squares = (t.split([*sizes.values()]) for t in (moments.mean, moments.squares))
    snr = math.sqrt(squared_norm / variance) if squared_norm > 0 and variance > 0 else None
    return GradientNoise(
        mean=GradientMean(moments.mean.norm().item(), moments.standard_error, squared_norm),
        variance=Variance(variance, Estimate.of(moments.increments).standard_error),
        signal_to_noise=snr,
        variance_ratio=_ratio(moments, reference),
        difference=None if moments is reference else _difference(difference),
        layers=[
            LayerNoise(layer, size, *_signal(mean, each, moments.count))
            for (layer, size), mean, each in zip(sizes.items(), means, squares, strict=True)
        ],
    )


def _signal(mean: Tensor, squares: Tensor, count: int) -> tuple[float, float]:
    """Squared length of the mean gradient, without bias, and variance of one draw."""
    variance = squares.sum().item() / (count - 1)
    return mean.square().sum().item() - variance / count, variance


def _ratio(moments: Moments, reference: Moments) -> Variance | None:
    if reference.variance <= 0:
        return None
    value = moments.variance / reference.variance
    pairs = zip(moments.increments, reference.increments, strict=True)
    error = Estimate.of([one - value * other for one, other in pairs]).standard_error
    return Variance(value, None if error is None else error / reference.variance)


def _difference(difference: Moments) -> GradientDifference:
    mean = Estimate.of(difference.components)
    z_score = mean.value / mean.standard_error if mean.standard_error else None
    return GradientDifference(difference.mean.norm().item(), difference.standard_error, z_score)


def _trained(posterior: Any) -> dict[str, nn.Parameter]:
    named = posterior.named_parameters() if isinstance(posterior, nn.Module) else ()
    parameters = {key: parameter for key, parameter in named if parameter.requires_grad}
    if not parameters:
        kind = getattr(posterior, "__name__", type(posterior).__name__)
        raise ValueError(
            f"the posterior {kind} has no parameters to train, and so no gradient; give a module "
            "that holds its encoder, with requires_grad set"
        )
    return parameters


def _formulas(q: Any, p: Any) -> tuple[dict[str, str], dict[str, str]]:
    """The formula of each estimator, and the reason for those that do not apply."""
    if not q.has_rsample:
        lacking = f"{name(q)} has no reparameterised draws, which this gradient goes through"
        score = "log p(x, z) - log q(z|x) times the score of q"
        return {"elbo": score}, {"analytic": lacking, "stl": lacking}
    formulas = {
        "elbo": "log p(x, z) - log q(z|x) at the draw",
        "stl": "log p(x, z) - log q(z|x) at the draw, through z alone",
    }
    with torch.no_grad():
        found = closed_form(q, p)
    if found is None:
        return formulas, {"analytic": f"no closed form of KL({name(q)} || {name(p)}) is known"}
    if not found[0].isfinite().all():
        return formulas, {"analytic": f"KL({name(q)} || {name(p)}) is infinite"}
    return formulas | {"analytic": f"log p(x|z) - KL; {found[1]}"}, {}


def _note(vae: VAE, q: Any, p: Any) -> str | None:
    if q.has_rsample and is_point(q):
        return (
            f"{name(q)} is a point: nothing is drawn, so that no estimator has noise, and the "
            "gradient is that of log p(x, z), which is no bound on log p(x)"
        )
    if getattr(vae.prior, "posterior", None) is vae.posterior:
        return (
            f"the prior, {name(p)}, is made of the posterior: the gradient goes through p(z), too"
        )
    return None


def _signs(size: int, seed: int) -> Tensor:
    """A random direction that is independent of the draws: each component is 1 or -1."""
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randint(2, (size,), generator=generator).double() - 1


def _gradients(
    vae: VAE, x: Tensor, parameters: list[nn.Parameter], objectives: Mapping[str, Any], seed: int
) -> dict[str, Tensor]:
    """The gradient of each estimator ``(parameters,)``, all from the same draw of z."""
    gradients = {}
    for estimator, objective in objectives.items():
        torch.manual_seed(seed)
        bound = -objective.differentiable_loss(vae.model, vae.guide, x) / len(x)
        values = torch.autograd.grad(bound, parameters, materialize_grads=True)
        gradient = torch.cat([value.flatten().double().cpu() for value in values])
        if not gradient.isfinite().all():
            raise ValueError(
                f"the gradient of {estimator} is not finite; look for weights that are not finite, "
                "or for a scale of q(z|x) that is zero or infinite"
            )
        gradients[estimator] = gradient
    return gradients
