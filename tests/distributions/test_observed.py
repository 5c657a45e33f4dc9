"""Missing values: their factors are left out of p(x | z), whatever the likelihood."""

import math

import pytest
import torch
from pyro import distributions as dist

from pyrovae.distributions import (
    filled,
    has_missing,
    missing_values,
    observed_log_prob,
    observed_part,
    observed_values,
)

NAN = math.nan
FAMILIES = {
    "normal": dist.Normal(torch.randn(3), 0.5),
    "bernoulli": dist.Bernoulli(logits=torch.randn(3)),
    "binomial": dist.Binomial(5, logits=torch.randn(3)),
    "beta": dist.Beta(torch.rand(3) + 1, torch.rand(3) + 1),
    "log_normal": dist.LogNormal(torch.randn(3), 0.5),
    "poisson": dist.Poisson(torch.rand(3) + 1),
    "categorical": dist.Categorical(logits=torch.randn(3, 4)),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_factors_of_missing_values_are_left_out(name):
    p = FAMILIES[name]
    x = p.sample((20,)).float()
    gone = torch.rand(20, 3) < 0.4
    holed = torch.where(gone, NAN, x)
    expected = torch.where(gone, 0.0, p.log_prob(x))
    torch.testing.assert_close(observed_log_prob(p, holed), expected, rtol=0, atol=0)
    whole = observed_log_prob(p.to_event(1), holed)
    torch.testing.assert_close(whole, expected.sum(-1))


def test_without_gaps_the_distribution_and_the_value_are_the_same_objects():
    p, x = dist.Normal(torch.zeros(3), 1.0).to_event(1), torch.zeros(4, 3)
    assert observed_part(p, x)[0] is p
    assert observed_part(p, x)[1] is x
    assert filled(x) is x


def test_gradients_are_finite_and_those_of_the_observed_values():
    loc = torch.zeros(3, requires_grad=True)
    x = torch.tensor([[1.0, NAN, 2.0], [NAN, NAN, 5.0]])
    observed_log_prob(dist.Normal(loc, 1.0).to_event(1), x).sum().backward()
    assert loc.grad.tolist() == [1.0, 0.0, 7.0]


def test_what_is_known_of_gaps_is_known_inside_of_a_block_only():
    x = torch.tensor([0.0, NAN])
    with missing_values(False):
        assert observed_values(x) is None
        with missing_values(None):
            assert not has_missing(x)
        with missing_values(True):
            assert observed_values(torch.zeros(2)).all()
            assert has_missing(torch.zeros(2))
    assert observed_values(x).tolist() == [True, False]
    assert observed_values(torch.tensor([1, 2])) is None


def test_a_likelihood_that_is_no_product_is_refused_by_name():
    p = dist.MultivariateNormal(torch.zeros(3), torch.eye(3))
    assert torch.isfinite(observed_log_prob(p, torch.zeros(3)))
    with pytest.raises(ValueError, match=r"MultivariateNormal is not a product over the elements"):
        observed_log_prob(p, torch.tensor([0.0, NAN, 0.0]))
