r"""Columns of different families side by side, as one distribution."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pyro import distributions as dist
from torch import Size, Tensor
from torch.distributions import constraints

from pyrovae.distributions.properties import expanded

__all__ = ["ColumnProduct"]


class _Columns(constraints.Constraint):
    """Each column has a constraint of its own; the check is of single values."""

    def __init__(self, product: "ColumnProduct") -> None:
        self.product = product
        self.is_discrete = all(group.support.is_discrete for group in product.groups)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return self.product.by_group(lambda group, part: group.support.check(part), value)


class ColumnProduct(dist.TorchDistribution):
    r"""Independent columns of different families, put together from groups of one family each.

    .. math:: p(x_d) = p_{g(d)}(x_d), \qquad d = 1, \dots, D

    As a likelihood's elements: the batch shape is ``(*batch, D)``, a value is one number for each
    column, and ``.to_event(1)`` makes it a distribution over rows of a table.

    The mean of a category (a group from ``torch.distributions.Categorical``) is the code of its
    most probable class, since codes cannot be averaged. Its variance is that of its one-hot
    vector, :math:`1 - \sum_k \pi_k^2`: the probability that two draws differ.

    Args:
        groups: the families, each with batch shape ``(*batch, n)`` for its n columns and event
            shape ``()``.
        columns: for each group the positions of its columns, integers ``(n,)``; together they are
            0, ..., D - 1, each once, which is not checked of tensors. Tensors on the device of the
            groups save copies to it.

    Raises:
        ValueError: if a group is not over single numbers, has no batch dimension, or has not as
            many columns as positions, or a position is missing or given twice.

    Example:
        >>> from pyro.distributions import Normal, Poisson
        >>> from pyrovae.distributions import ColumnProduct
        >>> p = ColumnProduct([Normal(torch.zeros(2), 1.0), Poisson(torch.ones(1))], [[0, 2], [1]])
        >>> p.support.check(torch.tensor([0.5, 0.5, 0.5]))
        tensor([ True, False,  True])
        >>> p.log_prob(torch.zeros(3))
        tensor([-0.9189, -1.0000, -0.9189])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        groups: Sequence[dist.TorchDistribution],
        columns: Sequence[Sequence[int] | Tensor],
        *,
        validate_args: bool | None = None,
    ) -> None:
        _check(groups, columns)
        batch = torch.broadcast_shapes(*(group.batch_shape[:-1] for group in groups))
        self.groups = [_expanded(group, batch) for group in groups]
        self.columns = [torch.as_tensor(part) for part in columns]
        together = torch.cat(self.columns)
        self.order = together.argsort()  # of each column, its place among those of all groups
        super().__init__(Size([*batch, len(together)]), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return _Columns(self)

    def by_group(self, of: Callable[[Any, Tensor], Tensor], value: Tensor) -> Tensor:
        """Apply a function of each group and its columns of a value, and put the results together.

        Args:
            of: from a group and ``(*shape, n)`` to a tensor of that shape, or one it broadcasts to.
            value: ``(*shape, D)``.

        Returns:
            ``(*shape, D)``.
        """
        parts = [
            of(group, value.index_select(-1, index.to(value.device)))
            for group, index in zip(self.groups, self.columns, strict=True)
        ]
        return self._joined(parts)

    def expand(self, batch_shape: Size, _instance: Any = None) -> "ColumnProduct":
        batch_shape = Size(batch_shape)
        if batch_shape[-1:] != self.batch_shape[-1:]:
            raise ValueError(
                f"a product of {self.batch_shape[-1]} columns expands to batch shapes that end in "
                f"{self.batch_shape[-1]}, got {tuple(batch_shape)}"
            )
        groups = [_expanded(group, batch_shape[:-1]) for group in self.groups]
        parts = {"groups": groups, "columns": self.columns, "order": self.order}
        return expanded(self, ColumnProduct, _instance, batch_shape, **parts)

    @torch.no_grad()
    def sample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        return self._joined([group.sample(Size(sample_shape)) for group in self.groups])

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self.by_group(lambda group, part: group.log_prob(part), value)

    @property
    def mean(self) -> Tensor:
        return self._joined(
            [
                group.logits.argmax(-1).to(group.logits) if _is_category(group) else group.mean
                for group in self.groups
            ]
        )

    @property
    def variance(self) -> Tensor:
        return self._joined(
            [
                1 - group.probs.square().sum(-1) if _is_category(group) else group.variance
                for group in self.groups
            ]
        )

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Columns of all groups in their places, from those of each group."""
        return torch.cat(list(parts), -1).index_select(-1, self.order.to(parts[0].device))


def _is_category(group: Any) -> bool:
    return isinstance(group, torch.distributions.Categorical)


def _expanded(group: Any, batch: Size) -> Any:
    shape = Size([*batch, group.batch_shape[-1]])
    return group if group.batch_shape == shape else group.expand(shape)


def _check(
    groups: Sequence[dist.TorchDistribution], columns: Sequence[Sequence[int] | Tensor]
) -> None:
    if not groups or len(groups) != len(columns):
        raise ValueError(
            f"a product of columns takes one or more groups and the positions of the columns of "
            f"each, got {len(groups)} groups and {len(columns)} lists of positions"
        )
    for group, count in zip(groups, map(len, columns), strict=True):
        if group.event_shape or not group.batch_shape or group.batch_shape[-1] != count:
            raise ValueError(
                f"a group of {count} columns is a distribution over single numbers with batch "
                f"shape (*batch, {count}), got {type(group).__name__} with batch shape "
                f"{tuple(group.batch_shape)} and event shape {tuple(group.event_shape)}"
            )
    known = [position for part in columns if not isinstance(part, Tensor) for position in part]
    if len(known) == sum(map(len, columns)) and sorted(known) != list(range(len(known))):
        raise ValueError(
            f"the positions of the columns are 0 to {len(known) - 1}, each once, got {known}"
        )
