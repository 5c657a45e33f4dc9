r"""Shares of a batch: what several processes do at one step, each with some of the examples."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.infer import ELBO
from torch import nn

from pyrovae._process import processes
from pyrovae._process.processes import StoppedError, is_first, joined
from pyrovae.objectives import Terms

__all__ = ["StoppedError", "Summed", "check_sum", "is_first", "joined"]


class Summed(ELBO):
    r"""An objective over a batch of which each process holds a share.

    .. math::
        \mathcal{L}(x) = \sum_{r} \mathcal{L}(x_r), \qquad
        \nabla \mathcal{L}(x) = \sum_{r} \nabla \mathcal{L}(x_r)

    for the shares :math:`x_r` of the processes. Every process gets the same sums, so that equal
    parameters stay equal to the bit. Loss, gradients and recorded terms make one exchange, and with
    them go requests: what one process asks for, all of them hear at the same step.

    Args:
        objective: a sum over examples.
        module: holds the parameters; the same in every process.
        record: of the objective's terms, see :func:`pyrovae.objectives.recording`.
        requests: called once a step for what this process asks for.

    Attributes:
        heard: for each request, whether some process made it at the last step.
    """

    def __init__(
        self,
        objective: ELBO,
        module: nn.Module,
        record: Any,
        requests: Callable[[], Sequence[bool]],
    ) -> None:
        super().__init__()
        self.objective, self.record, self.requests = objective, record, requests
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.heard: Sequence[bool] = [False for _ in requests()]

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return self.objective._get_trace(model, guide, args, kwargs)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss of this process's share alone."""
        return float(self.objective.loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss of the batch; its gradients become those of the parameters.

        Args:
            model, guide: the programs.
            args: the share, which may be empty.
            kwargs: of the programs.

        Raises:
            StoppedError: if another process is gone.
        """
        self.record.terms = Terms()
        loss = 0.0
        if len(args[0]):
            loss = float(self.objective.loss_and_grads(model, guide, *args, **kwargs))
        terms = self.record.terms
        asked = [float(request) for request in self.requests()]
        # a parameter that no process used has no gradient; zeros would move it all the same
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
        self.heard = [number > 0 for number in rest[: len(asked)]]
        for p, gradient, uses in zip(self.parameters, gradients, rest[len(asked) :], strict=True):
            p.grad = gradient if uses else None
        return loss


def check_sum(objective: ELBO) -> None:
    """Refuse an objective that is no sum over examples, where there are several processes.

    Args:
        objective: its attribute ``whole_batch`` says so.

    Raises:
        ValueError: if it is none.
    """
    if processes.count() > 1 and getattr(objective, "whole_batch", False):
        raise ValueError(
            f"{type(objective).__name__} depends on a batch as a whole, and {processes.count()} "
            "processes would each see a share of it; train it in one process, or optimise another "
            "objective"
        )
