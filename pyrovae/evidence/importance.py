r"""The importance-weighted bound on log p(x), from draws of q(z | x) or of a fitted proposal."""

from collections.abc import Callable

from pyrovae.estimates import AnyExamples, as_examples
from pyrovae.evidence.lower_bounds import DRAWS, per_example
from pyrovae.evidence.results import NO_BOUND, Evidence, kind
from pyrovae.vae import VAE

__all__ = ["importance_weighted"]


def importance_weighted(
    vae: VAE,
    x: AnyExamples,
    *,
    samples: int | None = None,
    seed: int = 0,
    proposal: str = "posterior",
    compile: str = "auto",
    progress: Callable[[int], None] | None = None,
) -> Evidence:
    """Estimate log p(x) by importance weighting, with diagnostics of the weights.

    Args:
        vae: the model and its posterior; evaluated in eval mode, without dropout and the like.
        x: data ``(examples, *event_shape)``, or as :func:`pyrovae.data.as_split` takes them.
        samples: draws of z for each example: at least 2, or 20 from a proposal that is fitted. None
            for the default, 1,000.
        seed: seed of the draws.
        proposal: what z is drawn from, as for :func:`per_example`.
        compile: as for :func:`per_example`.
        progress: callback, called with the number of examples finished.

    Returns:
        The bound; ``details`` holds the other numbers of
        :class:`pyrovae.evidence.WeightedBounds`.

    Raises:
        ValueError: if ``samples`` is too small, ``proposal`` is unknown, or the proposal is a
            posterior without a density.

    Example:
        >>> found = importance_weighted(vae, x[:4], samples=50)
        >>> found.kind, found.details["ess"].shape
        ('importance-weighted lower bound', torch.Size([4]))
    """
    data = as_examples(x)
    samples = DRAWS if samples is None else samples
    if samples < 2:
        raise ValueError(f"samples must be at least 2, to have an error, got {samples}")
    words = kind(vae, data, samples, proposal)
    if words == NO_BOUND:
        raise ValueError(
            f"{type(vae.posterior).__name__} has no density to weight draws by; use the "
            "proposal mixture, the method ais, or in one and two dimensions quadrature"
        )
    found = per_example(
        vae,
        data,
        samples=samples,
        proposal=proposal,
        seed=seed,
        compile=compile,
        progress=progress,
        scaled=True,
    )
    every = found.arrays()
    value, error = every.pop("log_evidence"), every.pop("standard_error")
    return Evidence(value, error, words, samples, every)
