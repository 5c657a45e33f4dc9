"""Means over examples and seeds: their degrees of freedom, and intervals that cover the truth."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pyrovae.runs import SeedEstimate
from tests.conftest import SEEDS
from tests.oracles import assert_within

REPETITIONS = 1_000


def differences(rng, seeds, examples, of_example=1.0, of_seed=0.4, of_both=2.0):
    """Paired differences of two models that are equally good, ``(seeds, examples)``."""
    values = of_example * rng.standard_normal(examples)
    values = values + of_seed * rng.standard_normal((seeds, 1))
    return torch.from_numpy(values + of_both * rng.standard_normal((seeds, examples)))


@pytest.mark.parametrize(("seeds", "examples"), [(2, 359), (3, 359), (5, 359), (3, 2_000)], ids=str)
def test_an_interval_of_95_percent_covers_as_often(seeds, examples):
    """And two standard errors do not: the share of the seeds is known to few degrees of freedom."""
    rng = np.random.default_rng(seeds)
    covered = normal = 0
    for _ in range(REPETITIONS):
        found = SeedEstimate.from_runs(differences(rng, seeds, examples))
        covered += found.interval[0] < 0 < found.interval[1]
        normal += abs(found.value) < 1.96 * found.standard_error
    assert 0.93 < covered / REPETITIONS < 0.97
    assert normal / REPETITIONS < (0.85 if seeds == 2 else 0.90 if seeds == 3 else 0.93)


def test_an_interval_is_not_too_short_where_seeds_make_no_difference():
    rng = np.random.default_rng(0)
    found = [SeedEstimate.from_runs(differences(rng, 3, 359, of_seed=0.0)) for _ in range(500)]
    assert np.mean([each.interval[0] < 0 < each.interval[1] for each in found]) > 0.95


@pytest.mark.parametrize("seed", SEEDS)
def test_degrees_of_freedom_are_those_of_welch(seed):
    values = differences(np.random.default_rng(seed), 4, 30)
    found = SeedEstimate.from_runs(values)
    same = stats.ttest_ind(values.mean(0), values.mean(1), equal_var=False)
    assert found.degrees_of_freedom == pytest.approx(same.df)
    low, high = found.interval
    half = found.standard_error * np.array([stats.t.ppf(0.975, freedom) for freedom in (29, 3)])
    assert half[0] < (high - low) / 2 < half[1]
    assert_within(found.value, (low + high) / 2, 1e-12)


def test_one_seed_has_the_interval_over_examples():
    values = torch.tensor([[1.0, 2.0, 4.0, 7.0]], dtype=torch.float64)
    found = SeedEstimate.from_runs(values)
    same = stats.ttest_1samp(values[0], 0.0)
    assert found.degrees_of_freedom == pytest.approx(3)
    assert found.interval == pytest.approx(tuple(same.confidence_interval()))


def test_no_error_has_no_interval():
    found = SeedEstimate.from_runs(torch.tensor([[1.0]]))
    assert (found.standard_error, found.degrees_of_freedom, found.interval) == (None,) * 3
    endless = SeedEstimate.from_runs(torch.tensor([[-math.inf, 0.0], [0.0, 0.0]]))
    assert endless.interval is None
    same = SeedEstimate.from_runs(torch.zeros(2, 5))
    assert (same.standard_error, same.interval) == (0.0, (0.0, 0.0))
