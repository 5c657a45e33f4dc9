r"""One fused optimizer over all parameters, for Pyro's ``SVI``, and their moving average."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pyrovae._process.choices import check_choice

__all__ = ["SCHEDULES", "FusedAdam", "MovingAverage", "NonFiniteGradientError"]


FLUSH_STEPS = 100
FLUSHED = 1e-33  # larger moments are still above 1e-38 after FLUSH_STEPS with a decay of 0.9


class NonFiniteGradientError(ArithmeticError):
    """The gradient has an infinite or undefined entry; no parameter was changed.

    Example:
        >>> from pyrovae.training import NonFiniteGradientError
        >>> issubclass(NonFiniteGradientError, ArithmeticError)
        True
    """


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def _constant(progress: float) -> float:
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {"cosine": _cosine, "constant": _constant}
"""Step size after the warm-up, relative to the largest, as a function of the fraction of these
steps that is done. A new schedule is one more entry."""


def check_optimizer_options(
    learning_rate: float, warmup: float, schedule: str, weight_decay: float, clip_norm: float | None
) -> None:
    """Check the options of :class:`FusedAdam`.

    Raises:
        ValueError: if one is outside its range.
    """
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {learning_rate}")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup is a fraction of all steps, 0 <= warmup < 1, got {warmup}")
    if weight_decay < 0:
        raise ValueError(f"weight_decay must not be negative, got {weight_decay}")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm must be positive, or None for no clipping; got {clip_norm}")
    check_choice("schedule", schedule, SCHEDULES)


class FusedAdam(PyroOptim):
    r"""Adam with decoupled weight decay, warm-up, a schedule and gradient clipping.

    Pyro keeps an optimizer for each parameter, since parameters may appear while a program runs. A
    VAE has all of them from the start, so one fused update is enough. Weight decay acts on
    matrices, not on biases and scales.

    References:
        Kingma and Ba (2015), Adam, arXiv:1412.6980;
        Loshchilov and Hutter (2019), Decoupled Weight Decay Regularization, arXiv:1711.05101

    Args:
        parameters: all parameters to train, always in the same order.
        learning_rate: largest step size, reached at the end of the warm-up.
        total_steps: number of steps over which the schedule runs.
        warmup: fraction of ``total_steps`` in which the step size rises linearly from zero.
        schedule: of the step size after the warm-up, one of ``SCHEDULES``.
        weight_decay: decoupled decay per unit of step size.
        clip_norm: largest norm of the gradient of the loss per example; None for no clipping.

    Raises:
        ValueError: if an option is outside its range.

    Example:
        >>> from pyro.infer import SVI, Trace_ELBO
        >>> from pyrovae.training import FusedAdam
        >>> optimizer = FusedAdam(vae.parameters(), learning_rate=0.01, total_steps=100)
        >>> loss = SVI(vae.model, vae.guide, optimizer, Trace_ELBO()).step(x)
        >>> optimizer.steps
        1
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        learning_rate: float,
        total_steps: int,
        warmup: float = 0.0,
        schedule: str = "cosine",
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(torch.optim.AdamW, {})
        check_optimizer_options(learning_rate, warmup, schedule, weight_decay, clip_norm)
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.warmup_steps = warmup * total_steps
        self.schedule = SCHEDULES[schedule]
        self.clip_norm = clip_norm
        self.steps = 0
        self.examples = 1  # in the batch whose gradient comes next
        self._spent: list[Tensor | None] = []
        decayed = [p for p in self.parameters if p.dim() > 1 and weight_decay]
        others = [p for p in self.parameters if p.dim() <= 1 or not weight_decay]
        decays = ((decayed, weight_decay), (others, 0.0))
        # no empty group, since an update of each takes time
        groups = [{"params": part, "weight_decay": decay} for part, decay in decays if part]
        capturable = all(p.is_cuda for p in self.parameters)
        self.adam = torch.optim.AdamW(groups, lr=learning_rate, fused=True, capturable=capturable)

    def __call__(
        self, params: Iterable[Tensor], *args: object, norm: Tensor | None = None, **kwargs: object
    ) -> None:
        """Update the parameters by their gradients; called by ``SVI.step``.

        Args:
            params: the parameters that the programs used.
            norm: of the whole gradient; None computes it.

        Raises:
            ValueError: if one of ``params`` is not among those given to the constructor.
            NonFiniteGradientError: if the gradient is not finite; nothing was changed.
        """
        strangers = () if params is self.parameters else set(params) - set(self.parameters)
        if strangers:
            shapes = ", ".join(str(tuple(p.shape)) for p in strangers)
            raise ValueError(
                f"the programs use parameters of shape {shapes} that the VAE does not own; "
                "make them nn.Parameter attributes of the prior, likelihood or posterior "
                "instead of pyro.param"
            )
        if norm is None:
            norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        length = norm.item()
        if not math.isfinite(length):
            raise NonFiniteGradientError("the gradient is not finite")
        if self.clip_norm is not None and length > self.clip_norm * self.examples:
            clip_grads_with_norm_(self.parameters, self.clip_norm * self.examples, norm)
        for group in self.adam.param_groups:
            group["lr"] = self.current_learning_rate()
        self.adam.step()
        if self.steps % FLUSH_STEPS == 0:
            self._flush()
        self._spent = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:  # SVI would fill them with zeros, to be added to
            parameter.grad = None
        self.steps += 1

    def release(self) -> None:
        """Free the gradients of the last step, just before the next step computes its own.

        Between steps, gradients are nearly everything that lies in memory above the weights. If
        they were freed earlier, the allocator would return that memory to the system, and the next
        step would fetch it again page by page. In a VAE of 784-512-512-32 that took a tenth of the
        time of a step.
        """
        self._spent = []

    def update_on_device(self, norm: Tensor, rate: Tensor, failed: Tensor) -> None:
        """The same update, without synchronizing with the host.

        It may therefore be part of a CUDA graph. The caller counts ``steps``, and writes
        ``current_learning_rate()`` to ``rate``.

        Args:
            norm: of the whole gradient, as the parameters hold it.
            rate: step size, a float32 without dimensions, on the device of the parameters.
            failed: as ``rate``; if it is 1, nothing changes.
        """
        if self.clip_norm is not None:
            clip_grads_with_norm_(self.parameters, self.clip_norm * self.examples, norm)
        for group in self.adam.param_groups:
            group["lr"] = rate
        adam: Any = self.adam
        adam.found_inf = failed  # the attribute that a gradient scaler sets
        adam.step()
        del adam.found_inf
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def _flush(self) -> None:
        """Set moments to zero before they become subnormal, which would slow down the processor.

        If the gradient of a weight stays zero, as behind a ReLU that is never active, its moments
        halve every few steps. Processors take many times longer to multiply numbers below the
        smallest normal one, about 1e-38. Setting them to zero moves no weight by more than 1e-25 of
        the step size.
        """
        for moments in self.adam.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                torch.hardshrink(moments[name], FLUSHED, out=moments[name])

    def current_learning_rate(self) -> float:
        """The size of the next step."""
        if self.steps < self.warmup_steps:
            return self.learning_rate * (self.steps + 1) / (self.warmup_steps + 1)
        rest = max(self.total_steps - self.warmup_steps, 1)
        return self.learning_rate * self.schedule((self.steps - self.warmup_steps) / rest)

    def get_state(self) -> dict[str, Tensor]:
        """The optimizer's state as named tensors, from which training resumes to the bit."""
        state = {"steps": torch.tensor(self.steps)}
        for index, moments in self.adam.state_dict()["state"].items():
            state |= {f"{index}.{name}": value for name, value in moments.items()}
        return state

    def set_state(self, state_dict: Mapping[str, Tensor]) -> None:
        """Resume from a state that :meth:`get_state` returned."""
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state_dict.items():
            if key != "steps":
                index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
        self.steps = int(state_dict["steps"])
        self.adam.load_state_dict(
            {"state": moments, "param_groups": self.adam.state_dict()["param_groups"]}
        )


class MovingAverage(nn.Module):
    r"""An exponential moving average of a module's parameters, with less smoothing at first.

    .. math::
        \bar\theta_n = d_n \, \bar\theta_{n-1} + (1 - d_n) \, \theta_n, \qquad
        d_n = \min\left(d, \frac{1 + n}{10 + n}\right)

    References:
        Polyak and Juditsky (1992), Acceleration of Stochastic Approximation by Averaging, SIAM
        Journal on Control and Optimization 30

    Args:
        module: whose parameters are averaged; they must remain the same objects.
        decay: :math:`d`.

    Attributes:
        module: a copy of the module with the averages, and with the latest buffers.

    Example:
        >>> from pyrovae.training import MovingAverage
        >>> average = MovingAverage(torch.nn.Linear(2, 1), decay=0.99)
        >>> average.update()
        >>> round(average.current_decay(), 3)  # of the second update: 2 / 11
        0.182
    """

    n_averaged: Tensor

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(module)
        self.decay = decay
        self.register_buffer("n_averaged", torch.tensor(0))
        # collected once: going through all modules takes as long as the update
        self._parameters_of = [list(m.parameters()) for m in (self.module, module)]
        self._buffers_of = [list(m.buffers()) for m in (self.module, module)]

    @torch.no_grad()
    def update(self) -> None:
        """Include the current parameters of the module in the average."""
        averages, latest = self._parameters_of
        decay = self.current_decay() if self.n_averaged else 0.0  # the first update copies
        get_ema_multi_avg_fn(decay)(averages, latest, self.n_averaged)
        for copied, buffer in zip(*self._buffers_of, strict=True):
            copied.copy_(buffer)
        self.n_averaged += 1

    def current_decay(self) -> float:
        """The decay of the next update, unless it is the first one."""
        n = int(self.n_averaged)
        return min(self.decay, (1 + n) / (10 + n))

    @torch.no_grad()
    def update_on_device(self, weight: Tensor) -> None:
        """The same update, without synchronizing with the host.

        The caller counts ``n_averaged``, and makes the first update by :meth:`update`.

        Args:
            weight: weight of the latest values, ``1 - current_decay()``; without dimensions, on
                their device.
        """
        averages, latest = self._parameters_of
        for average, value in zip(averages, latest, strict=True):
            average.lerp_(value, weight)
        for copied, buffer in zip(*self._buffers_of, strict=True):
            copied.copy_(buffer)
