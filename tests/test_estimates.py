"""A mean and its standard error, and the first examples in batches."""

from dataclasses import field

import numpy as np
import pytest
import torch

from pyrovae.data import Split
from pyrovae.estimates import Estimate, Result, batches, number_of_examples
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
    assert Estimate.of([3.0]) == Estimate(3.0, None)


def test_arrays_and_lists_have_the_mean_and_error_of_tensors():
    values = [1.0, 2.0, 4.0]
    expected = Estimate.of(torch.tensor(values))
    for found in (Estimate.of(values), Estimate.of(np.array(values, np.float32))):
        assert found.value == pytest.approx(expected.value)
        assert found.standard_error == pytest.approx(expected.standard_error)


def test_a_hidden_attribute_is_in_neither_text_nor_plain_data():
    class Scores(Result):
        mean: Estimate
        parts: list[torch.Tensor]
        everything: torch.Tensor = field(repr=False, compare=False)

    found = Scores(Estimate(1.0, None), [torch.tensor([1.0, 2.0])], torch.zeros(1_000))
    assert repr(found) == "Scores(mean=1.00, parts=[tensor of shape (2,)])"
    assert found.to_dict() == {
        "mean": {"estimate": 1.0, "standard_error": None}, "parts": [[1.0, 2.0]]
    }  # fmt: skip


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


def test_results_are_tables_in_notebooks_and_their_text_is_escaped():
    class Found(Result):
        name: str
        bound: Estimate

    shown = Found("<script>", Estimate(-1.0, 0.5))._repr_html_()
    assert shown.startswith("<table><caption>Found</caption>")
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
    assert "-1.00 ± 0.50" in shown
    assert Estimate(-1.0, 0.5)._repr_html_() == "-1.00 ± 0.50"
