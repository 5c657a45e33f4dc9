r"""Every way to know log p(x), by name, for a batch of data.

Each is called ``method(vae, x, samples=..., seed=..., advance=...)``, with options of its own, and
returns :class:`pyrovae.evidence.Evidence`. ``samples=None`` is what each takes by itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from pyrovae.annealing import CHAINS, annealed
from pyrovae.evidence import NO_BOUND, Estimate, Evidence, kind, per_example
from pyrovae.exact import exact
from pyrovae.integration import integrated
from pyrovae.vae import VAE

__all__ = ["CHAINS", "DRAWS", "METHODS", "importance_weighted", "summary"]

DRAWS = 1_000
"""Of z for each example, where no number is given."""


@dataclass(frozen=True)
class _Batches:
    x: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int) -> Iterator[Tensor]:
        return iter(self.x.split(size))


def importance_weighted(
    vae: VAE,
    x: Tensor,
    *,
    samples: int | None = None,
    seed: int = 0,
    compile: str = "auto",
    advance: Callable[[int], None] | None = None,
) -> Evidence:
    """The importance-weighted bound, with what its weights say of it.

    Args:
        vae: the model and its posterior; dropout and the like are switched off meanwhile.
        x: data ``(examples, *event_shape)``.
        samples: draws of z for each example, at least 2; None for ``DRAWS``.
        seed, compile, advance: as for :func:`pyrovae.evaluate`.

    Returns:
        The bound; ``details`` has all else that :class:`pyrovae.evidence.WeightedBounds` has.

    Raises:
        ValueError: if ``samples`` is below 2, or the posterior is a point.
    """
    samples = DRAWS if samples is None else samples
    if samples < 2:
        raise ValueError(f"samples must be at least 2, to have an error, got {samples}")
    data = _Batches(x)
    words = kind(vae, data, samples)
    if words == NO_BOUND:
        raise ValueError(
            f"{type(vae.posterior).__name__} has no density to weigh draws by; use the method ais, "
            "or in one and two dimensions quadrature"
        )
    every = vars(
        per_example(vae, data, samples=samples, seed=seed, compile=compile, advance=advance)
    )
    value, error = every.pop("log_evidence"), every.pop("standard_error")
    return Evidence(value, error, words, samples, every)


def summary(evidence: Evidence) -> dict[str, Any]:
    """The mean over examples, with its errors.

    Args:
        evidence: of a dataset.

    Returns:
        ``estimate``; ``standard_error`` over examples, None for a single one, which counts both
        that there might have been others and that each was sampled; ``sampling_error``, the part
        of it that comes from sampling, or integration, alone; ``samples`` and ``kind``.
    """
    mean = asdict(Estimate.of(evidence.log_evidence))
    error = evidence.standard_error.norm().item() / len(evidence.standard_error)
    return mean | {
        "sampling_error": error,
        "samples": evidence.samples,
        "kind": evidence.kind,
    }


METHODS: dict[str, Callable[..., Evidence]] = {
    "iw": importance_weighted,
    "ais": annealed,
    "quadrature": integrated,
    "exact": exact,
}
