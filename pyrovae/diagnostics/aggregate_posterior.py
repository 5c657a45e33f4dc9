r"""The aggregate posterior against the prior: for all data together, and for each class of them.

.. math::
    q_c(z) = \frac{1}{N_c} \sum_{n \in c} q(z \mid x_n), \qquad
    \sum_c \frac{N_c}{N} \mathrm{KL}(q_c(z) \,\|\, p(z))
    = I_q(c; z) + \mathrm{KL}(q(z) \,\|\, p(z))

Data of one class fill a part of the prior, and their own divergence from it is large. All classes
together should fill the whole, and :math:`\mathrm{KL}(q(z) \| p(z))` says how nearly they do. The
difference, in the mean over classes, is what a code tells about the class: :math:`I_q(c; z)`, at
most the entropy of the classes.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.diagnostics.elbo_surgery import AggregateDraws, term_estimate
from pyrovae.diagnostics.two_sample import FEWEST, two_samples

__all__ = ["MOST_CLASSES", "points", "population"]

MOST_CLASSES = 40
"""Labels of more classes than this are not taken for classes."""


def population(draws: AggregateDraws, prior: Tensor, seed: int = 0) -> dict[str, Any]:
    """How the aggregate posterior of all data, and of each class, differs from the prior.

    The two-sample test sees one draw for each datum, so that its draws are independent, and as
    many of the prior.

    Args:
        draws: of :func:`pyrovae.diagnostics.aggregate_draws`.
        prior: as many draws from the prior as there are data ``(N, latent_dim)``.
        seed: of the tests.

    Returns:
        ``groups``, a row for all data and for each class: ``class`` (None for all), ``images``,
        ``marginal_kl``, an estimate for these data with the error of the draws, and ``test``, what
        :func:`pyrovae.diagnostics.two_samples` gives for draws of q(z) and of p(z), None for fewer
        data than it takes;
        ``class_information``, an estimate of :math:`I_q(c; z)`, and ``class_entropy``, the most
        that it can be; both None without labels.
    """
    result = points(draws.z[:, 0], prior, draws.labels, seed)
    everything = draws.log_aggregate - draws.log_prior
    for group in result["groups"]:
        if group["class"] is None:
            group["marginal_kl"] = term_estimate(everything)
        elif draws.log_class is not None:
            members = torch.from_numpy(draws.labels == group["class"])
            group["marginal_kl"] = term_estimate((draws.log_class - draws.log_prior)[members])
    if draws.log_class is not None and draws.labels is not None:
        _, counts = np.unique(draws.labels, return_counts=True)
        shares = counts / counts.sum()
        result["class_information"] = term_estimate(draws.log_class - draws.log_aggregate)
        result["class_entropy"] = float(-(shares * np.log(shares)).sum())
    return result


def points(z: Tensor, prior: Tensor, labels: NDArray[Any] | None, seed: int = 0) -> dict[str, Any]:
    """The same of encodings whose densities are not known: the tests alone.

    Args:
        z: one for each datum ``(N, latent_dim)``.
        prior: as many draws from the prior.
        labels: the class of each datum ``(N,)``, or None.
        seed: of the tests.

    Returns:
        As :func:`population`, with None for what is missing.
    """
    codes, p = z.double().cpu().numpy(), prior.double().cpu().numpy()
    members: dict[int | None, NDArray[Any]] = {None: np.arange(len(codes))}
    if labels is not None and len(np.unique(labels)) <= MOST_CLASSES:
        members |= {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
    groups = [
        {
            "class": label,
            "images": len(rows),
            "marginal_kl": None,
            "test": two_samples(codes[rows], p, seed) if len(rows) >= FEWEST else None,
        }
        for label, rows in members.items()
    ]
    return {"groups": groups, "class_information": None, "class_entropy": None}
