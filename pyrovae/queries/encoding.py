r"""The codes of a dataset: the moments of q(z | x) for each example."""

from collections.abc import Callable

import torch
from torch import Tensor

from pyrovae._process.isolation import evaluating, isolated
from pyrovae.distributions import moments
from pyrovae.estimates import AnyExamples, as_examples, batches
from pyrovae.vae import VAE

__all__ = ["encodings"]


@torch.no_grad()
def encodings(
    vae: VAE, data: AnyExamples, *, progress: Callable[[int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the mean and standard deviation of q(z | x) for each example, in order.

    Args:
        vae: whose posterior to use; evaluated in eval mode.
        data: the examples, a split or as :func:`pyrovae.data.as_split` takes them.
        progress: callback, called with the number of examples finished.

    Returns:
        Means and standard deviations, each ``(examples, latent_dim)``.

    Example:
        >>> from pyrovae.queries import encodings
        >>> loc, scale = encodings(vae, data)
        >>> loc.shape, bool((scale > 0).all())
        (torch.Size([64, 2]), True)
    """
    loc, scale = [], []
    with isolated(), evaluating(vae):
        torch.manual_seed(0)  # for posteriors whose moments come from draws
        for x in batches(as_examples(data), 1_000):
            mean, variance = moments(vae.posterior(vae.place(x)))
            loc.append(mean)
            scale.append(variance.sqrt())
            if progress is not None:
                progress(len(x))
    return torch.cat(loc), torch.cat(scale)
