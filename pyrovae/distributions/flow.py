r"""Normalizing flows as Pyro distributions, with density and draws.

``pyro.contrib.zuko.ZukoToPyro`` has ``log_prob`` but no ``sample``, which everything outside a Pyro
program needs.
"""

from types import ModuleType
from typing import Any

import torch
from pyro import distributions as dist
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from pyrovae.distributions.properties import expanded

__all__ = ["FlowDistribution", "zuko_flows"]


def zuko_flows() -> ModuleType:
    """The module ``zuko.flows``, imported without side effects.

    Importing zuko turns off torch's validation of distributions for the whole process; this
    function restores the previous setting.

    Example:
        >>> from pyrovae.distributions import zuko_flows
        >>> zuko_flows().MAF(2, transforms=1).__class__.__name__
        'MAF'
    """
    before = Distribution._validate_args
    try:
        from zuko import flows
    finally:
        Distribution.set_default_validate_args(before)
    return flows


class FlowDistribution(dist.TorchDistribution):
    r"""The distribution of z = f(e), where e follows a base distribution.

    .. math:: \log p(z) = \log p_0(e) - \log \left| \det \frac{\partial f}{\partial e} \right|

    One pass through f computes a draw and its log density. The log density of the last draw is kept
    and returned when ``log_prob`` is called with that same tensor, as Pyro does for a draw from the
    guide. For any other value f is inverted.

    References:
        Rezende and Mohamed (2015), Variational Inference with Normalizing Flows, arXiv:1505.05770

    Args:
        base: p_0 with event_dim 1; the flow has the same batch shape.
        transform: f, a zuko transform of vectors. If it depends on a context, the leading
            dimensions of the context are the batch shape of the base.

    Example:
        >>> from pyro.distributions import Normal
        >>> from pyrovae.distributions import FlowDistribution, zuko_flows
        >>> base = Normal(torch.zeros(2), torch.ones(2)).to_event(1)
        >>> FlowDistribution(base, zuko_flows().MAF(2).transform().inv).sample((5,)).shape
        torch.Size([5, 2])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, base: dist.TorchDistribution, transform: Any, validate_args: bool | None = None
    ) -> None:
        self.base, self.transform = base, transform
        self._last: tuple[Tensor, Tensor] | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: Any = None) -> "FlowDistribution":
        parts = {"base": self.base.expand(batch_shape), "transform": self.transform, "_last": None}
        return expanded(self, FlowDistribution, _instance, batch_shape, **parts)

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        e = self.base.rsample(sample_shape)
        z, log_det = self.transform.call_and_ladj(e)
        self._last = z, self.base.log_prob(e) - log_det
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        if self._last is not None and value is self._last[0]:
            log_prob = self._last[1]
            if log_prob.requires_grad or not torch.is_grad_enabled():
                return log_prob
        e, log_det = self.transform.inv.call_and_ladj(value)
        return self.base.log_prob(e) + log_det
