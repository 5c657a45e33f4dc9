r"""The aggregate posterior against the prior: for all examples together, and for each class.

.. math::
    q_c(z) = \frac{1}{N_c} \sum_{n \in c} q(z \mid x_n), \qquad
    \sum_c \frac{N_c}{N} \mathrm{KL}(q_c(z) \,\|\, p(z))
    = I_q(c; z) + \mathrm{KL}(q(z) \,\|\, p(z))

The examples of one class fill a part of the prior, so their divergence from it is large. All
classes together should fill all of it, and :math:`\mathrm{KL}(q(z) \| p(z))` measures how nearly
they do. The difference, averaged over classes, is the information that a code carries about the
class, :math:`I_q(c; z)`, at most the entropy of the classes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.diagnostics.aggregate_densities import AggregateDraws
from pyrovae.diagnostics.elbo_surgery import term_estimate
from pyrovae.diagnostics.two_sample import FEWEST, TwoSampleTest, two_samples
from pyrovae.estimates import Estimate, Result

__all__ = ["MOST_CLASSES", "Group", "Population", "points", "population"]

MOST_CLASSES = 40
"""Largest number of distinct labels that are treated as classes."""


class Group(Result):
    """The aggregate posterior of all examples, or of one class, against the prior.

    Attributes:
        label: the class; None for all examples.
        examples: number of examples.
        marginal_kl: KL(q(z) || p(z)) in nats, for these examples, with the error of the draws;
            None without densities.
        test: two-sample test of draws from q(z) against draws from p(z); None for fewer than
            ``FEWEST`` examples.

    Example:
        >>> from pyrovae.diagnostics import Group
        >>> Group(label=3, examples=12, marginal_kl=Estimate(2.5, 0.1), test=None)
        Group(label=3, examples=12, marginal_kl=2.50 ± 0.10, test=None)
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"label": "class", "examples": "images"}

    label: int | None
    examples: int
    marginal_kl: Estimate | None
    test: TwoSampleTest | None


class Population(Result):
    """The aggregate posterior against the prior.

    Attributes:
        groups: all examples first, then each class.
        class_information: :math:`I_q(c; z)` in nats; None without labels or densities.
        class_entropy: entropy of the classes, the largest possible value; None likewise.

    Example:
        >>> from pyrovae.diagnostics import Group, Population
        >>> everything = Group(label=None, examples=64, marginal_kl=Estimate(0.5, 0.1), test=None)
        >>> Population([everything], None, None).groups[0].examples
        64
    """

    groups: list[Group]
    class_information: Estimate | None
    class_entropy: float | None


def population(draws: AggregateDraws, prior: Tensor, seed: int = 0) -> Population:
    """Compare the aggregate posterior with the prior, for all examples and for each class.

    The two-sample test sees one draw per example, so that its draws are independent, and as many
    draws from the prior.

    Args:
        draws: the result of :func:`pyrovae.diagnostics.aggregate_draws`.
        prior: as many draws from the prior as there are examples ``(N, latent_dim)``.
        seed: seed of the tests.

    Returns:
        Divergences and tests.

    Example:
        >>> from pyrovae.diagnostics import aggregate_draws, population
        >>> found = population(aggregate_draws(vae, data, draws=2), torch.randn(64, 2))
        >>> found.groups[0].examples, found.groups[0].test.tested
        (64, 64)
    """
    whole, *classes = points(draws.z[:, 0], prior, draws.labels, seed).groups
    whole = replace(whole, marginal_kl=term_estimate(draws.log_aggregate - draws.log_prior))
    if draws.log_class is None or draws.labels is None:
        return Population([whole], class_information=None, class_entropy=None)
    groups = [whole]
    for group in classes:
        members = torch.from_numpy(draws.labels == group.label)
        kl = term_estimate((draws.log_class - draws.log_prior)[members])
        groups.append(replace(group, marginal_kl=kl))
    _, counts = np.unique(draws.labels, return_counts=True)
    shares = counts / counts.sum()
    return Population(
        groups,
        class_information=term_estimate(draws.log_class - draws.log_aggregate),
        class_entropy=float(-(shares * np.log(shares)).sum()),
    )


def points(z: Tensor, prior: Tensor, labels: NDArray[Any] | None, seed: int = 0) -> Population:
    """Compare codes without a density with the prior, by two-sample tests alone.

    Args:
        z: one code per example ``(N, latent_dim)``.
        prior: as many draws from the prior.
        labels: the class of each example ``(N,)``, or None.
        seed: seed of the tests.

    Returns:
        As :func:`population`, with None in place of divergences and information.

    Example:
        >>> from pyrovae.diagnostics import points
        >>> points(vae.encode(x), torch.randn(64, 2), labels=None).class_information is None
        True
    """
    codes, p = (part.detach().double().cpu().numpy() for part in (z, prior))
    members: dict[int | None, NDArray[Any]] = {None: np.arange(len(codes))}
    if labels is not None and len(np.unique(labels)) <= MOST_CLASSES:
        members |= {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
    groups = [
        Group(
            label=label,
            examples=len(rows),
            marginal_kl=None,
            test=two_samples(codes[rows], p, seed) if len(rows) >= FEWEST else None,
        )
        for label, rows in members.items()
    ]
    return Population(groups, class_information=None, class_entropy=None)
