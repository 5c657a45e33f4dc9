"""Every way to compute KL(q || p) agrees with every other, and says what it is."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import distributions as dist
from pyro.distributions.transforms import affine_autoregressive
from scipy import stats
from scipy.integrate import quad
from torch.distributions import kl_divergence

from pyrovae import plots
from pyrovae.cli.app import cli
from pyrovae.distributions import OneHots
from pyrovae.kl.comparison import SAMPLES, compare, ledger
from pyrovae.kl.formulas import CLOSED_FORMS, closed_form, divergence_bounds, infinite_variance
from pyrovae.kl.quadrature import integrate
from pyrovae.likelihoods import Bernoulli
from pyrovae.posteriors import DiagonalNormal, Point
from pyrovae.priors import PRIORS, StandardNormal
from pyrovae.runs import context_of
from pyrovae.vae import VAE
from tests.conftest import EXPENSIVE_SEEDS
from tests.models import Rows
from tests.oracles import assert_finite, assert_no_less, assert_within

BATCH = 5  # parameter draws of one example; 40 examples make 200


def locs(*shape):
    return 2 * torch.randn(shape, dtype=torch.float64)


def scales(*shape):
    """From about 1/10 to 10."""
    return (0.75 * torch.randn(shape, dtype=torch.float64)).clamp(-2.3, 2.3).exp()


def normal(*batch):
    return dist.Normal(locs(*batch, 2), scales(*batch, 2)).to_event(1)


def laplace(*batch):
    return dist.Laplace(locs(*batch, 2), scales(*batch, 2)).to_event(1)


def student_t(*batch):
    df = 6 + 5 * torch.rand((*batch, 2), dtype=torch.float64)
    return dist.StudentT(df, locs(*batch, 2), scales(*batch, 2)).to_event(1)


def full(*batch):
    tril = torch.diag_embed(scales(*batch, 2))
    tril[..., 1, 0] = locs(*batch) / 2
    return dist.MultivariateNormal(locs(*batch, 2), scale_tril=tril)


def low_rank(*batch):
    return dist.LowRankMultivariateNormal(locs(*batch, 2), locs(*batch, 2, 1), scales(*batch, 2))


def mixture(*batch, component=normal):
    weights = dist.Categorical(logits=locs(*batch, 3))
    return dist.MixtureSameFamily(weights, component(*batch, 3))


PAIRS = {
    "normal-normal": (normal, normal),
    "normal-laplace": (normal, laplace),
    "laplace-normal": (laplace, normal),
    "laplace-laplace": (laplace, laplace),
    "t-normal": (student_t, normal),
    "normal-full": (normal, full),
    "full-normal": (full, normal),
    "full-full": (full, full),
    "full-laplace": (full, laplace),
    "low_rank-normal": (low_rank, normal),
    "normal-low_rank": (normal, low_rank),
    "low_rank-laplace": (low_rank, laplace),
}
MIXTURES = {
    "normal-mixture": (normal, mixture),
    "full-mixture": (full, mixture),
    "mixture-normal": (mixture, normal),
    "mixture-mixture": (mixture, mixture),
    "low_rank-mixture": (low_rank, mixture),
    "mixture-full": (lambda *batch: mixture(*batch, component=full), full),
}


def one_hots(*batch):
    return OneHots(locs(*batch, 2, 3))


DISCRETE = {"one_hots-one_hots": (one_hots, one_hots)}


def test_every_closed_form_here_has_a_pair_that_is_tested():
    pairs = [*PAIRS.values(), *DISCRETE.values()]
    found = {closed_form(q(), p())[1] for q, p in pairs}
    for formula in CLOSED_FORMS.values():
        assert any(name.endswith(f"pyrovae.kl.{formula.__name__}") for name in found)
    bases = {tuple(type(getattr(d(), "base_dist", d())) for d in pair) for pair in pairs}
    for of_q, of_p in CLOSED_FORMS:
        assert any(issubclass(a, of_q) and issubclass(b, of_p) for a, b in bases), (of_q, of_p)


@pytest.mark.parametrize("pair", PAIRS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_closed_forms_equal_quadrature(pair, seed):
    """In two dimensions, to 1e-6 of the larger of 1 and the divergence, over 200 draws."""
    torch.manual_seed(seed)
    q, p = (make(BATCH) for make in PAIRS[pair])
    value, _, _ = integrate(q, p)
    torch.testing.assert_close(closed_form(q, p)[0], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pair", DISCRETE)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_closed_forms_equal_enumeration(pair, seed):
    """Of all values, to 1e-12, over 200 draws."""
    torch.manual_seed(seed)
    q, p = (make(BATCH) for make in DISCRETE[pair])
    z = q.enumerate_support()
    log_q = q.log_prob(z)
    value = (log_q.exp() * (log_q - p.log_prob(z))).sum(0)
    torch.testing.assert_close(closed_form(q, p)[0], value, rtol=1e-12, atol=1e-12)


def check_draws(result, errors):
    """The mean of the most draws is within a few standard errors of the closed form."""
    row, truth = result.monte_carlo[-1], result.closed_form.value
    assert_within(row.estimate.value, truth, row.estimate.standard_error, errors)
    assert_within(row.z_score, 0.0, 1.0, errors)


@pytest.mark.parametrize("pair", [*PAIRS, *DISCRETE])
def test_closed_forms_equal_monte_carlo(pair):
    """100,000 draws for each of 5 q, 4 standard errors of their mean."""
    q, p = (make(BATCH) for make in (PAIRS | DISCRETE)[pair])
    check_draws(compare(q, p, samples=(100_000,)), 4)


@pytest.mark.slow
@pytest.mark.parametrize("pair", [*PAIRS, *DISCRETE])
def test_closed_forms_equal_monte_carlo_over_200_draws(pair):
    """100,000 draws for each of 200 q; the chance that one of 13 x 200 is beyond 5 is 0.15 %."""
    for seed in range(200):
        torch.manual_seed(seed)
        q, p = (make(1) for make in (PAIRS | DISCRETE)[pair])
        check_draws(compare(q, p, samples=(100_000,), seed=seed), 5)


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (dist.Normal(0.3, 0.7), dist.Laplace(-0.2, 1.3)),
        (dist.Normal(0.3, 0.7), dist.StudentT(3.0, 1.0, 0.5)),
        (dist.Laplace(0.3, 0.7), dist.StudentT(3.0, 1.0, 0.5)),
        (dist.StudentT(5.0, 0.3, 0.7), dist.Laplace(0.1, 0.5)),
    ],
    ids=["normal-laplace", "normal-t", "laplace-t", "t-laplace"],
)
def test_quadrature_equals_scipys(q, p):
    value, error, how = integrate(q, p)

    def term(z):
        log_q, log_p = (d.log_prob(torch.tensor(z).double()).item() for d in (q, p))
        return math.exp(log_q) * (log_q - log_p)

    edges = [-math.inf, *sorted([q.mean.item(), p.mean.item()]), math.inf]
    expected = sum(quad(term, a, b, epsabs=1e-8)[0] for a, b in pairwise(edges))
    assert value.item() == pytest.approx(expected, abs=2e-6)  # of float32 parameters
    assert error < 1e-5
    assert how == "Gauss-Legendre, one dimension"


def test_quadrature_of_a_batch_is_refined_until_its_hardest_pair_has_converged():
    """The first p equals q, so that its divergence is zero on any mesh."""
    loc, scale = torch.tensor([[0.0, 3.0], [1.0, 0.02]]).double()
    q = dist.StudentT(torch.tensor(30.0).double(), torch.zeros(2).double(), 1.0)
    both, error, _ = integrate(q, dist.StudentT(q.df, loc, scale))
    hard, _, _ = integrate(dist.StudentT(q.df[1], q.loc[1], 1.0), dist.StudentT(30.0, 3.0, 0.02))
    assert both[0].item() == pytest.approx(0, abs=1e-12)
    assert both[1].item() == pytest.approx(hard.item(), rel=1e-9)
    assert error < 1e-6


def test_a_kink_beside_the_mean_of_p_is_the_end_of_a_panel():
    q = dist.Normal(torch.tensor(0.3).double(), torch.tensor(0.7).double())
    p = dist.AsymmetricLaplace(*(torch.tensor(each).double() for each in (0.11, 0.5, 3.0)))

    def integrand(z):
        z = torch.tensor(z)
        return (q.log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z))).item()

    expected = sum(quad(integrand, *ends, epsabs=1e-13)[0] for ends in ((-8, 0.11), (0.11, 9)))
    value, error, _ = integrate(q, p)
    assert error < 1e-7  # ten times as large where a panel spans the kink
    assert_within(value, expected, error, 1)


def test_what_quadrature_cannot_do_is_none_or_has_a_large_error():
    assert integrate(dist.MultivariateNormal(torch.zeros(3), torch.eye(3)), normal3()) is None
    assert integrate(dist.Beta(2.0, 3.0), dist.Normal(0.0, 1.0)) is None
    result = compare(dist.Cauchy(0.0, 1.0), dist.Normal(0.0, 1.0), samples=(10,))
    assert result.quadrature.error > 0.5 * result.quadrature.value  # it is infinite


def normal3():
    return dist.Normal(torch.zeros(3), 1.0).to_event(1)


@pytest.mark.parametrize(
    "pair",
    [
        pair
        if pair in ("full-mixture", "mixture-normal")
        else pytest.param(pair, marks=pytest.mark.slow)
        for pair in MIXTURES
    ],
)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_mixture_bounds_bracket_quadrature(pair, seed):
    torch.manual_seed(seed)
    q, p = (make(BATCH) for make in MIXTURES[pair])
    value, error, _ = integrate(q, p)
    lower, upper = divergence_bounds(q, p)
    assert_no_less(value, lower - 1e-6, error, 1)
    assert_no_less(upper, value - 1e-6, error, 1)


def test_mixture_bounds_meet_at_one_component_far_from_the_others():
    """q is a component of p, the others are far away: KL(q || p) = -log of its weight."""
    loc = torch.tensor([[0.0, 0.0], [300.0, 0.0]]).double()
    weights = dist.Categorical(probs=torch.tensor([0.3, 0.7]).double())
    p = dist.MixtureSameFamily(weights, dist.Normal(loc, 1.0).to_event(1))
    q = dist.Normal(loc[0], 1.0).to_event(1)
    lower, upper = divergence_bounds(q, p)
    assert upper.item() == pytest.approx(-math.log(0.3), abs=1e-6)
    # Jensen's inequality for a single normal loses log of the mean against the mean of the log
    assert lower.item() == pytest.approx(-math.log(0.3) + math.log(2) - 1, abs=1e-6)


def test_there_are_bounds_for_mixtures_of_normals_alone():
    assert divergence_bounds(normal(), normal()) is None
    assert divergence_bounds(laplace(), mixture()) is None
    result = compare(normal(4), mixture(), samples=(20_000,))
    (row,) = result.monte_carlo
    assert result.closed_form is row.z_score is None
    assert_finite(result.bounds.lower, result.bounds.upper)
    assert result.bounds.lower < row.estimate.value < result.bounds.upper


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
@pytest.mark.parametrize("estimator", ["monte_carlo", "low_variance"])
def test_z_scores_are_standard_normal_over_repetitions(estimator, seed):
    """150 repetitions of 200 draws for 20 q, all of them wider than p and so of finite variance."""
    torch.manual_seed(seed)
    q = dist.Normal(torch.randn(20, 2) / 2, 1 + torch.rand(20, 2)).to_event(1)
    p = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    assert compare(q, p, samples=(2,)).infinite_variance == 0
    z_scores = [
        getattr(compare(q, p, samples=(200,), seed=1_000 * seed + repetition), estimator)[0].z_score
        for repetition in range(150)
    ]
    assert stats.kstest(z_scores, "norm").pvalue > 1e-4


def test_the_low_variance_estimator_has_the_lower_variance_where_q_is_near_p():
    q = dist.Normal(0.05 * torch.randn(10, 3), 1.02).to_event(1)
    result = compare(q, normal3())
    for plain, low in zip(result.monte_carlo[1:], result.low_variance[1:], strict=True):
        assert_finite(low.estimate.standard_error, plain.estimate.standard_error)
        assert low.estimate.standard_error < plain.estimate.standard_error / 5
    assert result.low_variance[-1].mean_ratio == pytest.approx(1, abs=0.01)


def test_the_low_variance_estimator_is_a_nat_too_low_where_q_is_narrow_and_the_ledger_says_so():
    q = dist.Normal(torch.zeros(4, 20), 0.05).to_event(1)
    result = compare(q, dist.Normal(torch.zeros(20), 1.0).to_event(1))
    row = result.low_variance[-1]
    assert row.estimate.value == pytest.approx(result.closed_form.value - 1, abs=0.2)
    assert row.mean_ratio < 1e-3
    assert result.infinite_variance == 4


@pytest.mark.parametrize("scale", [0.6, 0.72, 1.0])
@pytest.mark.parametrize("dense", [False, True])
def test_variance_of_the_ratio_is_infinite_where_its_integral_is(scale, dense):
    """E_q r^2 = integral of p^2 / q, which has the exponent -z^2 + z^2 / (2 s^2)."""
    q = dist.Normal(torch.zeros(1), scale).to_event(1)
    p = (
        dist.MultivariateNormal(torch.zeros(1), torch.eye(1))
        if dense
        else dist.Normal(torch.zeros(1), 1.0).to_event(1)
    )
    assert infinite_variance(q, p).tolist() == [1 / (2 * scale**2) >= 1]


def test_a_row_says_what_it_is():
    result = compare(normal(4), normal())
    assert [row.samples for row in result.monte_carlo] == list(SAMPLES)
    assert {row.formula for row in result.monte_carlo} == {"log q - log p"}
    assert {row.formula for row in result.low_variance} == {"r - 1 - log r"}
    assert result.closed_form.formula == (
        "Independent Normal || Independent Normal, torch.distributions.kl_divergence"
    )
    assert result.examples == 4
    assert result.quadrature.formula == "Gauss-Legendre, dimension by dimension"
    assert abs(result.quadrature.difference) < 1e-9


def test_a_ledger_is_readable_and_gives_plain_data():
    found = compare(normal(4), mixture(), samples=(10, 1_000))
    assert "infinite variance for 4 of the 4 q" in found.unusable
    first, *lines = repr(found).splitlines()
    assert first.endswith("mean of 4, in nats")
    assert [line.split("  ")[0] for line in lines[:2]] == ["quadrature", "bounds"]
    assert lines[-2].endswith("1,000 draws")
    assert lines[-1].partition("  ")[2] == found.unusable
    near = compare(normal(4), student_t(), samples=(10,))
    assert near.unusable is None
    assert repr(near).splitlines()[-1].endswith("10 draws")
    plain = found.to_dict()
    assert plain["closed_form"] is None
    assert plain["images"] == 4
    assert list(plain["bounds"]) == ["lower", "upper", "formula"]
    row = ["samples", "estimate", "standard_error", "z_score", "formula"]
    assert [list(row) for row in plain["monte_carlo"]] == [row] * 2
    assert [list(row) for row in plain["low_variance"]] == [[*row, "mean_ratio"]] * 2


def test_standard_errors_are_of_the_draws_for_the_q_given():
    """Of normals with one scale: log q - log p is a chi-squared variable, times (1 - s^2) / 2."""
    q, p = dist.Normal(torch.zeros(50, 4), 0.5).to_event(1), dist.Normal(torch.zeros(4), 1.0)
    result = compare(q, p.to_event(1), samples=(1, 20_000))
    exact = math.sqrt(4 * 2 * ((1 - 0.25) / 2) ** 2 / 50)
    for row in result.monte_carlo:
        expected = exact / math.sqrt(row.samples)
        assert row.estimate.standard_error == pytest.approx(expected, rel=0.02)
    assert compare(q, p.to_event(1), samples=(1,)).monte_carlo[0].estimate.standard_error is None


def test_dimensions_sum_to_the_whole_where_both_factorise():
    result = compare(laplace(6), normal())
    dimensions = [row.value for row in result.per_dimension]
    assert len(dimensions) == 2
    assert sum(dimensions) == pytest.approx(result.closed_form.value, rel=1e-12)
    integrated = compare(normal(6), student_t())
    assert integrated.closed_form is None
    assert integrated.per_dimension[0].formula.startswith("Gauss-Legendre")
    whole = sum(row.value for row in integrated.per_dimension)
    assert whole == pytest.approx(integrated.quadrature.value, rel=1e-9)
    assert compare(full(6), normal()).per_dimension == ()


UNIT = dist.Normal(torch.zeros(2), 1.0).to_event(1)


def zero_scale(family):
    return family(torch.zeros(2), torch.zeros(2), validate_args=False).to_event(1)


@pytest.mark.parametrize(
    ("q", "p", "reason"),
    [
        (UNIT, dist.Exponential(torch.ones(2)).to_event(1), "q has mass where p has none"),
        (UNIT, dist.Uniform(torch.zeros(2), 1.0).to_event(1), "q has mass where p has none"),
        (zero_scale(dist.Normal), UNIT, "q has scale zero"),
        (zero_scale(dist.Laplace), UNIT, "q has scale zero"),
        (UNIT, zero_scale(dist.Normal), "p has scale zero"),
        (UNIT, zero_scale(dist.Laplace), "p has scale zero"),
        (dist.Delta(torch.zeros(2)).to_event(1), UNIT, "q has scale zero"),
        (dist.OneHotCategorical(logits=torch.zeros(2)), UNIT, "q is discrete"),
        (UNIT, dist.OneHotCategorical(logits=torch.zeros(2)), "p is discrete"),
        (dist.StudentT(1.5, torch.zeros(2), 1.0).to_event(1), UNIT, "too heavy"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_infinite_divergences_are_reported_as_such(q, p, reason):
    result = compare(q, p)
    assert result.closed_form.value == math.inf
    assert reason in result.infinite
    assert all(row.z_score is None for row in result.monte_carlo + result.low_variance)
    if "heavy" not in reason:
        assert result.monte_carlo[-1].estimate.value == math.inf
    plots.divergence(result)


@pytest.mark.parametrize(
    ("q", "p", "options", "error", "message"),
    [
        (torch.zeros(2), UNIT, {}, TypeError, "q must be a distribution .* got Tensor"),
        (UNIT, lambda: UNIT, {}, TypeError, "p must be a distribution"),
        (UNIT, normal3(), {}, ValueError, r"event shape \(2,\) and p \(3,\)"),
        (
            UNIT,
            UNIT.expand([3]),
            {},
            ValueError,
            r"batch shape \(3,\) of p must broadcast to .* \(\)",
        ),
        (UNIT.expand([2]), UNIT.expand([3]), {}, ValueError, "expand q first"),
        (UNIT.expand([0]), UNIT, {}, ValueError, "empty batch"),
        (UNIT, UNIT, {"samples": ()}, ValueError, "positive whole numbers"),
        (UNIT, UNIT, {"samples": (10, 0)}, ValueError, "positive whole numbers"),
        (UNIT, UNIT, {"samples": (1.5,)}, ValueError, "positive whole numbers"),
        (zero_scale(dist.Normal), zero_scale(dist.Normal), {}, ValueError, "both .* scale zero"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_inputs_are_refused(q, p, options, error, message):
    with pytest.raises(error, match=message):
        compare(q, p, **options)


def test_parameters_that_are_no_numbers_are_refused():
    q = dist.Normal(torch.tensor([math.nan, 0.0]), 1.0, validate_args=False).to_event(1)
    p = dist.Normal(torch.zeros(2), 1.0, validate_args=False).to_event(1)
    with pytest.raises(ValueError, match="is NaN at a draw from q"):
        compare(q, p)


def test_discrete_distributions_are_compared():
    q = dist.OneHotCategorical(logits=torch.randn(3, 4))
    result = compare(q, dist.OneHotCategorical(logits=torch.zeros(4)))
    expected = math.log(4) - q.entropy().mean().item()
    assert result.closed_form.value == pytest.approx(expected, rel=1e-5)
    check_draws(result, 4)
    assert result.quadrature is None


def test_float32_parameters_are_compared_in_float64():
    for q, p in PAIRS.values():
        torch.manual_seed(3)
        q32, p32 = single(q(3)), single(p())
        result = compare(q32, p32, samples=(2,))
        assert abs(result.quadrature.difference) < 1e-6 * max(1, result.closed_form.value)


def single(d):
    if isinstance(d, torch.distributions.Independent):
        return single(d.base_dist).to_event(1)
    names = {
        dist.MultivariateNormal: ("loc", "scale_tril"),
        dist.LowRankMultivariateNormal: ("loc", "cov_factor", "cov_diag"),
        dist.StudentT: ("df", "loc", "scale"),
    }.get(type(d), ("loc", "scale"))
    return type(d)(**{name: getattr(d, name).float() for name in names})


def test_a_flow_has_no_closed_form_and_the_rest_agrees_with_quadrature():
    """Within 4 standard errors, for a flow as q and as p."""
    layer = affine_autoregressive(2, hidden_dims=[8]).requires_grad_(False)
    flow = dist.TransformedDistribution(UNIT.expand([3]), [layer])
    for q, p in ((flow, UNIT), (UNIT.expand([3]), flow)):
        result = compare(q, p, samples=(2_000,))
        assert result.closed_form is None
        row = result.monte_carlo[0]
        assert_within(row.estimate.value, result.quadrature.value, row.estimate.standard_error)


def test_nothing_global_is_changed():
    registry = dict(torch.distributions.kl._KL_REGISTRY)
    q, p = full(3), normal()
    state = torch.get_rng_state()
    assert compare(q, p, seed=5) == compare(q, p, seed=5)
    assert compare(q, p, seed=5) != compare(q, p, seed=6)
    assert torch.equal(state, torch.get_rng_state())
    assert registry == torch.distributions.kl._KL_REGISTRY
    with pytest.raises(NotImplementedError):
        kl_divergence(q, p)  # torch has none: TraceMeanField_ELBO samples, as without pyrovae


@pytest.fixture
def images():
    return (torch.rand(130, 1, 8, 8) > 0.5).float()


NOT_REAL = ("sphere", "flow", "categorical")  # or without quadrature


def prior_beside(posterior, name):
    known = {"latent_dim": 2, "event_shape": (1, 8, 8), "posterior": posterior}
    few = {"components": 10} if name == "vamp" else {}  # of 500: for quadrature
    return PRIORS[name](**context_of(PRIORS[name], known), **few)


@pytest.mark.parametrize("prior", [name for name in PRIORS if name not in NOT_REAL])
def test_the_ledger_of_a_vae_agrees_with_itself(prior, network, images):
    shape = (1, 8, 8)
    posterior = DiagonalNormal(2, shape, network)
    vae = VAE(prior_beside(posterior, prior), Bernoulli(2, shape, network), posterior)
    advanced = []
    result = ledger(vae, Rows(images), samples=(10, 400), progress=advanced.append)
    assert advanced == [100, 30]
    assert result.examples == 130
    row = result.monte_carlo[-1]
    assert_within(row.estimate.value, result.quadrature.value, row.estimate.standard_error)
    assert (result.closed_form is None) == (prior not in ("normal", "learned_normal", "laplace"))
    assert (result.bounds is None) == (prior not in ("mixture", "vamp"))
    assert vae.training


def test_a_flow_prior_in_two_dimensions_is_sampled_and_nothing_else(network, images):
    shape = (1, 8, 8)
    posterior = DiagonalNormal(2, shape, network)
    vae = VAE(prior_beside(posterior, "flow"), Bernoulli(2, shape, network), posterior)
    result = ledger(vae, Rows(images), samples=(10, 100), limit=20)
    assert result.closed_form is result.quadrature is result.bounds is None
    few, many = result.monte_carlo
    error = (few.estimate.standard_error**2 + many.estimate.standard_error**2) ** 0.5
    assert_within(few.estimate.value, many.estimate.value, error)


def test_a_point_has_no_density_to_compare(network, images):
    shape = (1, 8, 8)
    vae = VAE(StandardNormal(2), Bernoulli(2, shape, network), Point(2, shape, network))
    assert ledger(vae, Rows(images), samples=(10,)).infinite


def test_the_ledger_of_a_limit_is_of_the_first(vae, images):
    assert ledger(vae, Rows(images), samples=(2,), limit=110) == ledger(
        vae, Rows(images[:110]), samples=(2,)
    )
    whole = ledger(vae, Rows(images), samples=(2,))
    assert whole == ledger(vae, Rows(images), samples=(2,))
    q = vae.posterior(images)
    assert whole.closed_form.value == pytest.approx(
        kl_divergence(q, vae.prior().expand(q.batch_shape)).mean().item(), rel=1e-5
    )
    with pytest.raises(ValueError, match="limit must be positive, got 0"):
        ledger(vae, Rows(images), limit=0)
    with pytest.raises(ValueError, match="no examples"):
        ledger(vae, Rows(images[:0]))


@pytest.mark.parametrize("pair", [(normal, normal), (normal, mixture), (normal, student_t)])
def test_the_figure_shows_rows_bands_and_the_truth(pair, tmp_path):
    q, p = pair
    result = compare(q(4), p())
    figure = plots.divergence(result)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    lines = {line.get_label(): line for line in axes.get_lines()}
    for name in ("monte_carlo", *([] if result.unusable else ["low_variance"])):
        estimates = [row.estimate.value for row in getattr(result, name)]
        assert any(np.array_equal(line.get_ydata(), estimates) for line in lines.values())
    exact = result.reference
    assert any(list(line.get_ydata()) == [exact.value] * 2 for line in lines.values())
    assert any(label.startswith("bounds") for label in axes.get_legend_handles_labels()[1]) == (
        result.bounds is not None
    )
    plots.save(figure, tmp_path / "kl.png")
    assert (tmp_path / "kl.png").stat().st_size > 10_000


KEYS = {"closed_form", "monte_carlo", "low_variance", "quadrature", "bounds", "per_dimension"}


def test_the_command_prints_writes_and_refuses(command, tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.plots.draw_vae", lambda *arguments, **options: None)
    small = ("--encoder", "mlp:hidden_dims=8", "--decoder", "mlp:hidden_dims=8", "--latent-dim", 2)
    assert command("fit", *small, "--epochs", 1, "--out", "run")[0] == 0
    status, out, _ = command("kl", "run", "--samples", "1,10,100", "--limit", 50, "--json")
    assert status == 0
    result = json.loads(out)
    assert result.keys() >= KEYS
    assert result["images"] == 50
    assert [row["samples"] for row in result["low_variance"]] == [1, 10, 100]
    assert (tmp_path / "run/figures/kl.png").read_bytes().startswith(b"\x89PNG")
    status, out, _ = command("kl", "run", "--samples", "1,10,100", "--limit", 50)
    assert status == 0
    for part in ("closed form", "quadrature", "log q - log p", "r - 1 - log r", "by dimension"):
        assert part in out
    assert f"{result['closed_form']['value']:.6f}" in out
    for wrong in ("", "0", "1,x", "1,,2", "-3"):
        status, out, err = command("kl", "run", "--samples", wrong)
        assert status == 2
        assert out == ""
        assert err.count("\n") == 1
    assert command("kl", "nothing")[0] == 2
    assert command("kl", "run", "--limit", "0")[0] == 2


def test_the_command_takes_the_draws_that_python_takes_by_default():
    option = next(each for each in cli.commands["kl"].params if each.name == "samples")
    assert option.default == ",".join(map(str, SAMPLES)) == "1,10,100,1000,10000"
