r"""How much of a dataset the posterior puts into each latent dimension."""

import torch
from torch import Tensor

from pyrovae._process.isolation import evaluating
from pyrovae.distributions import moments
from pyrovae.estimates import Examples, batches, number_of_examples
from pyrovae.vae import VAE

__all__ = ["ACTIVE", "active_units", "activity"]

ACTIVE = 0.01
"""The activity above which Burda, Grosse and Salakhutdinov (2016) count a dimension as active."""

BATCH = 100  # examples at a time


@torch.no_grad()
def activity(vae: VAE, data: Examples, *, limit: int | None = None, seed: int = 0) -> Tensor:
    r"""Measure how much the code varies between examples in each latent dimension.

    .. math:: A_d = \operatorname{Var}_{x} \left( \mathbb{E}_{q(z \mid x)} [z_d] \right)

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519

    Args:
        vae: the model and its posterior; evaluated in eval mode, without dropout.
        data: one part of a dataset, usually the test set.
        limit: use only the first ``limit`` examples.
        seed: seed of the draws, for posteriors whose mean has no formula.

    Returns:
        ``(latent_dim,)``, in units of z squared.

    Raises:
        ValueError: if there are fewer than two examples, too few for a variance.

    Example:
        >>> from pyrovae.diagnostics import activity
        >>> activity(vae, data).shape
        torch.Size([2])
    """
    number_of_examples(data, limit, at_least=2)
    means = []
    with torch.random.fork_rng(), evaluating(vae):
        torch.manual_seed(seed)
        for x in batches(data, BATCH, limit):
            means.append(moments(vae.posterior(vae.place(x)))[0].cpu())
    return torch.cat(means).double().var(0)


def active_units(vae: VAE, data: Examples, *, limit: int | None = None) -> int:
    """Count the latent dimensions whose :func:`activity` is above ``ACTIVE``.

    Args:
        vae, data, limit: as for :func:`activity`.

    Example:
        >>> from pyrovae.diagnostics import active_units
        >>> active_units(vae, data) <= 2
        True
    """
    return int((activity(vae, data, limit=limit) > ACTIVE).sum())
