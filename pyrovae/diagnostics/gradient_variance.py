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

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyrovae._process.isolation import derived, evaluating, isolated
from pyrovae.diagnostics.gradient_moments import GradientNoise, Moments, gradient_noise
from pyrovae.distributions import is_point, name
from pyrovae.estimates import Examples, Result, number_of_examples
from pyrovae.kl import closed_form
from pyrovae.objectives import OBJECTIVES
from pyrovae.vae import VAE

__all__ = ["GRADIENT_LIMIT", "GradientComparison", "GradientEstimator", "compare_gradients"]

GRADIENT_LIMIT = 100
"""Default number of examples in the batch."""

DRAWS = 100
ESTIMATORS = ("elbo", "analytic", "stl")


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
    data: Examples,
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
        data: one part of a dataset, usually the test set.
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
    count = number_of_examples(data, limit)
    parameters = _trained(vae.posterior)
    x = vae.place(next(data.batches(count)))
    with isolated(x.device), torch.enable_grad(), evaluating(vae):
        q, p = vae.posterior(x), vae.prior()
        formulas, reasons = _formulas(q, p)
        used = [estimator for estimator in ESTIMATORS if estimator in formulas]
        noise, differences = _gradients(vae, x, parameters, used, draws, seed, progress)
        note = _note(vae, q, p)
    sizes = {key: parameter.numel() for key, parameter in parameters.items()}
    return GradientComparison(
        estimators=[
            GradientEstimator(
                name=key,
                formula=formulas.get(key),
                noise=gradient_noise(noise[key], noise["elbo"], differences[key], sizes)
                if key in used
                else None,
                reason=reasons.get(key),
            )
            for key in ESTIMATORS
        ],
        draws=draws,
        examples=count,
        parameters=sum(sizes.values()),
        q=name(q),
        p=name(p),
        note=note,
    )


def _gradients(
    vae: VAE,
    x: Tensor,
    parameters: Mapping[str, nn.Parameter],
    used: list[str],
    draws: int,
    seed: int,
    progress: Callable[[int], None] | None,
) -> tuple[dict[str, Moments], dict[str, Moments]]:
    """Moments of each estimator's gradient, and of its difference from the first estimator's."""
    objectives = {estimator: OBJECTIVES[estimator]() for estimator in used}
    noise, differences = ({key: Moments() for key in used} for _ in range(2))
    direction = _signs(sum(parameter.numel() for parameter in parameters.values()), seed)
    for draw in range(draws):
        stream = derived(seed, draw)
        reference: Tensor | None = None
        for estimator, objective in objectives.items():
            torch.manual_seed(stream)
            loss: Any = objective.differentiable_loss(vae.model, vae.guide, x)
            gradient = _gradient(-loss / len(x), parameters, estimator)
            reference = gradient if reference is None else reference
            noise[estimator].add(gradient)
            differences[estimator].add(gradient - reference, direction)
        if progress is not None:
            progress(1)
    return noise, differences


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


def _gradient(bound: Tensor, parameters: Mapping[str, nn.Parameter], estimator: str) -> Tensor:
    values = torch.autograd.grad(bound, list(parameters.values()), materialize_grads=True)
    gradient = torch.cat([value.flatten().double().cpu() for value in values])  # (parameters,)
    if not gradient.isfinite().all():
        raise ValueError(
            f"the gradient of {estimator} is not finite; look for weights that are not finite, "
            "or for a scale of q(z|x) that is zero or infinite"
        )
    return gradient
