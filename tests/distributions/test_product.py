"""Columns of different families side by side are each their own distribution."""

import pyro
import pytest
import torch
from pyro import distributions as dist

from pyrovae.distributions import Beta, Categorical, ColumnProduct, base, is_discrete, moments
from pyrovae.distributions import name as name_of
from tests.oracles import assert_within

COLUMNS = [[3, 0], [2], [1, 5], [4]]


def families(batch=(), dtype=torch.float64):
    """A normal, a Poisson, a categorical and a beta group, as ``COLUMNS`` places them."""
    loc, rate, logits, concentration = (
        torch.randn(*batch, n, dtype=dtype) for n in (2, 1, 2 * 4, 1)
    )
    return [
        dist.Normal(loc, loc.exp()),
        dist.Poisson(rate.exp()),
        Categorical(logits=logits.reshape(*batch, 2, 4)),
        Beta(1 + concentration.exp(), torch.ones_like(concentration)),
    ]


def mixed(batch=(), dtype=torch.float64):
    return ColumnProduct(families(batch, dtype), COLUMNS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (7,), (3, 7)])
def test_each_column_is_its_own_distribution(batch, dtype):
    groups = families(batch, dtype)
    p = ColumnProduct(groups, COLUMNS)
    assert (p.batch_shape, p.event_shape) == ((*batch, 6), ())
    x = p.sample((5,))
    assert (x.shape, x.dtype) == ((5, *batch, 6), dtype)
    log_prob = p.log_prob(x)
    assert p.mean.dtype == p.variance.dtype == log_prob.dtype == dtype
    for group, places in zip(groups, COLUMNS, strict=True):
        assert torch.equal(log_prob[..., places], group.log_prob(x[..., places]))
        if not isinstance(group, Categorical):
            assert torch.equal(p.mean[..., places], group.mean.expand(*batch, len(places)))
            assert torch.equal(p.variance[..., places], group.variance)
    together = p.to_event(1)
    torch.testing.assert_close(together.log_prob(x), log_prob.sum(-1))
    assert (together.batch_shape, together.event_shape) == (batch, (6,))


def test_the_mean_of_a_category_is_its_most_probable_code():
    probs = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    p = ColumnProduct([Categorical(probs), dist.Normal(torch.zeros(1), 2.0)], [[0, 2], [1]])
    assert p.mean.tolist() == [2, 0, 0]
    torch.testing.assert_close(p.variance, torch.tensor([0.62, 4.0, 0.54]))
    drawn = p.sample((40_000,))
    differ = (drawn[:20_000] != drawn[20_000:]).float().mean(0)
    assert_within(differ[[0, 2]], p.variance[[0, 2]], 0.004)


def test_draws_have_the_moments():
    torch.manual_seed(0)
    p = mixed()
    x = p.sample((20_000,))
    numbers = [0, 2, 3, 4]
    error = x.std(0)[numbers] / 20_000**0.5
    assert_within(x.mean(0)[numbers], p.mean[numbers], error, 4.5)
    assert torch.equal(moments(p)[0], p.mean)


def test_the_support_is_checked_value_by_value():
    p = mixed((7,))
    inside = torch.tensor([-3.0, 2, 4, 0.5, 0.5, 3])
    assert p.support.check(p.sample((9,))).all()
    assert p.support.check(inside).all()
    outside = torch.tensor([float("nan"), 4, -1, 0.5, 1.0, 0.5])
    found = p.support.check(torch.stack([inside, outside]))
    assert found.tolist() == [[True] * 6, [False, False, False, True, False, False]]
    assert p.to_event(1).support.check(torch.stack([inside, outside])).tolist() == [True, False]
    with pytest.raises(ValueError, match="support"):
        p.log_prob(outside)


def test_it_is_discrete_if_all_columns_are():
    counts = ColumnProduct(
        [dist.Poisson(torch.ones(2)), dist.Bernoulli(torch.ones(1))], [[0, 2], [1]]
    )
    assert is_discrete(counts)
    assert is_discrete(counts.to_event(1))
    assert not is_discrete(mixed())
    assert base(mixed().to_event(1)).batch_shape == (6,)
    assert name_of(mixed().to_event(1)) == "Independent ColumnProduct"
    assert not mixed().has_rsample


def test_expanded_it_is_the_same_in_each_place():
    p = mixed()
    many = p.expand((4, 3, 6))
    x = many.sample()
    assert x.shape == (4, 3, 6)
    assert len(x[..., 0].unique()) == 12
    assert torch.equal(many.log_prob(x), p.log_prob(x))
    assert p.to_event(1).expand((5,)).sample((2,)).shape == (2, 5, 6)
    with pytest.raises(ValueError, match=r"that end in 6, got \(6, 2\)"):
        p.expand((6, 2))


def test_groups_without_a_batch_of_their_own_are_expanded():
    groups = [dist.Normal(torch.zeros(5, 1), 1.0), dist.Poisson(torch.ones(2))]
    p = ColumnProduct(groups, [[1], [0, 2]])
    assert p.sample().shape == p.mean.shape == (5, 3)


def test_a_mask_leaves_out_the_factors_of_missing_values():
    p, x = mixed((4,)), mixed((4,)).sample()
    observed = torch.rand(4, 6) < 0.5
    found = p.mask(observed).to_event(1).log_prob(x)
    torch.testing.assert_close(found, (p.log_prob(x) * observed).sum(-1))


def test_a_pyro_program_observes_it():
    def model(x=None):
        with pyro.plate("data", 4):
            return pyro.sample("x", mixed((4,)).to_event(1), obs=x)

    x = model()
    trace = pyro.poutine.trace(model).get_trace(x)
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (4,)


@pytest.mark.parametrize(
    ("groups", "columns", "message"),
    [
        ([], [], "got 0 groups and 0 lists"),
        ([dist.Normal(torch.zeros(2), 1.0)], [[0], [1]], "got 1 groups and 2 lists"),
        ([dist.Normal(torch.zeros(2), 1.0)], [[0]], r"got Normal with batch shape \(2,\)"),
        ([dist.Normal(0.0, 1.0)], [[0]], r"got Normal with batch shape \(\)"),
        ([dist.Normal(torch.zeros(2), 1.0).to_event(1)], [[0, 1]], r"and event shape \(2,\)"),
        ([dist.Normal(torch.zeros(2), 1.0)], [[0, 2]], r"0 to 1, each once, got \[0, 2\]"),
        ([dist.Normal(torch.zeros(2), 1.0)], [[1, 1]], r"0 to 1, each once, got \[1, 1\]"),
    ],
)
def test_what_is_no_product_of_columns_is_refused(groups, columns, message):
    with pytest.raises(ValueError, match=message):
        ColumnProduct(groups, columns)
