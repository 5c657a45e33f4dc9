r"""Deterministic maps from one shape to another: the bodies of encoders and decoders.

No probability lives here. A network is made by ``Network(in_shape, out_shape, ...)`` and maps
``(*batch, *in_shape)`` to ``(*batch, *out_shape)``. The class that puts a distribution on top
decides both shapes, so what is handed around is a *network factory*: any callable of
``(in_shape, out_shape)``, such as ``functools.partial(MLP, hidden_dims=(500, 500))``.

A network may offer two parameters that only starting values use, ``output_bias`` (as many entries
as ``out_shape``) and ``input_weight``; one that lacks them is left as it was made.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "NETWORKS",
    "Activation",
    "Conv",
    "Divided",
    "Gated",
    "Linear",
    "NetworkFactory",
    "Residual",
    "Shape",
]

Shape = tuple[int, ...]
"""Of one input or output, without the batch."""

Activation = Literal["elu", "gelu", "relu", "silu", "softplus", "tanh"]
"""A name in ``ACTIVATIONS``."""

NetworkFactory = Callable[[Shape, Shape], nn.Module]
"""Makes a network: a function of the shapes of its input and of its output."""

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
"""Nonlinearities by name."""


class Linear(nn.Module):
    r"""An affine map, :math:`h = W x + b`: with a Normal likelihood, probabilistic PCA.

    References:
        Tipping and Bishop (1999), Probabilistic Principal Component Analysis

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _shape(in_shape), _shape(out_shape)
        self.layer = nn.Linear(math.prod(self.in_shape), math.prod(self.out_shape))

    @property
    def input_weight(self) -> Tensor:
        return self.layer.weight

    @property
    def output_bias(self) -> Tensor:
        return self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return _unflatten(self.layer(_flatten(x, self.in_shape)), self.out_shape)


class MLP(nn.Module):
    r"""A multilayer perceptron, :math:`h_{l+1} = a(W_l h_l + b_l)`, affine at the end.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        hidden_dims: width of each hidden layer.
        activation: one of ``ACTIVATIONS``.
        dropout: probability with which a hidden unit is dropped during training.

    Raises:
        ValueError: if an option is outside its range.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        hidden_dims: Sequence[int] = (256, 256),
        activation: Activation = "silu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _shape(in_shape), _shape(out_shape)
        hidden_dims = _widths("hidden_dims", hidden_dims)
        nonlinearity = _activation(activation)
        layers: list[nn.Module] = []
        for d_in, d_out in pairwise((math.prod(self.in_shape), *hidden_dims)):
            layers += [nn.Linear(d_in, d_out), nonlinearity()]
            if _probability("dropout", dropout) > 0:
                layers.append(nn.Dropout(dropout))
        self.hidden = nn.Sequential(*layers)
        self.last = nn.Linear(hidden_dims[-1], math.prod(self.out_shape))

    @property
    def input_weight(self) -> Tensor:
        first = self.hidden[0]
        assert isinstance(first, nn.Linear)
        return first.weight

    @property
    def output_bias(self) -> Tensor:
        return self.last.bias

    def forward(self, x: Tensor) -> Tensor:
        return _unflatten(self.last(self.hidden(_flatten(x, self.in_shape))), self.out_shape)


class Residual(nn.Module):
    r"""A perceptron with shortcuts, :math:`h_{l+1} = h_l + a(W_l h_l + b_l)`, affine at both ends.

    The first hidden layer is :math:`h_1 = a(W_0 x + b_0)`; each further one adds to it.

    References:
        He et al. (2016), Deep Residual Learning for Image Recognition, arXiv:1512.03385

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        width: units of every hidden layer.
        depth: number of hidden layers.
        activation: one of ``ACTIVATIONS``.

    Raises:
        ValueError: if an option is outside its range.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        width: int = 256,
        depth: int = 3,
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _shape(in_shape), _shape(out_shape)
        (width,) = _widths("width", [width])
        (depth,) = _widths("depth", [depth])
        self.nonlinearity = _activation(activation)()
        self.first = nn.Linear(math.prod(self.in_shape), width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.last = nn.Linear(width, math.prod(self.out_shape))

    @property
    def input_weight(self) -> Tensor:
        return self.first.weight

    @property
    def output_bias(self) -> Tensor:
        return self.last.bias

    def forward(self, x: Tensor) -> Tensor:
        h = self.nonlinearity(self.first(_flatten(x, self.in_shape)))
        for block in self.blocks:
            h = h + self.nonlinearity(block(h))
        return _unflatten(self.last(h), self.out_shape)


class Gated(nn.Module):
    r"""A perceptron of gated layers, :math:`h_{l+1} = (W_l h_l + b_l) \odot \sigma(V_l h_l + c_l)`.

    References:
        Dauphin et al. (2017), Language Modeling with Gated Convolutional Networks,
        arXiv:1612.08083; used for VAEs by Tomczak and Welling (2018), arXiv:1705.07120

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        hidden_dims: width of each hidden layer.
        dropout: probability with which a hidden unit is dropped during training.

    Raises:
        ValueError: if an option is outside its range.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        hidden_dims: Sequence[int] = (256, 256),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _shape(in_shape), _shape(out_shape)
        hidden_dims = _widths("hidden_dims", hidden_dims)
        layers: list[nn.Module] = []
        for d_in, d_out in pairwise((math.prod(self.in_shape), *hidden_dims)):
            layers += [nn.Linear(d_in, 2 * d_out), nn.GLU(dim=-1)]
            if _probability("dropout", dropout) > 0:
                layers.append(nn.Dropout(dropout))
        self.hidden = nn.Sequential(*layers)
        self.last = nn.Linear(hidden_dims[-1], math.prod(self.out_shape))

    @property
    def input_weight(self) -> Tensor:
        first = self.hidden[0]
        assert isinstance(first, nn.Linear)
        return first.weight

    @property
    def output_bias(self) -> Tensor:
        return self.last.bias

    def forward(self, x: Tensor) -> Tensor:
        return _unflatten(self.last(self.hidden(_flatten(x, self.in_shape))), self.out_shape)


class Conv(nn.Module):
    r"""Convolutions between an image and a vector, in either direction.

    With an image ``(C, H, W)`` as ``in_shape`` each stage halves height and width (3x3 kernels,
    stride 2), and an affine map ends it. With an image as ``out_shape``, possibly several per
    output as in ``(2, C, H, W)``, the same stages run backwards by nearest-neighbour enlargement
    and a convolution; every pixel of the output has a bias of its own.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        channels: channels of each stage, from the image inwards.
        activation: one of ``ACTIVATIONS``.

    Raises:
        ValueError: if neither or both shapes are images, or an option is outside its range.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: Sequence[int] = (32, 64),
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _shape(in_shape), _shape(out_shape)
        channels = _widths("channels", channels)
        if len(self.in_shape) == 3 and len(self.out_shape) < 3:
            self.body = _downwards(self.in_shape, self.out_shape, channels, activation)
        elif len(self.in_shape) < 3 <= len(self.out_shape):
            self.body = _upwards(self.in_shape, self.out_shape, channels, activation)
        else:
            raise ValueError(
                "conv maps an image (channels, height, width) to a vector or back, got "
                f"{self.in_shape} to {self.out_shape}; for tables and vectors use mlp"
            )

    @property
    def input_weight(self) -> Tensor:
        return next(layer for layer in self.body if isinstance(layer, nn.Conv2d | nn.Linear)).weight

    @property
    def output_bias(self) -> Tensor:
        bias = self.body[-1].bias
        assert isinstance(bias, nn.Parameter)
        return bias

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[: x.dim() - len(self.in_shape)]
        y: Tensor = self.body(x.reshape(-1, *self.in_shape))  # (*batch, ...) -> (rows, ...)
        return y.reshape(*batch, *self.out_shape)


class Divided(nn.Module):
    r"""A network that reads its input in a larger unit, :math:`h = f(x / c)`.

    A step of Adam moves each weight by about the step size, whatever the unit of x, and so
    :math:`W x` by as much as x is large. Under levels up to 255 as they are, training diverges at
    step sizes that are right for bits. It does not help to start with small weights. Only the
    network sees x / c: the likelihood is still of x, and bounds compare.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        network: factory of f.
        divisor: c.

    Raises:
        ValueError: if ``divisor`` is not positive and finite.
    """

    def __init__(
        self, in_shape: Shape, out_shape: Shape, *, network: NetworkFactory, divisor: float
    ) -> None:
        super().__init__()
        if not 0 < divisor < math.inf:
            raise ValueError(
                f"the divisor of the input must be positive and finite, got {divisor:g}; 1 leaves "
                "the input as it is"
            )
        self.network = network(in_shape, out_shape)
        self.divisor = float(divisor)

    @property
    def input_weight(self) -> Tensor:
        return cast("Tensor", self.network.input_weight)

    @property
    def output_bias(self) -> Tensor:
        return cast("Tensor", self.network.output_bias)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.network(x / self.divisor)
        return h


class _PixelBias(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def _downwards(
    in_shape: Shape, out_shape: Shape, channels: Shape, activation: Activation
) -> nn.Sequential:
    nonlinearity = _activation(activation)
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise((in_shape[0], *channels)):
        layers += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), nonlinearity()]
    height, width = _stage_sizes(in_shape, len(channels))[-1]
    flat = channels[-1] * height * width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, math.prod(out_shape)))


def _upwards(
    in_shape: Shape, out_shape: Shape, channels: Shape, activation: Activation
) -> nn.Sequential:
    nonlinearity = _activation(activation)
    image = (math.prod(out_shape[:-2]), *out_shape[-2:])
    *sizes, smallest = _stage_sizes(image, len(channels))
    narrow = channels[-1] * math.prod(smallest)
    layers: list[nn.Module] = [
        nn.Flatten(),
        nn.Linear(math.prod(in_shape), narrow),
        nn.Unflatten(-1, (channels[-1], *smallest)),
        nonlinearity(),
    ]
    inwards = (image[0], *channels)
    for stage in range(len(channels), 0, -1):
        layers.append(nn.Upsample(size=sizes[stage - 1]))
        last = stage == 1
        layers.append(nn.Conv2d(inwards[stage], inwards[stage - 1], 3, padding=1, bias=not last))
        layers.append(_PixelBias(image) if last else nonlinearity())
    return nn.Sequential(*layers)


def _stage_sizes(image: Shape, stages: int) -> list[tuple[int, int]]:
    sizes = [(image[1], image[2])]
    for _ in range(stages):
        height, width = sizes[-1]
        if min(height, width) == 1:
            raise ValueError(
                f"{stages} stages are too many for images of {image[1]} x {image[2]}: each one "
                "halves height and width; give fewer channels"
            )
        sizes.append((math.ceil(height / 2), math.ceil(width / 2)))
    return sizes


def _flatten(x: Tensor, shape: Shape) -> Tensor:
    if len(shape) == 1:
        return x
    return x.reshape(*x.shape[: x.dim() - len(shape)], math.prod(shape))


def _unflatten(x: Tensor, shape: Shape) -> Tensor:
    return x if len(shape) == 1 else x.unflatten(-1, shape)


def _shape(shape: Sequence[int]) -> Shape:
    shape = tuple(shape)
    if not shape or min(shape) < 1:
        raise ValueError(f"a shape has at least one dimension, all positive; got {shape}")
    return shape


def _widths(name: str, widths: Sequence[int]) -> Shape:
    widths = tuple(widths)
    if not widths or min(widths) < 1:
        raise ValueError(
            f"{name} must be one or more positive integers, got {widths}; "
            "for a map without hidden layers use linear"
        )
    return widths


def _probability(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")
    return value


def _activation(name: Activation) -> type[nn.Module]:
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "residual": Residual,
    "gated": Gated,
    "conv": Conv,
    "linear": Linear,
}
