r"""The reconstruction term of the bound, taken apart by the elements of x."""

import torch
from torch import Tensor

from pyrovae._process.isolation import derived, evaluating, isolated
from pyrovae.distributions import base, missing_values, observed_log_prob
from pyrovae.estimates import AnyExamples, Estimate, as_examples, batches
from pyrovae.vae import VAE

__all__ = ["reconstruction_by_element"]

ROWS = 2_000  # examples times draws that are evaluated together


@torch.no_grad()
def reconstruction_by_element(
    vae: VAE,
    data: AnyExamples,
    *,
    samples: int = 100,
    limit: int | None = None,
    scaled: bool = False,
    seed: int = 0,
) -> list[Estimate]:
    r"""Estimate what each element of x adds to the reconstruction term.

    .. math::
        \mathbb{E}_{q(z \mid x)} \log p(x \mid z)
        = \sum_d \mathbb{E}_{q(z \mid x)} \log p(x_d \mid z)

    A missing value adds nothing.

    Args:
        vae: the model and its posterior; evaluated in eval mode.
        data: the examples, a split or as :func:`pyrovae.data.as_split` takes them.
        samples: draws of z for each example.
        limit: use only the first ``limit`` examples.
        scaled: whether densities are those of the scaled values that the VAE sees, not of the data
            in their own units.
        seed: seed of the draws.

    Returns:
        The mean over examples for each element of x, in the order of the flattened x, with its
        standard error over examples.

    Raises:
        ValueError: if the likelihood is not a product over the elements of x.

    Example:
        >>> from pyrovae.evidence import reconstruction_by_element
        >>> len(reconstruction_by_element(vae, data, samples=10))
        64
    """
    data = as_examples(data)
    slopes = None if scaled else getattr(data, "log_slopes", None)
    parts: list[Tensor] = []
    known = missing_values(getattr(data, "gaps", None))
    size = max(1, ROWS // samples)
    with isolated(), evaluating(vae), known:
        for place, batch in enumerate(batches(data, size, limit)):
            torch.manual_seed(derived(seed, place))
            x = vae.place(batch)
            likelihood = base(vae.likelihood(vae.posterior(x).sample(torch.Size([samples]))))
            if likelihood.event_shape:
                raise ValueError(
                    f"the likelihood {type(vae.likelihood).__name__} is not a product over the "
                    "elements of x, so its terms cannot be told apart"
                )
            each = observed_log_prob(likelihood, x).mean(0).flatten(1).double().cpu()
            if slopes is not None:
                each = each + torch.as_tensor(slopes).flatten() * ~batch.flatten(1).isnan()
            parts.append(each)
    return [Estimate.of(column) for column in torch.cat(parts).unbind(1)]
