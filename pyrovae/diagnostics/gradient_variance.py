r"""The noise in the gradient of the bound with respect to the encoder, by three estimators.

With :math:`z = z(\epsilon, \phi)` and :math:`\phi` the parameters of q, the gradient of the plain
ELBO is the mean over draws of any of

.. math::
    \nabla_\phi \left[ \log p(x, z) - \log q_\phi(z \mid x) \right], \qquad
    \nabla_\phi \left[ \log p(x \mid z) - \mathrm{KL}(q_\phi \,\|\, p) \right], \qquad
    \nabla_z \left[ \log p(x, z) - \log q_\phi(z \mid x) \right] \nabla_\phi z

which are the objectives ``elbo`` (Monte Carlo KL), ``analytic`` and ``stl`` (sticking the landing).
They differ in variance alone. A closed form takes the noise of the KL term away and leaves that of
the likelihood; sticking the landing lets the two cancel, which they do to the last bit where q is
the exact posterior of each datum, and not where it is far from it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae._process.isolation import derived, evaluating, isolated
from pyrovae.distributions import is_point, name
from pyrovae.estimates import Examples, number_of_examples
from pyrovae.kl import closed_form
from pyrovae.objectives import OBJECTIVES
from pyrovae.vae import VAE

__all__ = ["compare_gradients"]

DRAWS, LIMIT = 100, 100
ESTIMATORS = ("elbo", "analytic", "stl")


def compare_gradients(
    vae: VAE,
    data: Examples,
    *,
    draws: int = DRAWS,
    limit: int = LIMIT,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    r"""Mean and variance of the gradient of the plain ELBO, for one batch, by each estimator.

    The bound is that at beta 1, per example, whatever was optimised. A draw is one z for each
    example of the batch, and all estimators take the same draws. With g the gradient of one draw,
    a vector over all parameters of the posterior that are trained:

    .. math::
        V = \operatorname{tr} \operatorname{Var} g, \qquad
        \widehat{|\mathbb{E} g|^2} = |\bar g|^2 - V / N, \qquad
        \mathrm{SNR} = |\mathbb{E} g| / \sqrt V

    :math:`|\bar g|^2` alone is too large by V / N in the mean, since N draws leave noise in it.
    What is left after the subtraction is unbiased and may be negative: then the mean is lost in
    the noise, and there is no signal-to-noise ratio, which is below about
    :math:`1 / \sqrt N`. V goes down as one over the number of examples in the batch.

    Args:
        vae: whose encoder; dropout and the like are switched off meanwhile.
        data: one part of a dataset, usually the test set.
        draws: number N of draws.
        limit: the batch is the first so many examples.
        seed: of the draws; each depends on it and on its number alone.
        advance: told the number of draws after each.

    Returns:
        ``estimators``, a row for each of ``elbo``, ``analytic`` and ``stl``, with ``name``,
        ``formula``, and

        - ``mean``: ``norm`` of the mean over draws, its ``standard_error`` (the root mean square
          length of what noise adds to the mean, :math:`\sqrt{V / N}`) and ``squared_norm``,
          unbiased;
        - ``variance``: V as ``value``, and its ``standard_error``;
        - ``signal_to_noise``, None where ``squared_norm`` is not positive or V is zero;
        - ``variance_ratio``: V over that of ``elbo`` as ``value``, and its ``standard_error``;
        - ``difference`` of the mean from that of ``elbo``: ``norm``, its ``standard_error`` as
          above, which is its size where the two are equal but for noise, and ``z_score``, of its
          component in one random direction;
        - ``layers``: ``name``, number of ``parameters``, ``squared_norm`` and ``variance`` of each
          tensor of parameters;
        - ``reason``: None, or why there are no numbers: all above are None then, and ``layers``
          empty.

        ``draws``; ``images``, the size of the batch; ``parameters``, their number; ``q``, ``p``,
        the names of the distributions; ``note``, what else the numbers depend on, or None.

    Raises:
        ValueError: if ``draws`` is below 2 or ``limit`` not positive, if there are no examples, if
            the posterior has no parameters that are trained, or a gradient is not finite.
    """
    if draws < 2:
        raise ValueError(f"draws must be at least 2, which a variance needs, got {draws}")
    count = number_of_examples(data, limit)
    parameters = _trained(vae.posterior)
    x = vae.place(next(data.batches(count)))
    with isolated(x.device), torch.enable_grad(), evaluating(vae):
        q, p = vae.posterior(x), vae.prior()
        formulas, reasons = _formulas(q, p)
        used = [estimator for estimator in ESTIMATORS if estimator in formulas]
        objectives = {estimator: OBJECTIVES[estimator]() for estimator in used}
        noise, differences = ({key: _Moments() for key in used} for _ in range(2))
        direction = _signs(sum(parameter.numel() for parameter in parameters.values()), seed)
        for draw in range(draws):
            stream = derived(seed, draw)
            reference: Tensor | None = None
            for estimator, objective in objectives.items():
                torch.manual_seed(stream)
                loss: Any = objective.differentiable_loss(vae.model, vae.guide, x)
                gradient = _gradient(-loss / count, parameters, estimator)
                reference = gradient if reference is None else reference
                noise[estimator].add(gradient)
                differences[estimator].add(gradient - reference, direction)
            if advance is not None:
                advance(1)
        note = _note(vae, q, p)
    sizes = {key: parameter.numel() for key, parameter in parameters.items()}
    rows = [
        _row(noise[key], noise["elbo"], differences[key], sizes) if key in used else _empty()
        for key in ESTIMATORS
    ]
    return {
        "estimators": [
            {"name": key, "formula": formulas.get(key), **row, "reason": reasons.get(key)}
            for key, row in zip(ESTIMATORS, rows, strict=True)
        ],
        "draws": draws,
        "images": count,
        "parameters": sum(sizes.values()),
        "q": name(q),
        "p": name(p),
        "note": note,
    }


def _trained(posterior: Any) -> dict[str, nn.Parameter]:
    named = posterior.named_parameters() if isinstance(posterior, nn.Module) else ()
    parameters = {key: parameter for key, parameter in named if parameter.requires_grad}
    if not parameters:
        kind = getattr(posterior, "__name__", type(posterior).__name__)
        raise ValueError(
            f"the posterior {kind} has no parameters that are trained, and no gradient; give a "
            "module that holds its encoder, with requires_grad set"
        )
    return parameters


def _formulas(q: Any, p: Any) -> tuple[dict[str, str], dict[str, str]]:
    """How each estimator goes, and why those that are not there are not."""
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
    """A direction that depends on no draw: each component 1 or -1."""
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randint(2, (size,), generator=generator).double() - 1


def _gradient(bound: Tensor, parameters: dict[str, nn.Parameter], estimator: str) -> Tensor:
    values = torch.autograd.grad(bound, list(parameters.values()), materialize_grads=True)
    gradient = torch.cat([value.flatten().double().cpu() for value in values])  # (parameters,)
    if not gradient.isfinite().all():
        raise ValueError(
            f"the gradient of {estimator} is not finite; look for weights that are not finite, "
            "or for a scale of q(z|x) that is zero or infinite"
        )
    return gradient


@dataclass
class _Moments:
    """Mean and spread of vectors that come one by one, by Welford's recurrence.

    ``increments`` are what each vector after the first adds to the total sum of squares. Each has
    the mean V, and for independent normal vectors they are independent: their spread gives the
    standard error of V, with no vector kept.
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


def _row(
    moments: _Moments, reference: _Moments, difference: _Moments, sizes: dict[str, int]
) -> dict[str, Any]:
    variance, squared_norm = moments.variance, _squared_norm(moments.mean, moments.squares, moments)
    ratio: dict[str, Any] | None = None
    if reference.variance > 0:
        value = variance / reference.variance
        pairs = zip(moments.increments, reference.increments, strict=True)
        error = _error_of_mean([one - value * other for one, other in pairs])
        ratio = {
            "value": value,
            "standard_error": None if error is None else error / reference.variance,
        }
    parts = zip(
        moments.mean.split([*sizes.values()]),
        moments.squares.split([*sizes.values()]),
        strict=True,
    )
    return {
        "mean": {
            "norm": moments.mean.norm().item(),
            "standard_error": moments.standard_error,
            "squared_norm": squared_norm,
        },
        "variance": {"value": variance, "standard_error": _error_of_mean(moments.increments)},
        "signal_to_noise": math.sqrt(squared_norm / variance)
        if squared_norm > 0 and variance > 0
        else None,
        "variance_ratio": ratio,
        "difference": None if moments is reference else _difference(difference),
        "layers": [
            {
                "name": layer,
                "parameters": size,
                "squared_norm": _squared_norm(mean, squares, moments),
                "variance": squares.sum().item() / (moments.count - 1),
            }
            for (layer, size), (mean, squares) in zip(sizes.items(), parts, strict=True)
        ],
    }


def _empty() -> dict[str, Any]:
    keys = ("mean", "variance", "signal_to_noise", "variance_ratio", "difference")
    return dict.fromkeys(keys) | {"layers": []}


def _squared_norm(mean: Tensor, squares: Tensor, moments: _Moments) -> float:
    noise = squares.sum().item() / (moments.count - 1) / moments.count
    return mean.square().sum().item() - noise


def _difference(difference: _Moments) -> dict[str, Any]:
    error = _error_of_mean(difference.components)
    z_score = float(np.mean(difference.components)) / error if error else None
    return {
        "norm": difference.mean.norm().item(),
        "standard_error": difference.standard_error,
        "z_score": z_score,
    }


def _error_of_mean(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
