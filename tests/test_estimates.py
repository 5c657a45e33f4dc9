"""A mean and its standard error, and the first examples in batches."""

import pytest
import torch

from pyrovae.data import Split
from pyrovae.estimates import Estimate, batches, number_of_examples
from tests.oracles import assert_calibrated


def test_the_standard_error_is_the_deviation_of_repeated_means():
    def make(seed):
        torch.manual_seed(seed)
        found = Estimate.of(3 + torch.randn(50))
        return found.value, found.standard_error

    assert_calibrated(make, 3.0, range(2_000))


@pytest.mark.contract
def test_one_value_has_no_standard_error():
    assert Estimate.of(torch.tensor([3.0])) == Estimate(3.0, None)


@pytest.mark.contract
@pytest.mark.parametrize(("limit", "expected"), [(None, 7), (7, 7), (3, 3), (4, 4), (100, 7)])
def test_batches_are_the_first_examples_in_order(limit, expected):
    x = torch.arange(7.0)[:, None]
    found = list(batches(Split.from_array(x), 3, limit))
    assert [len(batch) for batch in found] == [min(3, expected - i) for i in range(0, expected, 3)]
    assert torch.equal(torch.cat(found), x[:expected])


@pytest.mark.contract
def test_too_few_examples_are_refused():
    data = Split.from_array(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="limit must be positive, got 0"):
        list(batches(data, 2, 0))
    with pytest.raises(ValueError, match="there are 3 examples; give at least 4"):
        number_of_examples(data, at_least=4)
    with pytest.raises(ValueError, match="there are 2 examples"):
        number_of_examples(data, 2, at_least=3)
