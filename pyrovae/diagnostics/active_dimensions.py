r"""What the posterior makes of the latent dimensions over a whole dataset."""

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
    r"""How much the encoding of each latent dimension differs from one example to the next.

    .. math:: A_d = \operatorname{Var}_{x} \left( \mathbb{E}_{q(z \mid x)} [z_d] \right)

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519

    Args:
        vae: the model and its posterior; dropout and the like are switched off meanwhile.
        data: one part of a dataset, usually the test set.
        limit: only the first so many examples.
        seed: of draws, for posteriors without a formula for their mean.

    Returns:
        ``(latent_dim,)``, in the unit of z squared.

    Raises:
        ValueError: if there are fewer than two examples, which have no variance.
    """
    number_of_examples(data, limit, at_least=2)
    means = []
    with torch.random.fork_rng(), evaluating(vae):
        torch.manual_seed(seed)
        for x in batches(data, BATCH, limit):
            means.append(moments(vae.posterior(vae.place(x)))[0].cpu())
    return torch.cat(means).double().var(0)


def active_units(vae: VAE, data: Examples, *, limit: int | None = None) -> int:
    """How many latent dimensions have an :func:`activity` above ``ACTIVE``.

    Args:
        vae, data, limit: as for :func:`activity`.
    """
    return int((activity(vae, data, limit=limit) > ACTIVE).sum())
