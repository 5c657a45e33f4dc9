"""The area under the curve against scikit-learn's, and its error against repetition."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pyrovae.queries.detection import auc
from tests.conftest import SEEDS
from tests.oracles import assert_within


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ties", [False, True])
def test_the_area_is_scikit_learns(seed, ties):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0.7, 1, 60), rng.normal(0, 2, 90)
    if ties:
        a, b = a.round(), b.round()
    truth = np.repeat([1, 0], [60, 90])
    assert auc(a, b)[0] == pytest.approx(roc_auc_score(truth, np.concatenate([a, b])))
    assert auc(b, a)[0] == pytest.approx(1 - auc(a, b)[0])
    assert auc(b, a)[1] == pytest.approx(auc(a, b)[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_standard_error_is_the_spread_of_areas_of_new_data(seed):
    """Within 5 standard errors of a standard deviation of 500 repetitions."""
    rng = np.random.default_rng(seed)
    found = np.array([auc(rng.normal(1, 1, 50), rng.normal(0, 2, 80)) for _ in range(500)])
    spread = found[:, 0].std(ddof=1)
    assert_within(found[:, 1].mean(), spread, spread / np.sqrt(2 * 500), 5)


def test_kinds_apart_have_area_one_or_zero_and_equal_ones_a_half():
    low, high = np.arange(5.0), np.arange(5.0) + 10
    assert auc(high, low) == (1.0, 0.0)
    assert auc(low, high) == (0.0, 0.0)
    assert auc(np.ones(4), np.ones(7)) == (0.5, 0.0)


@pytest.mark.parametrize("values", [np.array([1.0]), np.array([1.0, np.nan])])
def test_too_few_numbers_or_nan_are_refused(values):
    with pytest.raises(ValueError, match="at least two numbers of each kind and no NaN"):
        auc(values, np.arange(3.0))
