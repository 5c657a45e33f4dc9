r"""Networks: a linear map, perceptrons and convolutions."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from pyrovae._process.allocation import within_memory
from pyrovae._process.choices import check_choice

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "NETWORKS",
    "Activation",
    "Conv",
    "Gated",
    "Linear",
    "NetworkFactory",
    "Residual",
    "Shape",
    "batched",
]

Shape = tuple[int, ...]
"""Shape of one input or output, without the batch."""

Activation = Literal["elu", "gelu", "relu", "silu", "softplus", "tanh"]
"""A name in ``ACTIVATIONS``."""

NetworkFactory = Callable[[Shape, Shape], nn.Module]
"""A function that makes a network, given the shapes of its input and output."""

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
"""Activation functions by name."""

Layer = Callable[[int, int], list[nn.Module]]


_ONE_BATCH = (nn.modules.batchnorm._NormBase, nn.modules.conv._ConvNd)


def batched(network: Any, x: Tensor, event_dim: int) -> Tensor:
    """Apply a network to inputs with any number of batch dimensions.

    Layers that take a single one, such as batch normalization and convolutions, get all of them
    flattened into one. Any other network must map ``(*batch, *in_shape)`` to ``(*batch,
    *out_shape)``: it gets several batch dimensions where there are several draws of z for each x.

    Args:
        network: of ``in_shape`` to ``out_shape``.
        x: ``(*batch, *in_shape)``.
        event_dim: number of dimensions of ``in_shape``.

    Returns:
        ``(*batch, *out_shape)``.

    Example:
        >>> from torch import nn
        >>> from pyrovae.networks import batched
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> batched(network, torch.zeros(10, 64, 2), 1).shape
        torch.Size([10, 64, 3])
    """
    batch, shape = x.shape[: x.dim() - event_dim], x.shape[x.dim() - event_dim :]
    parts = network.modules() if isinstance(network, nn.Module) else ()
    if len(batch) == 1 or not any(isinstance(part, _ONE_BATCH) for part in parts):
        return cast("Tensor", network(x))
    output: Tensor = network(x.reshape(-1, *shape))
    return output.reshape(*batch, *output.shape[1:])


class _Network(nn.Module):
    """A map between two shapes.

    Its first parameter is the weight of its first layer, its last one the bias of its last layer.
    ``unit`` is None, or what the input is divided by, see :meth:`initialize`.
    """

    unit: Tensor | None

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _shape(in_shape), _shape(out_shape)
        self.register_buffer("unit", None)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Choose a unit in which the input is read, a power of two, if that of x is far from one.

        A step of an optimizer moves each weight by about the step size, and thus the output in
        proportion to x. Numbers between 1/32 and 32, by their root mean square, are read as they
        are.

        Args:
            x: training data ``(batch, *in_shape)``.
        """
        size = float(x.double().square().mean().sqrt())
        usual = 1 / 32 <= size <= 32 or not 0 < size < math.inf
        self.unit = None if usual else x.new_tensor(2.0 ** round(math.log2(size)))

    def prepared(self, x: Tensor) -> Tensor:
        return x if self.unit is None else x / self.unit

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        found = state.get(f"{prefix}unit")
        self.unit = None if found is None else next(self.parameters()).new_empty(())
        super()._load_from_state_dict(state, prefix, *rest)

    @property
    def input_weight(self) -> Tensor:
        return next(self.parameters())

    @property
    def output_bias(self) -> Tensor:
        return list(self.parameters())[-1]


class _Flat(_Network):
    """A map between flat vectors that reads and writes arrays of any shape.

    By default it applies ``hidden`` and then ``last``, as :meth:`stack` makes them. A network of
    other parts defines ``flat``, the map itself.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__(in_shape, out_shape)
        self.sizes = math.prod(self.in_shape), math.prod(self.out_shape)

    hidden: nn.Sequential
    last: nn.Linear

    def stack(
        self, hidden_dims: Sequence[int], dropout: float, layer: Layer
    ) -> tuple[nn.Sequential, nn.Linear]:
        """Make the hidden layers, each from its input and output width, and the affine last one."""
        hidden_dims = _widths("hidden_dims", hidden_dims)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        layers: list[nn.Module] = []
        for n, m in pairwise((self.sizes[0], *hidden_dims)):
            layers += layer(n, m)
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        return nn.Sequential(*layers), nn.Linear(hidden_dims[-1], self.sizes[1])

    def flat(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.last(self.hidden(x)))

    def forward(self, x: Tensor) -> Tensor:
        read = self.prepared(x).flatten(-len(self.in_shape))
        return self.flat(read).unflatten(-1, self.out_shape)


class Linear(_Flat):
    r"""An affine map, :math:`h = W x + b`: with a Normal likelihood, probabilistic PCA.

    References:
        Tipping and Bishop (1999), Probabilistic Principal Component Analysis

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.

    Example:
        >>> from pyrovae.networks import Linear
        >>> Linear((1, 8, 8), (2, 3))(x).shape
        torch.Size([64, 2, 3])
    """

    @within_memory
    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__(in_shape, out_shape)
        self.layer = nn.Linear(*self.sizes)

    def flat(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.layer(x))


class MLP(_Flat):
    r"""A multilayer perceptron, :math:`h_{l+1} = a(W_l h_l + b_l)`, with an affine last layer.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        hidden_dims: width of each hidden layer.
        activation: one of ``ACTIVATIONS``.
        dropout: probability of dropping a hidden unit during training.

    Raises:
        ValueError: if an option is outside its range.

    Example:
        >>> from pyrovae.networks import MLP
        >>> MLP((1, 8, 8), (2, 3), hidden_dims=(32,))(x).shape
        torch.Size([64, 2, 3])
    """

    @within_memory
    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        hidden_dims: Sequence[int] = (256, 256),
        activation: Activation = "silu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_shape, out_shape)
        nonlinearity = _activation(activation)
        self.hidden, self.last = self.stack(
            hidden_dims, dropout, lambda n, m: [nn.Linear(n, m), nonlinearity()]
        )


class Residual(_Flat):
    r"""A perceptron with shortcuts, :math:`h_{l+1} = h_l + a(W_l h_l + b_l)`, affine at both ends.

    The first hidden layer is :math:`h_1 = a(W_0 x + b_0)`; each further one adds to it.

    References:
        He et al. (2016), Deep Residual Learning for Image Recognition, arXiv:1512.03385

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        width: number of units in every hidden layer.
        depth: number of hidden layers.
        activation: one of ``ACTIVATIONS``.

    Raises:
        ValueError: if an option is outside its range.

    Example:
        >>> from pyrovae.networks import Residual
        >>> Residual((1, 8, 8), (2, 3), width=32, depth=4)(x).shape
        torch.Size([64, 2, 3])
    """

    @within_memory
    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        width: int = 256,
        depth: int = 3,
        activation: Activation = "silu",
    ) -> None:
        super().__init__(in_shape, out_shape)
        (width,) = _widths("width", [width])
        (depth,) = _widths("depth", [depth])
        self.nonlinearity = _activation(activation)()
        self.first = nn.Linear(self.sizes[0], width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.last = nn.Linear(width, self.sizes[1])

    def flat(self, x: Tensor) -> Tensor:
        h: Tensor = self.nonlinearity(self.first(x))
        for block in self.blocks:
            h = h + self.nonlinearity(block(h))
        return cast("Tensor", self.last(h))


class Gated(_Flat):
    r"""A perceptron of gated layers, :math:`h_{l+1} = (W_l h_l + b_l) \odot \sigma(V_l h_l + c_l)`.

    References:
        Dauphin et al. (2017), Language Modeling with Gated Convolutional Networks,
        arXiv:1612.08083; used for VAEs by Tomczak and Welling (2018), arXiv:1705.07120

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        hidden_dims: width of each hidden layer.
        dropout: probability of dropping a hidden unit during training.

    Raises:
        ValueError: if an option is outside its range.

    Example:
        >>> from pyrovae.networks import Gated
        >>> Gated((1, 8, 8), (2, 3), hidden_dims=(32,))(x).shape
        torch.Size([64, 2, 3])
    """

    @within_memory
    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        hidden_dims: Sequence[int] = (256, 256),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_shape, out_shape)
        self.hidden, self.last = self.stack(
            hidden_dims, dropout, lambda n, m: [nn.Linear(n, 2 * m), nn.GLU(dim=-1)]
        )


class Conv(_Network):
    r"""Convolutions between an image and a vector, in either direction.

    With an image ``(C, H, W)`` as ``in_shape`` each stage halves height and width (3x3 kernels,
    stride 2), and an affine map ends it. With an image as ``out_shape``, possibly several per
    output as in ``(2, C, H, W)``, the same stages run backwards: nearest-neighbor upsampling, then
    a convolution. Every output pixel has its own bias.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        channels: number of channels of each stage, from the image inwards.
        activation: one of ``ACTIVATIONS``.

    Raises:
        ValueError: if neither or both shapes are images, or an option is outside its range.

    Example:
        >>> from pyrovae.networks import Conv
        >>> Conv((1, 8, 8), (2, 3), channels=(4, 8))(x).shape
        torch.Size([64, 2, 3])
        >>> Conv((3,), (1, 8, 8), channels=(4, 8))(torch.zeros(5, 3)).shape
        torch.Size([5, 1, 8, 8])
    """

    @within_memory
    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: Sequence[int] = (32, 64),
        activation: Activation = "silu",
    ) -> None:
        super().__init__(in_shape, out_shape)
        channels, nonlinearity = _widths("channels", channels), _activation(activation)
        if len(self.in_shape) == 3 and len(self.out_shape) < 3:
            self.body = self._downwards(channels, nonlinearity)
        elif len(self.in_shape) < 3 <= len(self.out_shape):
            self.body = self._upwards(channels, nonlinearity)
        else:
            raise ValueError(
                "conv maps an image (channels, height, width) to a vector or back, got "
                f"{self.in_shape} to {self.out_shape}; for tables and vectors use mlp"
            )

    def _downwards(self, channels: Shape, nonlinearity: type[nn.Module]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise((self.in_shape[0], *channels)):
            layers += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), nonlinearity()]
        height, width = _stage_sizes(self.in_shape, len(channels))[-1]
        flat = channels[-1] * height * width
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, math.prod(self.out_shape)))

    def _upwards(self, channels: Shape, nonlinearity: type[nn.Module]) -> nn.Sequential:
        image = (math.prod(self.out_shape[:-2]), *self.out_shape[-2:])
        *sizes, smallest = _stage_sizes(image, len(channels))
        narrow = channels[-1] * math.prod(smallest)
        layers: list[nn.Module] = [
            nn.Flatten(),
            nn.Linear(math.prod(self.in_shape), narrow),
            nn.Unflatten(-1, (channels[-1], *smallest)),
            nonlinearity(),
        ]
        stages = list(zip(sizes, pairwise((image[0], *channels)), strict=True))
        for size, (outer, inner) in reversed(stages):
            last = size == sizes[0]
            layers += [nn.Upsample(size=size), nn.Conv2d(inner, outer, 3, padding=1, bias=not last)]
            layers.append(_PixelBias(image) if last else nonlinearity())
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[: x.dim() - len(self.in_shape)]
        rows = self.prepared(x).reshape(-1, *self.in_shape)  # (*batch, ...) -> (rows, ...)
        y: Tensor = self.body(rows)
        return y.reshape(*batch, *self.out_shape)


class _PixelBias(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


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


def _activation(name: Activation) -> type[nn.Module]:
    check_choice("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "residual": Residual,
    "gated": Gated,
    "conv": Conv,
    "linear": Linear,
}
"""Networks by name."""
