r"""Staging: run a Pyro program once, record the tensor operations it made, and replay them.

``SVI`` runs model and guide as Python at every step: handlers, traces, distribution objects, and
inside them the few dozen tensor operations that compute the loss. For a VAE these operations are
the same at every step; only the numbers differ. They can therefore be recorded once and replayed.

1. The program runs as Pyro runs it, with validation. This gives the parameters, and the loss and
   gradients to expect.
2. It runs again on tensors without values. ``make_fx`` records every operation, including those of
   the backward pass, as a graph: a function of the parameters, the buffers, the scheduled numbers
   and the batch, which returns the loss and the gradients. Random draws are operations too, so each
   replay draws anew.
3. Program and graph run side by side under two seeds, the second time with the batch in another
   order. Loss and gradients must agree. Otherwise the program is not staged.
4. Every later step replays the graph, either as the Python code that ``make_fx`` wrote or compiled
   by inductor.

A program may do something that the graph does not record. A plain Python number becomes a constant
of the graph; numbers that a schedule changes are therefore inputs, named in the attribute
``scheduled`` of the object that has them. An ``if`` on the value of a tensor has no single branch,
and ``make_fx`` refuses it. ``Tensor.item``, with which an objective turns its loss into a float,
would leave the graph; a mode of torch keeps it inside. A program that cannot be recorded, or whose
replay differs, runs as before, with one warning that gives the reason.

A graph is for one shape of the batch, so a smaller last batch of an epoch has its own graph.
"""

import warnings
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn

from pyrovae._process.choices import check_choice
from pyrovae.training.stage_graph import NotStagedError, Program, Stage, make_stage

__all__ = ["MODES", "Staged"]

MODES = ("off", "graph", "inductor")
"""Ways to run a step: as written, as a graph, as a compiled graph."""


class Staged(ELBO):
    """An objective that Pyro runs once, and that is replayed as a graph from then on.

    It replaces the objective in any ``SVI``, with the same loss and gradients. A program that
    cannot be staged runs eagerly, and ``reason`` holds the reason.

    Args:
        objective: an ELBO that computes its loss from traces in ``_differentiable_loss_particle``:
            Pyro's ``Trace_ELBO`` and ``TraceMeanField_ELBO``, and all of
            :data:`pyrovae.objectives.OBJECTIVES`.
        module: holds every parameter and buffer that the programs use; they must stay the same
            objects.
        mode: ``"graph"`` replays the graph operation by operation, with results equal to the bit
            on the CPU; ``"inductor"`` compiles it, which takes some seconds at the first step and
            changes results by rounding.
        size: size of the batches that are worth compiling for; others replay the graph. None
            compiles for every size.
        tolerance: largest difference between the loss and gradients of a replay and those of the
            program, relative to the largest entry.

    Attributes:
        reason: why steps run eagerly; None if they do not.
        norm: norm of the gradient, if the last step was compiled and its gradient was not added to
            another one. Compiled code computes it while the gradient is still in the cache.

    Raises:
        ValueError: for another ``mode``.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> from pyrovae.training import Staged
        >>> staged = Staged(Trace_ELBO(), vae)
        >>> loss = staged.loss_and_grads(vae.model, vae.guide, x)
        >>> staged.reason is None
        True
    """

    def __init__(
        self,
        objective: ELBO,
        module: nn.Module,
        *,
        mode: str = "graph",
        size: int | None = None,
        tolerance: float = 1e-4,
    ) -> None:
        check_choice("mode", mode, MODES[1:])
        super().__init__(
            num_particles=objective.num_particles,
            max_plate_nesting=objective.max_plate_nesting,
            vectorize_particles=objective.vectorize_particles,
        )
        self.objective = objective
        self.module = module
        self.mode, self.size, self.tolerance = mode, size, tolerance
        self.reason: str | None = None
        self._parameters = list(module.parameters())
        self._stages: dict[Any, Stage] = {}
        self.norm: Tensor | None = None

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Compute the loss alone, eagerly."""
        return float(self.objective.loss(model, guide, *args, **kwargs))

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the loss as a differentiable tensor, eagerly."""
        loss: Tensor = self.objective.differentiable_loss(model, guide, *args, **kwargs)
        return loss

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return self.objective._get_trace(model, guide, args, kwargs)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Compute the loss, and add its gradients to those of the parameters.

        Args:
            model, guide: the programs.
            args: tensors.
            kwargs: must be empty for a replay; otherwise steps run eagerly.
        """
        stage = self.stage(model, guide, args, kwargs)
        if stage is None or not self._announced(stage):
            self.norm = None
            return float(self.objective.loss_and_grads(model, guide, *args, **kwargs))
        loss, self.norm = stage(args)
        return loss

    def stage(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Stage | None:
        """The graph for arguments of these shapes, made and verified at the first call.

        Args:
            model, guide: the programs.
            args, kwargs: of the programs.

        Returns:
            The graph; None if the program is not staged, for the reason in ``reason``.
        """
        if self.reason is not None:
            return None
        key = (
            model,
            guide,
            self.module.training,
            *(p.requires_grad for p in self._parameters),
            *((a.shape, a.dtype, a.device) for a in args if isinstance(a, Tensor)),
        )
        if key not in self._stages:
            try:
                self._stages[key] = self._staged(model, guide, args, kwargs)
            except NotStagedError as error:
                self._give_up(str(error))
                return None
        return self._stages[key]

    def _staged(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Stage:
        if kwargs or not args or not all(isinstance(a, Tensor) for a in args):
            raise NotStagedError("the programs take arguments that are not tensors")
        if not hasattr(self.objective, "_differentiable_loss_particle"):
            raise NotStagedError(
                f"{type(self.objective).__name__} has no _differentiable_loss_particle, which "
                "computes a loss from traces"
            )
        program = Program(self.objective, self.module, model, guide)
        compiles = self.mode == "inductor" and self.size in (None, len(args[0]))
        buffers = {name: value.clone() for name, value in self.module.named_buffers()}
        gpus = list({a.device for a in args if a.device.type == "cuda"})
        try:
            with torch.random.fork_rng(devices=gpus):
                return make_stage(program, args, compiles=compiles, tolerance=self.tolerance)
        finally:  # such as statistics of batches, which each run updates
            for name, value in self.module.named_buffers():
                value.copy_(buffers[name])

    def _announced(self, stage: Stage) -> bool:
        """Name the parameters, so that ``SVI.step`` finds them in its trace."""
        if am_i_wrapped():
            for name, parameter in stage.named.items():
                if pyro.param(name, parameter) is not parameter:
                    self._give_up(
                        f"another parameter in Pyro's store is called {name}; clear the store, or "
                        "train in a scope of the store"
                    )
                    return False
        return True

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        warnings.warn(f"not staged, so steps run eagerly: {reason}", stacklevel=4)
