r"""Mean and noise of a gradient, from many draws of it, each thrown away after use."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from pyrovae.estimates import Estimate, Result

__all__ = ["GradientDifference", "GradientMean", "GradientNoise", "LayerNoise", "Variance"]


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


def gradient_noise(
    moments: Moments, reference: Moments, difference: Moments, sizes: Mapping[str, int]
) -> GradientNoise:
    """Summarize the draws of one estimator's gradient.

    Args:
        moments: moments of the gradient.
        reference: moments of the gradient of the first estimator.
        difference: moments of the difference between the two.
        sizes: number of elements of each parameter tensor, by name.
    """
    variance, squared_norm = moments.variance, _squared_norm(moments.mean, moments.squares, moments)
    parts = zip(
        moments.mean.split([*sizes.values()]),
        moments.squares.split([*sizes.values()]),
        strict=True,
    )
    snr = math.sqrt(squared_norm / variance) if squared_norm > 0 and variance > 0 else None
    return GradientNoise(
        mean=GradientMean(moments.mean.norm().item(), moments.standard_error, squared_norm),
        variance=Variance(variance, Estimate.of(moments.increments).standard_error),
        signal_to_noise=snr,
        variance_ratio=_ratio(moments, reference),
        difference=None if moments is reference else _difference(difference),
        layers=[
            LayerNoise(
                name=layer,
                parameters=size,
                squared_norm=_squared_norm(mean, squares, moments),
                variance=squares.sum().item() / (moments.count - 1),
            )
            for (layer, size), (mean, squares) in zip(sizes.items(), parts, strict=True)
        ],
    )


def _ratio(moments: Moments, reference: Moments) -> Variance | None:
    if reference.variance <= 0:
        return None
    value = moments.variance / reference.variance
    pairs = zip(moments.increments, reference.increments, strict=True)
    error = Estimate.of([one - value * other for one, other in pairs]).standard_error
    return Variance(value, None if error is None else error / reference.variance)


def _squared_norm(mean: Tensor, squares: Tensor, moments: Moments) -> float:
    noise = squares.sum().item() / (moments.count - 1) / moments.count
    return mean.square().sum().item() - noise


def _difference(difference: Moments) -> GradientDifference:
    mean = Estimate.of(difference.components)
    z_score = mean.value / mean.standard_error if mean.standard_error else None
    return GradientDifference(difference.mean.norm().item(), difference.standard_error, z_score)
