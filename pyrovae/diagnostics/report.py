r"""What a trained VAE has learned, in numbers and words: the whole examination."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae._process.isolation import derived, evaluating, isolated
from pyrovae.data import Dataset, Split
from pyrovae.diagnostics import aggregate_posterior
from pyrovae.diagnostics._counting import Counting, silent
from pyrovae.diagnostics.aggregate_posterior import DRAWS, Population
from pyrovae.diagnostics.elbo_surgery import Surgery, surgery
from pyrovae.diagnostics.latent_dimensions import ACTIVE, activity
from pyrovae.diagnostics.two_sample import FEWEST, Probe, TwoSampleTest, probe, two_samples
from pyrovae.estimates import Estimate, Result
from pyrovae.evidence import far_below, per_example
from pyrovae.vae import VAE

__all__ = [
    "LIMIT",
    "Collapse",
    "Diagnosis",
    "FigureData",
    "ProbeAccuracies",
    "Probes",
    "SampleTest",
    "diagnose",
]

LIMIT = 2_000
"""Default number of examples to diagnose."""

NEGLIGIBLE = 0.01  # share of log N below which mutual information counts as none
ERRORS = 3  # standard errors within which a number counts as zero
BATCH = 500  # examples at a time

Array = NDArray[Any]


class Collapse(Result):
    """Whether the code is used.

    Attributes:
        verdict: ``none``, ``partial`` or ``full``.
        reason: the numbers behind the verdict, in words.

    Example:
        >>> from pyrovae.diagnostics import Collapse
        >>> Collapse("full", "0 of 2 dimensions are active")
        Collapse(verdict='full', reason='0 of 2 dimensions are active')
    """

    verdict: str
    reason: str


class SampleTest(Result):
    """A two-sample test between two kinds of data.

    Attributes:
        of: the first kind: ``prior``, ``aggregate`` or ``training``.
        against: the second kind: ``test`` or ``aggregate``.
        about: both kinds in words.
        test: the test; None if there are too few examples.

    Example:
        >>> from pyrovae.diagnostics import SampleTest
        >>> SampleTest("prior", "test", "samples against test data", test=None).to_dict()
        {'of': 'prior', 'against': 'test', 'what': 'samples against test data', 'accuracy': None}
    """

    of: str
    against: str
    about: str
    test: TwoSampleTest | None

    def to_dict(self) -> dict[str, object]:
        """Plain data on one level."""
        test: dict[str, object] = {"accuracy": None} if self.test is None else self.test.to_dict()
        return {"of": self.of, "against": self.against, "what": self.about} | test


class ProbeAccuracies(Result):
    """Differences in accuracy between codes and pixels, paired by test example.

    Attributes:
        linear: for logistic regression.
        neighbors: for nearest neighbors.

    Example:
        >>> from pyrovae.diagnostics import ProbeAccuracies
        >>> ProbeAccuracies(linear=Estimate(-0.1, 0.02), neighbors=Estimate(0.0, 0.01))
        ProbeAccuracies(linear=-0.10 ± 0.02, neighbors=0.00 ± 0.01)
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"neighbors": "neighbours"}

    linear: Estimate
    neighbors: Estimate


class Probes(Result):
    """How well classes are read from the codes, and from the pixels.

    Attributes:
        trained_on: number of training examples.
        tested_on: number of test examples.
        chance: accuracy of the better guess without looking, see :class:`Probe`.
        codes: accuracies with the codes as input.
        pixels: accuracies with the examples themselves as input.
        difference: accuracy with codes minus accuracy with pixels.

    Example:
        >>> from pyrovae.diagnostics import Accuracy, Probe, ProbeAccuracies, Probes
        >>> found = Probe(Accuracy(0.9, 0.1), Accuracy(0.8, 0.1), chance=0.1, right={})
        >>> none = ProbeAccuracies(Estimate(0.0, 0.0), Estimate(0.0, 0.0))
        >>> Probes(9, 9, chance=0.1, codes=found, pixels=found, difference=none).codes.linear
        0.90 ± 0.10
    """

    trained_on: int
    tested_on: int
    chance: float
    codes: Probe
    pixels: Probe
    difference: ProbeAccuracies


@dataclass(frozen=True)
class FigureData:
    """The arrays that the figures of a diagnosis show.

    Attributes:
        z: one draw from each posterior ``(N, latent_dim)``.
        labels: the class of each test example ``(N,)``, or None.
        decoded: ``real``, test examples, and means of p(x | z) at draws of z from the ``prior`` and
            from the ``aggregate`` posterior, each ``(n, *event_shape)``.

    Example:
        >>> import numpy as np
        >>> from pyrovae.diagnostics import FigureData
        >>> FigureData(np.zeros((9, 2)), labels=None, decoded={}).z.shape
        (9, 2)
    """

    z: Array
    labels: Array | None
    decoded: Mapping[str, Array]


class Diagnosis(Result):
    """The results of all diagnostics.

    Attributes:
        examples: number of test examples.
        available: number of test examples in the dataset.
        seed: seed of all draws and tests.
        surgery: the terms of the ELBO; None for a point posterior.
        no_surgery: the reason if ``surgery`` is None.
        population: the aggregate posterior against the prior.
        activity: variance of the mean code in each latent dimension.
        active_units: number of dimensions whose activity is above ``ACTIVE``.
        latent_dim: number of latent dimensions.
        use_of_code: loss in log p(x | z), in nats per example, if z is the code of another example;
            None for a point posterior.
        collapse: whether the code is used.
        samples: two-sample tests of decoded samples and data.
        probes: classes read from codes and from pixels; None without labels.
        figure_data: arrays for :func:`pyrovae.plots.diagnosis_figures`; not part of
            :meth:`to_dict` and of comparisons.
        left_out: positions of test examples whose log p(x) lies far below that of all others, as
            :func:`pyrovae.evidence.far_below` finds them; they would decide every mean.

    Example:
        >>> from dataclasses import replace
        >>> from pyrovae.diagnostics import diagnose
        >>> digits = replace(pyrovae.data.load("digits"), train=data, test=data)
        >>> diagnose(vae, digits, draws=2, limit=30).collapse.verdict
        'full'
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"examples": "images"}

    examples: int
    available: int
    seed: int
    surgery: Surgery | None
    no_surgery: str | None
    population: Population
    activity: list[float]
    active_units: int
    latent_dim: int
    use_of_code: Estimate | None
    collapse: Collapse
    samples: list[SampleTest]
    probes: Probes | None
    figure_data: FigureData = field(compare=False, repr=False)
    left_out: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return (
            f"Diagnosis({self.examples} examples, {self.active_units} of {self.latent_dim} "
            f"dimensions active, collapse: {self.collapse.verdict}, {self.surgery})"
        )


@torch.no_grad()
def diagnose(
    vae: VAE,
    dataset: Dataset,
    *,
    draws: int = DRAWS,
    limit: int = LIMIT,
    seed: int = 0,
    counting: Counting = silent,
) -> Diagnosis:
    """Run all diagnostics: the terms of the ELBO, q(z) against p(z), samples, and probes of codes.

    Args:
        vae: a trained VAE; evaluated in eval mode, without dropout.
        dataset: the dataset it was trained on. The test part is diagnosed; codes of the training
            part train the probes and are decoded beside samples from the prior.
        draws: draws from the posterior of each example.
        limit: use only the first ``limit`` test examples, and at most as many of the training part.
        seed: seed of all draws and tests.
        counting: progress display, called with a description and a total; yields a callback, called
            with the number finished, as :func:`pyrovae.training.counting` does.

    Returns:
        The results, in nats per example.

    Raises:
        ValueError: if ``limit`` or ``draws`` is below two.

    Example:
        >>> from dataclasses import replace
        >>> from pyrovae.diagnostics import diagnose
        >>> digits = replace(pyrovae.data.load("digits"), train=data, test=data)
        >>> found = diagnose(vae, digits, draws=2, limit=30)
        >>> found.active_units, found.population.groups[0].examples
        (0, 30)
    """
    if limit < 2:
        raise ValueError(f"limit must be at least 2, got {limit}; an aggregate needs examples")
    test, left_out = _ordinary(vae, dataset.test, limit, seed)
    count = len(test)
    labels = test.labels
    every = activity(vae, test, limit=count, seed=seed)
    active = int((every > ACTIVE).sum())
    with isolated(), evaluating(vae):
        torch.manual_seed(derived(seed, 2))
        x = _rows(test, np.arange(count), seed)
        prior = vae.prior().sample((count,)).double().cpu()
        no_surgery = aggregate_posterior.no_density(vae.posterior(vae.place(x[:2])))
        terms, use = None, None
        if no_surgery is None:
            with counting("densities", count) as progress:
                found = aggregate_posterior.aggregate_draws(
                    vae, test, labels=labels, draws=draws, limit=count, seed=seed, progress=progress
                )
            use = Estimate.of((found.log_likelihood - found.log_likelihood_of_others).mean(1))
            z, terms = found.z[:, 0], surgery(found)
            groups = aggregate_posterior.population(found, prior, seed)
        else:
            z = torch.cat([vae.posterior(vae.place(b)).sample().cpu() for b in x.split(BATCH)])
            groups = aggregate_posterior.points(z, prior, labels, seed)
        with counting("samples and probes", 2) as progress:
            decoded, tests = _samples(vae, dataset, x, seed)
            progress(1)
            probes = _probes(vae, dataset, x, labels, limit, seed)
            progress(1)
    return Diagnosis(
        examples=count,
        available=len(dataset.test),
        seed=seed,
        surgery=terms,
        no_surgery=no_surgery,
        population=groups,
        activity=every.tolist(),
        active_units=active,
        latent_dim=vae.latent_dim,
        use_of_code=use,
        collapse=_collapse(terms, use, active, vae.latent_dim),
        samples=tests,
        probes=probes,
        figure_data=FigureData(z.double().numpy(), labels, decoded),
        left_out=left_out,
    )


def _ordinary(vae: VAE, test: Split, limit: int, seed: int) -> tuple[Split, tuple[int, ...]]:
    """The first examples without those that would decide every mean, which are named."""
    rows = np.arange(min(limit, len(test)))
    first = per_example(vae, test, samples=1, limit=len(rows), seed=seed, compile="off")
    found = far_below(first.log_evidence)
    if found is None or len(rows) < len(found.rows) + 2:
        return test.take(rows), ()
    # named after the caller of diagnose
    warnings.warn(f"{found.describe(test.ids)}; left out here", stacklevel=3)
    return test.take(np.setdiff1d(rows, found.rows)), found.rows


def _rows(split: Split, rows: Array, seed: int) -> Tensor:
    rng = np.random.default_rng([seed, 3])
    return torch.cat([split.batch(rows[i : i + BATCH], rng) for i in range(0, len(rows), BATCH)])


def _samples(
    vae: VAE, dataset: Dataset, real: Tensor, seed: int
) -> tuple[dict[str, Array], list[SampleTest]]:
    """Decode draws from p(z) and from posteriors of training data, and test them."""
    count = min(len(real), len(dataset.train))
    chosen = np.random.default_rng([seed, 4]).permutation(len(dataset.train))[:count]
    train = _rows(dataset.train, chosen, seed)
    latents = {
        "prior": vae.prior().sample((count,)).split(BATCH),
        "aggregate": [vae.posterior(vae.place(x)).sample() for x in train.split(BATCH)],
    }
    means, drawn = {}, {"test": real[:count], "training": train}
    for source, parts in latents.items():
        given = [vae.likelihood(z) for z in parts]
        means[source] = torch.cat([d.mean.cpu() for d in given]).double().numpy()
        x = torch.cat([d.sample().cpu() for d in given])
        drawn[source] = x.masked_fill(train.isnan(), math.nan)  # what is missing in real rows
    flat = {source: x.flatten(1).double().numpy() for source, x in drawn.items()}
    tests = []
    for of, against, about in _COMPARISONS:
        test = two_samples(flat[of], flat[against], seed) if count >= FEWEST else None
        tests.append(SampleTest(of, against, about, test))
    return means | {"real": real[:count].double().numpy()}, tests


_COMPARISONS = (
    ("prior", "test", "x ~ p(x|z), z ~ p(z), against test data"),
    ("aggregate", "test", "x ~ p(x|z), z ~ q(z|x') of training data x', against test data"),
    ("prior", "aggregate", "the two kinds of samples against each other"),
    ("training", "test", "real training data against test data: what no model is asked to beat"),
)


def _probes(
    vae: VAE, dataset: Dataset, x: Tensor, labels: Array | None, limit: int, seed: int
) -> Probes | None:
    if labels is None or dataset.train.labels is None:
        return None
    chosen = np.random.default_rng([seed, 5]).permutation(len(dataset.train))[:limit]
    train, classes = _rows(dataset.train, chosen, seed), dataset.train.labels[chosen]
    if len(np.unique(classes)) < 2:
        return None
    inputs = (train, x)
    codes = [
        torch.cat([vae.encode(vae.place(b)).cpu() for b in part.split(BATCH)]) for part in inputs
    ]
    pixels = [part.flatten(1) for part in inputs]
    of_codes, of_pixels = (
        probe(a.double().numpy(), classes, b.double().numpy(), labels) for a, b in (codes, pixels)
    )
    difference = {
        kind: Estimate.of(torch.from_numpy(right * 1.0 - of_pixels.right[kind] * 1.0))
        for kind, right in of_codes.right.items()
    }
    return Probes(
        trained_on=len(chosen),
        tested_on=len(x),
        chance=of_codes.chance,
        codes=of_codes,
        pixels=of_pixels,
        difference=ProbeAccuracies(**difference),
    )


def _collapse(
    terms: Surgery | None, use: Estimate | None, active: int, latent_dim: int
) -> Collapse:
    """Judge whether the code is used, with the numbers that show it."""
    units = f"{active} of {latent_dim} dimensions are active (variance of means above {ACTIVE})"
    if terms is None or use is None:
        verdict = "full" if active == 0 else "partial" if active < latent_dim else "none"
        return Collapse(verdict, f"{units}; a point has no mutual information")
    information, most = terms.mutual_information, terms.log_examples
    held = (
        f"the code holds {information.value:.3f} +- {information.standard_error:.3f} nats of "
        f"{most:.3f} on which example it encodes"
    )
    loses = (
        f"with the code of another example log p(x|z) falls by {use.value:.3f} +- "
        f"{use.standard_error:.3f} nats"
    )
    reasons = {
        "the decoder ignores z": use.value <= _noise(use),
        "the encoder gives every example nearly the same posterior": information.value
        <= max(_noise(information), NEGLIGIBLE * most),
    }
    if who := ", and ".join(reason for reason, holds in reasons.items() if holds):
        return Collapse("full", f"{who}: {held}; {loses}; {units}")
    if active < latent_dim:
        rest = f"the other {latent_dim - active} have nearly the same posterior for every example"
        return Collapse("partial", f"{units}, {rest}; {held}; {loses}")
    return Collapse("none", f"{units}; {held}; {loses}")


def _noise(estimate: Estimate) -> float:
    return ERRORS * (estimate.standard_error or 0.0)
