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
replay differs, runs as before, with one warning that gives the reason. A graph is for one shape of
the batch, so a smaller last batch of an epoch has its own graph.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.nn.utils import get_total_norm
from torch.overrides import TorchFunctionMode

from pyrovae._process.choices import check_choice
from pyrovae._process.compilation import compiled, in_one_line, side_by_side, traced
from pyrovae._process.interruption import at_once
from pyrovae.distributions import has_missing, missing_values
from pyrovae.objectives import Terms

__all__ = ["MODES", "Staged"]

MODES = ("off", "graph", "inductor")
"""Ways to run a step: as written, as a graph, as a compiled graph."""
NORM = 3  # position of the norm among the results of a graph


class Wrapped(ELBO):
    """An objective that computes gradients in its own way, and all else as another one does."""

    def __init__(self, objective: ELBO) -> None:
        super().__init__(
            num_particles=objective.num_particles,
            max_plate_nesting=objective.max_plate_nesting,
            vectorize_particles=objective.vectorize_particles,
        )
        self.objective = objective

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Compute the loss alone, eagerly."""
        return float(self.objective.loss(model, guide, *args, **kwargs))

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the loss as a differentiable tensor, eagerly."""
        return self.objective.differentiable_loss(model, guide, *args, **kwargs)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return self.objective._get_trace(model, guide, args, kwargs)


class NotStagedError(Exception):
    """A program cannot be staged; the message is the reason."""


class _ItemsAreTensors(TorchFunctionMode):
    """A mode in which ``tensor.item()`` returns the tensor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.item:
            return args[0].detach().double()  # as a Python float is
        return func(*args, **(kwargs or {}))


class Program(nn.Module):
    """Model, guide and objective: as Pyro runs them, and as a function of tensors.

    The inputs of that function besides the batch are looked up at each replay.

    Attributes:
        trained, fixed: the parameters, and the tensors of the module that need no gradient.
        scheduled: owner and attribute of each scheduled number.
        record: receives the terms of the objective; None if they are not recorded.

    Raises:
        NotStagedError: if something is scheduled, and does not name the numbers that change.
    """

    def __init__(self, objective: Any, module: nn.Module, model: Any, guide: Any) -> None:
        super().__init__()
        self.module = module
        self.objective, self.model, self.guide = objective, model, guide
        self.record = getattr(objective, "record", None)
        named = dict(module.named_parameters())
        self.trained = {name: p for name, p in named.items() if p.requires_grad}
        self.fixed: dict[str, Tensor] = {n: p for n, p in named.items() if not p.requires_grad}
        self.fixed |= module.named_buffers()
        self.scheduled: list[tuple[Any, str]] = []
        for owner in (objective, *module.modules()):
            if hasattr(owner, "at"):
                if not hasattr(owner, "scheduled"):
                    raise NotStagedError(
                        f"{type(owner).__name__} has a method at, which changes attributes over "
                        "training; name them in a tuple, scheduled"
                    )
                self.scheduled += [(owner, name) for name in owner.scheduled]

    def tensors(
        self, args: Sequence[Tensor], numbers: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """All inputs of the graph, with their current values.

        Args:
            args: of the programs.
            numbers: the scheduled numbers, in the dtype of ``args``; by default their current
                values.
        """
        if numbers is None:
            numbers = [torch.as_tensor(value).to(args[0]) for value in self.numbers()]
        return [*self.trained.values(), *self.fixed.values(), *numbers, *args]

    def numbers(self) -> list[Any]:
        """The current values of the scheduled numbers."""
        return [getattr(owner, name) for owner, name in self.scheduled]

    def schedule(self, numbers: Sequence[Any]) -> None:
        """Replace the scheduled numbers."""
        for (owner, name), number in zip(self.scheduled, numbers, strict=True):
            setattr(owner, name, number)

    def eagerly(
        self, args: Sequence[Tensor]
    ) -> tuple[Tensor, dict[nn.Parameter, Tensor], dict[str, nn.Parameter]]:
        """Run as ``SVI.step`` does, without changing the gradients of the parameters.

        Returns:
            The loss, the gradients of the parameters used, and all of them by Pyro's names.
        """
        parameters = list(self.module.parameters())
        kept = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            with poutine.trace(param_only=True) as captured:
                loss = self.objective.loss_and_grads(self.model, self.guide, *args)
            gradients = {p: p.grad for p in parameters if p.grad is not None}
        finally:
            for parameter, gradient in zip(parameters, kept, strict=True):
                parameter.grad = gradient
        sites = captured.trace.nodes.items()
        named = {name: site["value"].unconstrained() for name, site in sites}
        return torch.as_tensor(loss), gradients, named

    def forward(self, args: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the loss, and a surrogate with the same gradient as the loss."""
        loss: Any = 0.0
        surrogate: Any = 0.0
        objective = self.objective
        with pyro.get_param_store().scope(), _ItemsAreTensors():
            for traces in objective._get_traces(self.model, self.guide, args, {}):
                value, term = objective._differentiable_loss_particle(*traces)
                loss = loss + value / objective.num_particles
                surrogate = surrogate + term / objective.num_particles
        return loss, surrogate


@dataclass(frozen=True)
class Stage:
    """A program as a graph, and the parameters whose gradients it computes.

    Attributes:
        program: has the inputs of the graph besides the batch.
        graph: returns the loss, its two terms, the norm of the gradient or None, and a gradient for
            each of ``used``.
        used: parameters that have a gradient.
        named: parameters by their names in Pyro's store.
    """

    program: Program
    graph: Callable[..., Sequence[Any]]
    used: Sequence[nn.Parameter]
    named: dict[str, nn.Parameter]

    def __call__(self, args: Sequence[Tensor]) -> tuple[float, Tensor | None]:
        """Replay the graph, and store gradients and terms where the eager program does.

        Returns:
            The loss, and the norm of its gradient; None if the gradient was added to another.
        """
        loss, reconstruction, kl, norm, *gradients = self.replay(args)
        alone = all(parameter.grad is None for parameter in self.used)
        for parameter, gradient in zip(self.used, gradients, strict=True):
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient
        if self.program.record is not None:
            self.program.record.terms = Terms(reconstruction, kl)
        return loss.item(), norm if alone else None

    @torch.no_grad()
    def replay(self, args: Sequence[Tensor]) -> Sequence[Any]:
        """Replay the graph, and store nothing.

        Args:
            args: of the programs.

        Returns:
            The results of the graph, see above; without a record both terms are the loss.
        """
        return self.graph(*self.program.tensors(args))


def _trace(program: Program, used: Sequence[nn.Parameter], args: Sequence[Tensor]) -> GraphModule:
    """Record the operations of the loss, its terms and its gradients as a graph."""
    names = [f"module.{name}" for name in (*program.trained, *program.fixed)]
    places = [i for i, p in enumerate(program.trained.values()) if any(p is q for q in used)]

    def losses(*tensors: Tensor) -> tuple[Tensor, ...]:
        rest, kept = iter(tensors), program.numbers()
        trained = [p.detach().requires_grad_() for p in islice(rest, len(program.trained))]
        weights = dict(zip(names, [*trained, *islice(rest, len(program.fixed))], strict=True))
        program.schedule(list(islice(rest, len(program.scheduled))))
        try:
            loss, surrogate = functional_call(program, weights, (list(rest),))
        finally:
            program.schedule(kept)
        gradients = torch.autograd.grad(surrogate, [trained[i] for i in places])
        terms = Terms(loss, loss) if program.record is None else program.record.terms
        return (loss, terms.reconstruction, terms.kl, get_total_norm(gradients), *gradients)

    with missing_values(has_missing(*args)):
        graph = traced(losses, *program.tensors(args))
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.detach.default:  # of use to autograd alone
            node.replace_all_uses_with(node.args[0])
        if node.target is torch.ops.aten._linalg_check_errors.default and args[0].is_cuda:
            # it makes the host wait; a failure also shows as a gradient that is not finite
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _without_norm(graph: GraphModule) -> GraphModule:
    """The same graph without the norm: only compiled code computes it faster than the caller."""
    graph = copy.deepcopy(graph)
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    values = list(output.args[0])
    values[NORM] = None
    output.args = (tuple(values),)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _verify(stage: Stage, args: Sequence[Tensor], tolerance: float) -> None:
    """Refuse a graph whose loss or gradients differ from those of its program."""
    names = ["loss", *(f"gradient of shape {tuple(p.shape)}" for p in stage.used)]
    runs = side_by_side(stage.program.eagerly, stage.replay, args)
    for (truth, truths, _), (loss, _, _, _, *gradients) in runs:
        if [id(p) for p in truths] != [id(p) for p in stage.used]:
            raise NotStagedError("not every run has gradients of the same parameters")
        expected, given = [truth, *truths.values()], [loss, *gradients]
        for name, right, value in zip(names, expected, given, strict=True):
            atol = tolerance * right.abs().max().item() if right.numel() else 0.0
            if not torch.allclose(right, value.to(right), tolerance, atol, equal_nan=True):
                raise NotStagedError(f"a replay gives another {name} than the program")


class Staged(Wrapped):
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
        super().__init__(objective)
        self.module = module
        self.mode, self.size, self.tolerance = mode, size, tolerance
        self.reason: str | None = None
        self._parameters = list(module.parameters())
        self._stages: dict[Any, Stage] = {}
        self.norm: Tensor | None = None

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
        try:
            if key not in self._stages:
                self._stages[key] = self._staged(model, guide, args, kwargs)
        except NotStagedError as error:
            self._give_up(str(error))
        return self._stages.get(key)

    def _staged(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Stage:
        if kwargs or not args or not all(isinstance(a, Tensor) for a in args):
            raise NotStagedError("the programs take arguments that are not tensors")
        if not hasattr(self.objective, "_differentiable_loss_particle"):
            raise NotStagedError(
                f"{type(self.objective).__name__} has no _differentiable_loss_particle, which "
                "computes a loss from traces"
            )
        program = Program(self.objective, self.module, model, guide)
        buffers = {name: value.clone() for name, value in self.module.named_buffers()}
        gpus = list({a.device for a in args if a.device.type == "cuda"})
        try:
            with at_once(), torch.random.fork_rng(devices=gpus):
                return self._verified(program, args)
        finally:  # such as statistics of batches, which each run updates
            for name, value in self.module.named_buffers():
                value.copy_(buffers[name])

    def _verified(self, program: Program, args: Sequence[Tensor]) -> Stage:
        """Trace a program and verify the graph, and its compiled form, against the program.

        Returns:
            The graph, compiled for batches of the size that is worth it; with a warning the graph
            itself, if it cannot be compiled.

        Raises:
            NotStagedError: if the program cannot be traced, or the graph differs from it.
        """
        with pyro.validation_enabled():
            _, gradients, named = program.eagerly(args)
        for name, parameter in named.items():
            if all(parameter is not p for p in self._parameters):
                raise NotStagedError(f"the parameter {name} is not one of the module")
        used = list(gradients)
        try:
            graph = _trace(program, used, args)
        except Exception as error:
            raise NotStagedError(in_one_line(error)) from error
        stage = Stage(program, _without_norm(graph), used, named)
        _verify(stage, args, self.tolerance)
        if self.mode == "inductor" and self.size in (None, len(args[0])):
            try:
                fast = replace(stage, graph=compiled(graph))
                _verify(fast, args, self.tolerance)
            except Exception as error:
                warnings.warn(f"not compiled: {in_one_line(error)}", stacklevel=6)
            else:
                return fast
        return stage

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
