r"""Shares of a batch: a step that several processes make together, each with some examples."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.infer import ELBO
from torch import nn

from pyrovae._process import processes
from pyrovae._process.processes import StoppedError, is_first, joined
from pyrovae.objectives import Terms

__all__ = ["StoppedError", "is_first", "joined"]


class Requests:
    """Requests to stop, which all processes follow at the same step.

    Args:
        own: the requests of this process, as they are now.

    Attributes:
        heard: for each request, whether some process made it at the last step.
    """

    def __init__(self, own: Callable[[], Sequence[bool]]) -> None:
        self.own = own
        self.heard: Sequence[bool] = [False for _ in own()]

    def __call__(self) -> Sequence[bool]:
        """The requests to follow: those of a single process, or those heard at the last step."""
        return self.own() if processes.count() == 1 else self.heard


class Summed(ELBO):
    r"""An objective over a batch that several processes share.

    .. math::
        \mathcal{L}(x) = \sum_{r} \mathcal{L}(x_r), \qquad
        \nabla \mathcal{L}(x) = \sum_{r} \nabla \mathcal{L}(x_r)

    for the shares :math:`x_r` of the processes. Every process gets the same sums, so equal
    parameters stay equal to the bit. Loss, gradients, recorded terms and requests travel together,
    in one exchange per step.

    Args:
        objective: a sum over examples.
        module: holds the parameters; the same in every process.
        record: of the objective's terms, see :func:`pyrovae.objectives.recording`.
        requests: of this process; takes up those of all processes.
    """

    def __init__(self, objective: ELBO, module: nn.Module, record: Any, requests: Requests) -> None:
        super().__init__()
        self.objective, self.record, self.requests = objective, record, requests
        self.parameters = [p for p in module.parameters() if p.requires_grad]

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return self.objective._get_trace(model, guide, args, kwargs)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Compute the loss of this process's share alone."""
        return float(self.objective.loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Compute the loss of the batch, and set the gradients of the parameters to its gradients.

        Args:
            model, guide: the programs.
            args: the share, which may be empty.
            kwargs: of the programs.

        Raises:
            StoppedError: if another process has ended.
        """
        self.record.terms = Terms()
        loss = 0.0
        if len(args[0]):
            loss = float(self.objective.loss_and_grads(model, guide, *args, **kwargs))
        terms = self.record.terms
        asked = [float(request) for request in self.requests.own()]
        # a parameter that no process used has no gradient; Adam would move it by zeros as well
        used = [float(p.grad is not None) for p in self.parameters]
        numbers = torch.tensor(
            [loss, float(terms.reconstruction), float(terms.kl), *asked, *used],
            dtype=self.parameters[0].dtype,
            device=self.parameters[0].device,
        )
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        *gradients, numbers = processes.summed([*gradients, numbers])
        loss, reconstruction, kl, *rest = numbers.tolist()
        self.record.terms = Terms(reconstruction, kl)
        self.requests.heard = [number > 0 for number in rest[: len(asked)]]
        for p, gradient, uses in zip(self.parameters, gradients, rest[len(asked) :], strict=True):
            p.grad = gradient if uses else None
        return loss


def check_sum(objective: ELBO) -> None:
    """Refuse an objective that is not a sum over examples, if there are several processes.

    Args:
        objective: its attribute ``whole_batch`` is true if it depends on a batch as a whole.

    Raises:
        ValueError: if it does.
    """
    if processes.count() > 1 and getattr(objective, "whole_batch", False):
        raise ValueError(
            f"{type(objective).__name__} depends on a batch as a whole, and {processes.count()} "
            "processes would each see a share of it; train it in one process, or optimize another "
            "objective"
        )
