r"""One program as a graph of tensor operations; :mod:`pyrovae.training.staging` describes how."""

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.nn.utils import get_total_norm
from torch.overrides import TorchFunctionMode

from pyrovae._process.compilation import compiled, in_one_line, side_by_side, traced
from pyrovae.distributions import has_missing, missing_values
from pyrovae.objectives import Terms

NORM = 3  # position of the norm among the results of a graph


class NotStagedError(Exception):
    """A program cannot be staged; the message is the reason."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of a graph besides the batch; their values are looked up at each replay.

    Attributes:
        trained, fixed: the parameters, and the tensors of the module that need no gradient.
        scheduled: owner and attribute of each scheduled number.
    """

    trained: dict[str, nn.Parameter]
    fixed: dict[str, Tensor]
    scheduled: Sequence[tuple[Any, str]]

    @classmethod
    def of(cls, objective: ELBO, module: nn.Module) -> "Inputs":
        owners = [owner for owner in (objective, *module.modules()) if hasattr(owner, "at")]
        for owner in owners:
            if not hasattr(owner, "scheduled"):
                raise NotStagedError(
                    f"{type(owner).__name__} has a method at, which changes attributes over "
                    "training; name them in a tuple, scheduled"
                )
        named = dict(module.named_parameters())
        frozen = {name: p for name, p in named.items() if not p.requires_grad}
        return cls(
            trained={name: p for name, p in named.items() if p.requires_grad},
            fixed=frozen | dict(module.named_buffers()),
            scheduled=[(owner, name) for owner in owners for name in owner.scheduled],
        )

    def tensors(
        self, args: Sequence[Tensor], numbers: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """All inputs of the graph, with their current values."""
        if numbers is None:
            numbers = [torch.as_tensor(value).to(args[0]) for value in self.numbers()]
        return [*self.trained.values(), *self.fixed.values(), *numbers, *args]

    def numbers(self) -> list[Any]:
        """The current values of the scheduled numbers."""
        return [getattr(owner, name) for owner, name in self.scheduled]

    @contextlib.contextmanager
    def scheduled_as(self, numbers: Sequence[Tensor]) -> Iterator[None]:
        """Replace the scheduled numbers for the duration of a block."""
        kept = [getattr(owner, name) for owner, name in self.scheduled]
        try:
            for (owner, name), number in zip(self.scheduled, numbers, strict=True):
                setattr(owner, name, number)
            yield
        finally:
            for (owner, name), value in zip(self.scheduled, kept, strict=True):
                setattr(owner, name, value)


class _ItemsAreTensors(TorchFunctionMode):
    """A mode in which ``tensor.item()`` returns the tensor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.item:
            return args[0].detach().double()  # as a Python float is
        return func(*args, **(kwargs or {}))


class Program(nn.Module):
    """Model, guide and objective: as Pyro runs them, and as a function of tensors."""

    def __init__(self, objective: Any, module: nn.Module, model: Any, guide: Any) -> None:
        super().__init__()
        self.module = module
        self.objective, self.model, self.guide = objective, model, guide

    def eagerly(self, args: Sequence[Tensor]) -> "_Outcome":
        """Run as ``SVI.step`` does, without changing the gradients of the parameters."""
        parameters = list(self.module.parameters())
        kept = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            with poutine.trace(param_only=True) as captured:
                loss = self.objective.loss_and_grads(self.model, self.guide, *args)
            gradients = [(p, p.grad) for p in parameters if p.grad is not None]
        finally:
            for parameter, gradient in zip(parameters, kept, strict=True):
                parameter.grad = gradient
        sites = captured.trace.nodes.items()
        named = {name: site["value"].unconstrained() for name, site in sites}
        return _Outcome(torch.as_tensor(loss), gradients, named)

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
class _Outcome:
    """The results of one step: the loss, gradients of the parameters used, and Pyro's names."""

    loss: Tensor
    gradients: Sequence[tuple[nn.Parameter, Tensor]]
    named: dict[str, nn.Parameter]


@dataclass(frozen=True)
class Stage:
    """A graph with its inputs, and the parameters whose gradients it computes.

    Attributes:
        inputs: the inputs of the graph besides the batch.
        graph: returns the loss, its two terms, the norm of the gradient or None, and a gradient for
            each of ``used``.
        used: parameters that have a gradient.
        named: parameters by their names in Pyro's store.
        record: receives the terms; None if they are not recorded.
    """

    inputs: Inputs
    graph: Callable[..., Sequence[Any]]
    used: Sequence[nn.Parameter]
    named: dict[str, nn.Parameter]
    record: Any

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
        if self.record is not None:
            self.record.terms = Terms(reconstruction, kl)
        return loss.item(), norm if alone else None

    @torch.no_grad()
    def replay(
        self, args: Sequence[Tensor], numbers: Sequence[Tensor] | None = None
    ) -> Sequence[Any]:
        """Replay the graph, and store nothing.

        Args:
            args: of the programs.
            numbers: the scheduled numbers, in the dtype of ``args``; by default their current
                values.

        Returns:
            The results of the graph, see above; without a record both terms are the loss.
        """
        return self.graph(*self.inputs.tensors(args, numbers))


def make_stage(
    program: Program, args: Sequence[Tensor], *, compiles: bool, tolerance: float
) -> Stage:
    """Trace a program and verify the graph, and its compiled form, against the program.

    Args:
        program: model, guide and objective.
        args: of the programs.
        compiles: whether to compile the graph.
        tolerance: largest difference, relative to the largest entry.

    Returns:
        The compiled graph; with a warning the graph itself, if it cannot be compiled.

    Raises:
        NotStagedError: if the program cannot be traced, or the graph differs from it.
    """
    inputs = Inputs.of(program.objective, program.module)
    with pyro.validation_enabled():
        first = program.eagerly(args)
    for name, parameter in first.named.items():
        if all(parameter is not p for p in program.module.parameters()):
            raise NotStagedError(f"the parameter {name} is not one of the module")
    used = [p for p, _ in first.gradients]
    try:
        graph = _trace(program, inputs, used, args)
    except Exception as error:
        raise NotStagedError(in_one_line(error)) from error
    record = getattr(program.objective, "record", None)
    stage = Stage(inputs, _without_norm(graph), used, first.named, record)
    _verify(stage, program, args, tolerance)
    if compiles:
        try:
            fast = replace(stage, graph=compiled(graph))
            _verify(fast, program, args, tolerance)
        except Exception as error:
            warnings.warn(f"not compiled: {in_one_line(error)}", stacklevel=6)
        else:
            return fast
    return stage


def _trace(
    program: Program, inputs: Inputs, used: Sequence[nn.Parameter], args: Sequence[Tensor]
) -> GraphModule:
    """Record the operations of the loss, its terms and its gradients as a graph."""
    names = [f"module.{name}" for name in (*inputs.trained, *inputs.fixed)]
    places = [i for i, p in enumerate(inputs.trained.values()) if any(p is q for q in used)]

    def losses(*tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        trained = [p.detach().requires_grad_() for p in islice(rest, len(inputs.trained))]
        fixed = list(islice(rest, len(inputs.fixed)))
        with inputs.scheduled_as(list(islice(rest, len(inputs.scheduled)))):
            weights = dict(zip(names, [*trained, *fixed], strict=True))
            loss, surrogate = functional_call(program, weights, (list(rest),))
        gradients = torch.autograd.grad(surrogate, [trained[i] for i in places])
        record = getattr(program.objective, "record", None)
        terms = Terms(loss, loss) if record is None else record.terms
        return (loss, terms.reconstruction, terms.kl, get_total_norm(gradients), *gradients)

    with missing_values(has_missing(*args)):
        graph = traced(losses, *inputs.tensors(args))
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


def _verify(stage: Stage, program: Program, args: Sequence[Tensor], tolerance: float) -> None:
    """Refuse a graph whose loss or gradients differ from those of the program."""
    names = ["loss", *(f"gradient of shape {tuple(p.shape)}" for p in stage.used)]
    for expected, (loss, _, _, _, *gradients) in side_by_side(program.eagerly, stage.replay, args):
        truths = [expected.loss, *(gradient for _, gradient in expected.gradients)]
        if [id(p) for p, _ in expected.gradients] != [id(p) for p in stage.used]:
            raise NotStagedError("not every run has gradients of the same parameters")
        for name, truth, value in zip(names, truths, [loss, *gradients], strict=True):
            if not _agree(truth, value, tolerance):
                raise NotStagedError(f"a replay gives another {name} than the program")


def _agree(truth: Tensor, value: Tensor, tolerance: float) -> bool:
    size = truth.abs().max().item() if truth.numel() else 0.0
    return torch.allclose(
        truth, value.to(truth), rtol=tolerance, atol=tolerance * size, equal_nan=True
    )
