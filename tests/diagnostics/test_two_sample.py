"""The classifier test keeps its level and finds differences; probes read what can be read."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from pyrovae.diagnostics.two_sample import FEWEST, probe, two_samples
from tests.conftest import EXPENSIVE_SEEDS, SEEDS
from tests.oracles import assert_within


def normal(seed, count, columns):
    return np.random.default_rng([seed, count]).normal(size=(count, columns))


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_equal_distributions_are_rejected_no_more_often_than_the_level_says(seed):
    tests = 60
    found = [
        two_samples(normal(1_000 * seed + n, 60, 3), normal(1_000 * seed + n + 500, 61, 3), n)
        for n in range(tests)
    ]
    p_values = np.array([row.p_value for row in found])
    for level in (0.05, 0.2, 0.5):  # one tail at 1e-4 of each
        assert (p_values <= level).sum() <= binom.isf(1e-4, tests, level)
    accuracy = np.mean([row.accuracy.value for row in found])
    assert_within(accuracy, 0.5, 0.5 / math.sqrt(60 * tests))
    assert found[0].tested == 60


@pytest.mark.parametrize("seed", SEEDS)
def test_another_mean_scale_and_dependence_are_found(seed):
    a, other = normal(seed, 600, 2), normal(seed + 50, 601, 2)[:600]
    dependent = np.stack([other[:, 0], 0.9 * other[:, 0] + math.sqrt(0.19) * other[:, 1]], 1)
    for b in (other + np.array([0.7, 0.0]), 2 * other, dependent):
        found = two_samples(a, b, seed)
        assert found.p_value < 1e-3
        assert found.accuracy.value - 0.5 > 3 * found.accuracy.standard_error


@pytest.mark.parametrize("seed", SEEDS)
def test_accuracy_reaches_that_of_the_best_classifier_and_not_more(seed):
    a, b = normal(seed, 2_000, 1), normal(seed + 50, 2_001, 1)[:2_000] + 1.0
    found = two_samples(a, b, seed)
    best = 0.5 * (1 + math.erf(0.5 / math.sqrt(2)))
    assert_within(found.accuracy.value, best, found.accuracy.standard_error)


def test_the_test_is_the_same_for_the_same_seed_and_has_an_error_at_every_accuracy():
    a, b = normal(0, 50, 2), normal(1, 50, 2) + 20
    assert two_samples(a, b, 5) == two_samples(a, b, 5)
    found = two_samples(a, b, 5)
    assert found.accuracy.value == 1.0
    assert 0 < found.accuracy.standard_error < 0.05
    assert found.p_value == pytest.approx(0.5**50)


def test_samples_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match=f"at least {FEWEST} rows of each sample, got 19 and 30"):
        two_samples(normal(0, 19, 1), normal(1, 30, 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_probes_read_classes_that_are_there_and_none_that_are_not(seed):
    labels = np.arange(600) % 3
    x = normal(seed, 600, 4)
    far = x + 10 * np.eye(4)[labels]
    found = probe(far[:300], labels[:300], far[300:], labels[300:])
    assert found.linear.value == found.neighbors.value == 1.0
    assert found.right["linear"].all()
    assert found.chance == pytest.approx(1 / 3)
    found = probe(x[:300], labels[:300], x[300:], labels[300:])
    for accuracy in (found.linear, found.neighbors):
        assert_within(accuracy.value, 1 / 3, accuracy.standard_error)


def test_neighbours_read_what_no_linear_map_can():
    x = normal(3, 800, 2)
    labels = (x[:, 0] * x[:, 1] > 0).astype(int)
    found = probe(x[:400], labels[:400], x[400:], labels[400:])
    assert found.neighbors.value > 0.85
    assert found.linear.value < 0.65
