r"""Normalising flows as Pyro distributions, with density and draws.

``pyro.contrib.zuko.ZukoToPyro`` can be scored and called but has no ``sample``, which everything
outside of a Pyro program needs.
"""

from types import ModuleType
from typing import Any

import torch
from pyro import distributions as dist
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

__all__ = ["FlowDistribution", "zuko_flows"]


def zuko_flows() -> ModuleType:
    """The module ``zuko.flows``.

    zuko turns off torch's validation of distributions for the whole process when it is imported;
    here that is as before afterwards.
    """
    before = Distribution._validate_args
    try:
        from zuko import flows
    finally:
        Distribution.set_default_validate_args(before)
    return flows


class FlowDistribution(dist.TorchDistribution):
    r"""The distribution of z = f(e), with e from a base distribution.

    .. math:: \log p(z) = \log p_0(e) - \log \left| \det \frac{\partial f}{\partial e} \right|

    A draw comes with its log density, from one pass through f. The last draw's is kept, and
    returned when that very tensor is scored, as Pyro does with a draw of the guide: no inversion.
    Any other value is scored by inverting f.

    References:
        Rezende and Mohamed (2015), Variational Inference with Normalizing Flows, arXiv:1505.05770

    Args:
        base: p_0, of event_dim 1; its batch shape is that of the flow.
        transform: f, a transform over vectors from zuko. If it depends on a context, the context's
            leading dimensions are those of the base.
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
        new = self._get_checked_instance(FlowDistribution, _instance)
        new.base, new.transform = self.base.expand(batch_shape), self.transform
        new._last = None
        dist.TorchDistribution.__init__(
            new, new.base.batch_shape, self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

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
