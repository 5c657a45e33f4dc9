r"""Networks that read something computed from x: x in another unit, without gaps, or one-hot."""

import math
from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from pyrovae.networks.maps import NetworkFactory, Shape

__all__ = ["Divided", "Filled", "TableInput"]

USUAL = 5.0  # standard deviations from the mean within which a number is read as it is


class _Reader(nn.Module):
    """A network of something that is computed from its input.

    A subclass sets ``network`` and defines ``prepared``, from x to what that network reads.
    """

    network: nn.Module

    def prepared(self, x: Tensor) -> Tensor:
        """What the network inside reads in place of x."""
        raise NotImplementedError

    @property
    def input_weight(self) -> Tensor:
        return cast("Tensor", self.network.input_weight)

    @property
    def output_bias(self) -> Tensor:
        return cast("Tensor", self.network.output_bias)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.network(self.prepared(x)))


class Divided(_Reader):
    r"""A network that divides its input by a constant, :math:`h = f(x / c)`.

    A step of Adam moves each weight by about the step size, whatever the unit of x, and thus
    :math:`W x` in proportion to x. With raw levels up to 255, training diverges at step sizes that
    suit binary data, and smaller starting weights do not help. Only the network reads x / c: the
    likelihood remains one of x, so bounds stay comparable.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        network: factory of f.
        divisor: c.

    Raises:
        ValueError: if ``divisor`` is not positive and finite.

    Example:
        >>> from pyrovae.networks import MLP, Divided
        >>> divided = Divided((1, 8, 8), (2,), network=MLP, divisor=255)
        >>> torch.equal(divided(255 * x), divided.network(x))
        True
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

    def prepared(self, x: Tensor) -> Tensor:
        return x / self.divisor


class Filled(_Reader):
    """A network that reads zeros for missing values, and beside them which values are observed.

    A missing value is NaN. The mask, 1 where x is observed and 0 where it is missing, is appended
    along the first axis: an image ``(C, H, W)`` becomes ``(2 * C, H, W)``, a vector ``(D,)``
    becomes ``(2 * D,)``.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        network: factory of the network, called with the doubled shape and ``out_shape``.

    Example:
        >>> from pyrovae.networks import MLP, Filled
        >>> filled = Filled((2,), (3,), network=MLP)
        >>> filled.prepared(torch.tensor([5.0, float("nan")]))
        tensor([5., 0., 1., 0.])
    """

    reads_gaps: ClassVar[bool] = True

    def __init__(self, in_shape: Shape, out_shape: Shape, *, network: NetworkFactory) -> None:
        super().__init__()
        first, *rest = in_shape
        self.dimensions = len(in_shape)
        self.network = network((2 * first, *rest), out_shape)

    def prepared(self, x: Tensor) -> Tensor:
        observed = ~x.isnan()
        values = torch.where(observed, x, torch.zeros_like(x))
        return torch.cat([values, observed.to(x)], -self.dimensions)


class TableInput(_Reader):
    r"""A network that reads the columns of a table: categories one-hot, numbers standardized.

    A category with L levels becomes L numbers, a one at its code and zeros elsewhere. Any other
    column becomes one number :math:`u = (x - m) / s`. Counts and positive numbers are standardized
    like the rest: an affine map needs no choice of an offset for zeros, and the network can bend
    it. Beyond five standard deviations a number is drawn in,

    .. math:: \operatorname{sign}(u) \, (5 + \log(1 + |u| - 5)) \quad \text{where } |u| > 5,

    which is smooth and increasing. So a value far outside the training range, or in a long tail,
    does not take the network far outside of its own.

    A missing value, NaN, becomes zeros: for a number that is its mean. With ``gaps`` the mask is
    appended, for each column 1 where it is observed and 0 where it is missing.

    Args:
        in_shape: shape of one input, ``(D,)``.
        out_shape: shape of one output.
        network: factory of the network, called with the shape of the wider vector and
            ``out_shape``.
        levels: for each column the number of its categories, whose codes are 0, ..., levels - 1; 0
            for a column of numbers.
        loc, scale: mean m and standard deviation s of each column, of which those of categories
            are ignored; a scale of zero counts as one.
        gaps: whether to append the mask.

    Raises:
        ValueError: if x is no vector, or there are not as many ``levels``, ``loc`` or ``scale`` as
            columns.

    Example:
        >>> from pyrovae.networks import MLP, TableInput
        >>> parts = {"levels": (3, 0), "loc": (0.0, 10.0), "scale": (1.0, 2.0)}
        >>> reader = TableInput((2,), (4,), network=MLP, gaps=True, **parts)
        >>> reader.prepared(torch.tensor([[2.0, 12.0], [float("nan"), 10.0]]))
        tensor([[0., 0., 1., 1., 1., 1.],
                [0., 0., 0., 0., 0., 1.]])
    """

    reads_gaps: ClassVar[bool] = True
    loc: Tensor
    scale: Tensor
    column: Tensor
    code: Tensor

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        network: NetworkFactory,
        levels: Sequence[int],
        loc: Sequence[float] | Tensor,
        scale: Sequence[float] | Tensor,
        gaps: bool = False,
    ) -> None:
        super().__init__()
        lengths = {"levels": len(levels), "loc": len(loc), "scale": len(scale)}
        wrong = [f"{count} {name}" for name, count in lengths.items() if count != in_shape[0]]
        if len(in_shape) != 1 or wrong:
            raise ValueError(
                f"a table's encoder reads vectors with levels, loc and scale for each column, got "
                f"x of shape {tuple(in_shape)}" + "".join(f" and {part}" for part in wrong)
            )
        self.gaps = gaps
        kind = torch.get_default_dtype()
        deviation = torch.as_tensor(scale, dtype=kind)
        self.register_buffer("loc", torch.as_tensor(loc, dtype=kind).clone())
        self.register_buffer("scale", torch.where(deviation > 0, deviation, 1.0))
        # of each number that the network reads: its column, and its code where that is a category
        parts = [
            (column, code)
            for column, count in enumerate(levels)
            for code in (range(count) if count else (-1,))
        ]
        for name, values in zip(("column", "code"), zip(*parts, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(values), persistent=False)
        width = len(parts) + (in_shape[0] if gaps else 0)
        self.network = network((width,), out_shape)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set mean and deviation to those of training data ``(batch, D)``; NaN is missing."""
        loc = x.nanmean(0).nan_to_num(0.0)
        deviation = (x - loc).square().nanmean(0).sqrt()
        self.loc.copy_(loc)
        self.scale.copy_(torch.where(deviation > 0, deviation, 1.0))

    def prepared(self, x: Tensor) -> Tensor:
        u = _drawn_in((x - self.loc) / self.scale)
        is_number = self.code < 0
        numbers, codes = (t.index_select(-1, self.column) for t in (u, x))
        read = torch.where(is_number, numbers, (codes == self.code).to(x))
        read = torch.where(read.isnan(), torch.zeros_like(read), read)
        return torch.cat([read, (~x.isnan()).to(x)], -1) if self.gaps else read


def _drawn_in(u: Tensor) -> Tensor:
    """Numbers far from zero brought near, in logarithms; those within ``USUAL`` are the same."""
    largest = torch.finfo(u.dtype).max
    size = u.abs().clamp_max(largest)
    far = u.sign() * (USUAL + torch.log1p((size - USUAL).clamp_min(0)))
    return torch.where(size > USUAL, far, u)
