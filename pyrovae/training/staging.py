r"""Staging: run a Pyro program once, keep the tensor operations that it made, and repeat those.

``SVI`` runs model and guide as Python at every step: handlers, traces, distribution objects, and
inside of all that the few dozen tensor operations which are the loss. For a VAE these operations
are the same at every step; only the numbers differ. So they are written down once and replayed.

1. The first step is run as Pyro runs it, with its validation on. It says which parameters there
   are, and what loss and gradients have to come out.
2. The same call is made again on tensors without numbers. ``make_fx`` writes down each operation,
   those of the backward pass as well, as a graph: a function of the parameters, the buffers, the
   scheduled numbers and the batch, that returns the loss and the gradients. Random draws are
   operations too, so each replay draws anew.
3. The graph is replayed under the seed of the first step, and then under another one with the batch
   in another order. Loss and gradients must be those of the program itself. Otherwise the program
   is not staged.
4. Every later step replays the graph: as the Python code that ``make_fx`` wrote, or compiled by
   inductor.

What can go wrong is that the program does something the graph does not see. A value that was a
plain Python number has become a constant; so numbers that a schedule changes are inputs, named by
the attribute ``scheduled`` of whoever has them. An ``if`` on the value of a tensor has no one
branch, and ``make_fx`` refuses it. ``Tensor.item``, by which an objective turns its loss into a
float, leaves the graph; :class:`_ItemsAreTensors` lets it stay. Whatever is refused, or comes out
different, runs as before, and a warning says why, once.

A graph is for one shape of the batch: the last batch of an epoch, if it is smaller, has a graph of
its own.
"""

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
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import get_total_norm
from torch.overrides import TorchFunctionMode

from pyrovae._process.graphs import compiled, in_one_line
from pyrovae.objectives import Terms

__all__ = ["MODES", "Stage", "Staged"]

MODES = ("off", "graph", "inductor")
"""How steps can be run: as written, as a graph, as a compiled graph."""

NORM = 3  # its place among what a graph returns


class Staged(ELBO):
    """An objective that is run as Pyro runs it once, and replayed as a graph from then on.

    It takes the place of the objective in any ``SVI``, with the same loss and gradients. What
    cannot be staged runs eagerly; ``reason`` then says why.

    Args:
        objective: an ELBO that computes its loss from traces in ``_differentiable_loss_particle``:
            Pyro's ``Trace_ELBO`` and ``TraceMeanField_ELBO``, and all of
            :data:`pyrovae.objectives.OBJECTIVES`.
        module: holds every parameter and buffer that the programs use; they stay the same objects.
        mode: ``"graph"`` replays the graph operation by operation, with results equal to the bit
            on the CPU; ``"inductor"`` compiles it, which takes some seconds at the first step and
            moves results by rounding.
        size: of the batches that are worth compiling for; others replay the graph. None compiles
            for every size.
        tolerance: by which loss and gradients of a replay may differ from the program's, relative
            to the largest entry.

    Attributes:
        reason: why steps run eagerly, if they do.
        norm: of the gradient, where the last step was compiled and found none to add it to: a
            compiler reads the gradient for it while it is at hand.

    Raises:
        ValueError: if ``mode`` is neither.
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
        if mode not in MODES[1:]:
            raise ValueError(f"mode must be one of {', '.join(MODES[1:])}, got {mode!r}")
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
        """The loss alone, run eagerly."""
        return float(self.objective.loss(model, guide, *args, **kwargs))

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss as a tensor that can be differentiated, run eagerly."""
        loss: Tensor = self.objective.differentiable_loss(model, guide, *args, **kwargs)
        return loss

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return self.objective._get_trace(model, guide, args, kwargs)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss; its gradients are added to those of the parameters.

        Args:
            model, guide: the programs.
            args: tensors.
            kwargs: none, or steps run eagerly.
        """
        stage = self.stage(model, guide, args, kwargs)
        if stage is None or not self._announced(stage):
            self.norm = None
            return float(self.objective.loss_and_grads(model, guide, *args, **kwargs))
        loss, self.norm = stage(args)
        return loss

    def stage(self, model: Any, guide: Any, args: Any, kwargs: Any) -> "Stage | None":
        """The graph for arguments of these shapes, made and checked at the first call.

        Args:
            model, guide: the programs.
            args, kwargs: of the programs.

        Returns:
            The graph; None where the program is not staged, of which ``reason`` says why.
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
            except _NotStagedError as error:
                self._give_up(str(error))
                return None
        return self._stages[key]

    def _staged(self, model: Any, guide: Any, args: Any, kwargs: Any) -> "Stage":
        if kwargs or not args or not all(isinstance(a, Tensor) for a in args):
            raise _NotStagedError("the programs take arguments that are no tensors")
        if not hasattr(self.objective, "_differentiable_loss_particle"):
            raise _NotStagedError(
                f"{type(self.objective).__name__} has no _differentiable_loss_particle, by which "
                "a loss is computed from traces"
            )
        program = _Program(self.objective, self.module, model, guide)
        compiles = self.mode == "inductor" and self.size in (None, len(args[0]))
        buffers = {name: value.clone() for name, value in self.module.named_buffers()}
        gpus = list({a.device for a in args if a.device.type == "cuda"})
        try:
            with torch.random.fork_rng(devices=gpus):
                return _stage(program, args, compiles=compiles, tolerance=self.tolerance)
        finally:  # statistics of batches, which each run adds to
            for name, value in self.module.named_buffers():
                value.copy_(buffers[name])

    def _announced(self, stage: "Stage") -> bool:
        """Name the parameters, as ``SVI.step`` finds them in a trace of what is inside of it."""
        if am_i_wrapped():
            for name, parameter in stage.named.items():
                if pyro.param(name, parameter) is not parameter:
                    self._give_up(
                        f"another parameter in Pyro's store is called {name}; clear the store, or "
                        "train in a scope of it"
                    )
                    return False
        return True

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        warnings.warn(f"not staged, so steps run eagerly: {reason}", stacklevel=4)


class _NotStagedError(Exception):
    """Why a program cannot be replayed."""


@dataclass(frozen=True)
class _Inputs:
    """What a graph is a function of, besides the batch: looked up anew for each replay.

    Attributes:
        trained, fixed: parameters, and the tensors of the module that no gradient is wanted of.
        scheduled: owner and attribute of each scheduled number.
    """

    trained: dict[str, nn.Parameter]
    fixed: dict[str, Tensor]
    scheduled: Sequence[tuple[Any, str]]

    @classmethod
    def of(cls, objective: ELBO, module: nn.Module) -> "_Inputs":
        owners = [owner for owner in (objective, *module.modules()) if hasattr(owner, "at")]
        for owner in owners:
            if not hasattr(owner, "scheduled"):
                raise _NotStagedError(
                    f"{type(owner).__name__} changes over training (at) and does not say which of "
                    "its attributes do; name them in a tuple, scheduled"
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
        """Everything a graph is a function of, as it is now."""
        if numbers is None:
            numbers = [torch.as_tensor(value).to(args[0]) for value in self.numbers()]
        return [*self.trained.values(), *self.fixed.values(), *numbers, *args]

    def numbers(self) -> list[Any]:
        """The scheduled numbers, as they are now."""
        return [getattr(owner, name) for owner, name in self.scheduled]

    @contextlib.contextmanager
    def scheduled_as(self, numbers: Sequence[Tensor]) -> Iterator[None]:
        """Put other values in the place of the scheduled numbers for a while."""
        kept = [getattr(owner, name) for owner, name in self.scheduled]
        try:
            for (owner, name), number in zip(self.scheduled, numbers, strict=True):
                setattr(owner, name, number)
            yield
        finally:
            for (owner, name), value in zip(self.scheduled, kept, strict=True):
                setattr(owner, name, value)


class _ItemsAreTensors(TorchFunctionMode):
    """While it is active, ``tensor.item()`` is the tensor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.item:
            return args[0].detach().double()  # as a Python float is
        return func(*args, **(kwargs or {}))


class _Program(nn.Module):
    """Model, guide and objective: as Pyro runs them, and as a function of tensors."""

    def __init__(self, objective: Any, module: nn.Module, model: Any, guide: Any) -> None:
        super().__init__()
        self.module = module
        self.objective, self.model, self.guide = objective, model, guide

    def eagerly(self, args: Sequence[Tensor]) -> "_Outcome":
        """Run as ``SVI.step`` does, and leave the gradients of the parameters as they are."""
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
        """The loss, and a surrogate that has its gradient."""
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
    """What one step computes: the loss, gradients of the parameters used, and Pyro's names."""

    loss: Tensor
    gradients: Sequence[tuple[nn.Parameter, Tensor]]
    named: dict[str, nn.Parameter]


@dataclass(frozen=True)
class Stage:
    """A graph with what it is replayed on, and whose gradients come out of it.

    Attributes:
        inputs: what the graph is a function of.
        graph: gives the loss, its two terms, the norm of the gradient or None, and its parts.
        used: the parameters of these parts.
        named: parameters by their names in Pyro's store.
        record: takes the terms, where they are recorded.
    """

    inputs: _Inputs
    graph: Callable[..., Sequence[Any]]
    used: Sequence[nn.Parameter]
    named: dict[str, nn.Parameter]
    record: Any

    def __call__(self, args: Sequence[Tensor]) -> tuple[float, Tensor | None]:
        """The loss, and the norm of its gradient unless it was added to another.

        Gradients and terms are put where the eager program puts them.
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
        """Loss, its two terms where they are recorded, norm of the gradient or None, its parts.

        There is a part for each of the parameters used.

        Args:
            args: of the programs.
            numbers: the scheduled numbers, of the dtype of ``args``; by default as they are now.
        """
        return self.graph(*self.inputs.tensors(args, numbers))


def _stage(program: _Program, args: Sequence[Tensor], *, compiles: bool, tolerance: float) -> Stage:
    inputs = _Inputs.of(program.objective, program.module)
    with pyro.validation_enabled():
        first = program.eagerly(args)
    for name, parameter in first.named.items():
        if all(parameter is not p for p in program.module.parameters()):
            raise _NotStagedError(f"the parameter {name} is not one of the module")
    used = [p for p, _ in first.gradients]
    try:
        graph = _trace(program, inputs, used, args)
    except Exception as error:
        raise _NotStagedError(in_one_line(error)) from error
    record = getattr(program.objective, "record", None)
    stage = Stage(inputs, _without_norm(graph), used, first.named, record)
    _check(stage, program, args, tolerance)
    if compiles:
        try:
            fast = replace(stage, graph=compiled(graph))
            _check(fast, program, args, tolerance)
        except Exception as error:
            warnings.warn(f"not compiled: {in_one_line(error)}", stacklevel=6)
        else:
            return fast
    return stage


def _trace(
    program: _Program, inputs: _Inputs, used: Sequence[nn.Parameter], args: Sequence[Tensor]
) -> GraphModule:
    """Write down the operations of loss and gradients, from a run on tensors without numbers."""
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

    with pyro.validation_enabled(False):
        trace = make_fx(losses, tracing_mode="fake", _allow_non_fake_inputs=True)
        graph = trace(*inputs.tensors(args))
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.detach.default:  # of use to autograd alone
            node.replace_all_uses_with(node.args[0])
        if node.target is torch.ops.aten._linalg_check_errors.default and args[0].is_cuda:
            graph.graph.erase_node(node)  # the host would wait for it; a gradient of nan tells too
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _without_norm(graph: GraphModule) -> GraphModule:
    """The same graph, whose norm is None: replayed, it takes as long as anywhere else."""
    graph = copy.deepcopy(graph)
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    values = list(output.args[0])
    values[NORM] = None
    output.args = (tuple(values),)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _check(stage: Stage, program: _Program, args: Sequence[Tensor], tolerance: float) -> None:
    """Replay beside the program, with the batch as it is and in another order."""
    for turn in (0, 1):
        data = [a.roll(turn, 0) if a.dim() else a for a in args]
        torch.manual_seed(turn)
        expected = program.eagerly(data)
        torch.manual_seed(turn)
        loss, _, _, _, *gradients = stage.replay(data)
        truths = [expected.loss, *(gradient for _, gradient in expected.gradients)]
        if [id(p) for p, _ in expected.gradients] != [id(p) for p in stage.used]:
            raise _NotStagedError("not every run has gradients of the same parameters")
        names = ["loss", *(f"gradient of shape {tuple(p.shape)}" for p in stage.used)]
        for name, truth, value in zip(names, truths, [loss, *gradients], strict=True):
            if not _agree(truth, value, tolerance):
                raise _NotStagedError(f"a replay gives another {name} than the program")


def _agree(truth: Tensor, value: Tensor, tolerance: float) -> bool:
    size = truth.abs().max().item() if truth.numel() else 0.0
    return torch.allclose(
        truth, value.to(truth), rtol=tolerance, atol=tolerance * size, equal_nan=True
    )
