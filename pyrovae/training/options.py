"""The options of a training run, and the choice of how its steps are run."""

from dataclasses import dataclass

from torch import nn

from pyrovae._process.choices import check_choice
from pyrovae._process.compilation import has_compiler
from pyrovae.training.optim import check_optimizer_options
from pyrovae.training.precision import PRECISIONS
from pyrovae.training.staging import MODES

STAGED_STEPS = 1_500  # staging takes a second or two, and a replay saves about a millisecond
COMPILED_PRODUCTS = 10**13  # multiply-adds: minutes of work, which repay a compilation


@dataclass(frozen=True)
class TrainingOptions:
    """The options of :func:`pyrovae.training.fit` that a resumed run must repeat; checked here.

    Raises:
        ValueError: if an option is outside its range.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float
    schedule: str
    weight_decay: float
    clip_norm: float | None
    averaging: float
    validate_every: int
    patience: int | None
    compile: str
    precision: str
    seed: int

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validate_every", "patience"):
            value = getattr(self, name)
            if value is None and name == "patience":
                continue
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging must be at least 0 and below 1, got {self.averaging}")
        check_choice("compile", self.compile, ("auto", *MODES))
        check_choice("precision", self.precision, PRECISIONS)
        if self.compile == "inductor" and not has_compiler():
            raise ValueError("compile is inductor, and there is no C++ compiler; use graph or auto")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        check_optimizer_options(
            self.learning_rate, self.warmup, self.schedule, self.weight_decay, self.clip_norm
        )


def worthwhile_mode(options: TrainingOptions, module: nn.Module, steps: int) -> str:
    """Choose the way to run steps that repays the time it takes to prepare.

    The choice depends on sizes alone, not on timings, so the same run always takes the same way.

    Args:
        options: of the run.
        module: the VAE.
        steps: number of steps in all epochs.

    Returns:
        One of :data:`pyrovae.training.MODES`.
    """
    products = 6 * steps * options.batch_size * sum(p.numel() for p in module.parameters())
    if products >= COMPILED_PRODUCTS and has_compiler():
        return "inductor"
    return "graph" if steps >= STAGED_STEPS else "off"
