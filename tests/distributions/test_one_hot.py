"""One-hot variables by enumeration, their relaxation by quadrature, torch's own and its draws."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from scipy import stats
from scipy.integrate import simpson

from pyrovae.distributions.spaces import OneHots, RelaxedOneHots, number_of_variables
from pyrovae.kl import closed_form
from tests.conftest import SEEDS
from tests.oracles import assert_within


def logits(*shape, dtype=torch.float64):
    return 1.5 * torch.randn(shape, dtype=dtype)


def test_masses_of_all_values_sum_to_one_with_their_moments_and_entropy():
    p = OneHots(logits(4, 2, 3))
    z = p.enumerate_support()
    assert z.shape == (9, 4, 6)
    assert torch.equal(z, p.enumerate_support(expand=False).expand(9, 4, 6))
    assert p.support.check(z).all()
    mass = p.log_prob(z).exp()  # (9, 4)
    torch.testing.assert_close(mass.sum(0), torch.ones(4).double())
    mean = (mass[..., None] * z).sum(0)
    torch.testing.assert_close(p.mean, mean)
    torch.testing.assert_close(p.variance, (mass[..., None] * z.square()).sum(0) - mean.square())
    torch.testing.assert_close(p.entropy(), -(mass * mass.log()).sum(0))


def test_one_variable_is_torchs_one_hot_categorical():
    own, theirs = OneHots(logits(5, 1, 4)), dist.OneHotCategorical(logits=logits(5, 4))
    own.logits = theirs.logits[:, None]
    z = theirs.enumerate_support()
    torch.testing.assert_close(own.log_prob(z), theirs.log_prob(z))
    assert torch.equal(own.enumerate_support(), z)


@pytest.mark.parametrize("seed", SEEDS)
def test_draws_are_as_frequent_as_their_mass(seed):
    """Chi-squared over all nine values."""
    torch.manual_seed(seed)
    p = OneHots(logits(2, 3))
    values, z = p.enumerate_support(), p.sample((4_000,))
    counts = (z[:, None] == values).all(-1).sum(0)
    assert counts.sum() == 4_000
    expected = 4_000 * p.log_prob(values).exp()
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-4


def test_too_many_values_are_not_enumerated():
    with pytest.raises(NotImplementedError, match=r"20 variables of 10 classes .* at most 65,536"):
        OneHots(torch.zeros(20, 10)).enumerate_support()


@pytest.mark.parametrize("wrong", [[1.0, 0, 1, 1], [1.0, 0, 0, 0], [0.5, 0.5, 0, 1]])
def test_what_is_not_one_hot_is_outside(wrong):
    z = torch.tensor(wrong)
    assert not OneHots(torch.zeros(2, 2)).support.check(z)
    with pytest.raises(ValueError, match="support"):
        OneHots(torch.zeros(2, 2)).log_prob(z)


@pytest.mark.parametrize("temperature", [0.3, 0.7, 2.0])
def test_the_relaxation_is_torchs(temperature):
    """A product of its densities; float64 has no coordinate that is too small here."""
    own = RelaxedOneHots(logits(5, 3, 4), temperature)
    exact = torch.tensor(temperature, dtype=torch.float64)
    theirs = dist.RelaxedOneHotCategorical(exact, logits=own.logits)
    z = own.sample((50,))
    assert own.support.check(z).all()
    expected = theirs.log_prob(z.unflatten(-1, (3, 4))).sum(-1)
    torch.testing.assert_close(own.log_prob(z), expected)


@pytest.mark.parametrize(("temperature", "floor"), [(0.7, 1e-9), (0.3, 1e-9), (0.1, 1e-12)])
@pytest.mark.parametrize("shift", [-2.0, 0.0, 3.0])
def test_densities_of_two_classes_integrate_to_one_with_the_masses_at_the_floor(
    temperature, floor, shift
):
    p = RelaxedOneHots(torch.tensor([[shift, 0.0]]).double(), temperature, floor=floor)

    end = -math.log(floor) - 1e-8
    odds = torch.linspace(-end, end, 40_001, dtype=torch.float64)
    z = torch.stack([odds.sigmoid(), (-odds).sigmoid()], -1)
    density = p.log_prob(z).exp() * z.prod(-1)  # dz = z (1 - z) d odds
    inside = simpson(density, x=odds)
    ends = torch.tensor([[floor, 1.0], [1.0, floor]]).double()
    low, high = p.log_prob(ends).exp().tolist()
    assert inside + low + high == pytest.approx(1, abs=1e-7)
    # below the floor: the log odds are logistic around shift / T, with scale 1 / T
    assert low == pytest.approx(stats.logistic.cdf(-end, shift / temperature, 1 / temperature))
    assert high == pytest.approx(stats.logistic.sf(end, shift / temperature, 1 / temperature))
    if temperature == 0.1:
        assert low + high > 0.05


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_largest_coordinate_is_distributed_as_the_one_hot_variable(temperature, seed):
    """Chi-squared, whatever the temperature."""
    torch.manual_seed(seed)
    p = RelaxedOneHots(logits(1, 4, dtype=torch.float32), temperature)
    counts = p.sample((4_000,)).argmax(-1).bincount(minlength=4)
    expected = 4_000 * p.logits[0].double().softmax(-1)
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
def test_the_mean_ratio_of_two_densities_is_one_with_coordinates_at_the_floor(temperature, seed):
    """Of four classes in float32, within 4 standard errors: the densities are of one measure."""
    torch.manual_seed(seed)
    q = RelaxedOneHots(torch.randn(1, 4), temperature)
    p = RelaxedOneHots(torch.randn(1, 4), temperature)
    z = q.sample((200_000,))
    at_floor = (z <= q.floor).sum(-1)
    if temperature == 0.1:  # none, one, two and three of them
        assert at_floor.bincount(minlength=4).min() > 0
    ratio = (p.log_prob(z) - q.log_prob(z)).double().exp()
    assert_within(ratio.mean(), 1, ratio.std() / len(ratio) ** 0.5)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_densities_and_gradients_are_finite_where_torchs_are_not(temperature):
    """In float32, for logits up to 20: densities of q and p, along the draw and in the logits."""
    variables = (20 * (2 * torch.rand(500, 5, 10) - 1)).requires_grad_()
    q = RelaxedOneHots(variables, temperature)
    p = RelaxedOneHots(torch.zeros(5, 10, requires_grad=True), 0.1)
    z = q.rsample((4,))
    assert (z > 0).all()
    log_q, log_p = q.log_prob(z), p.log_prob(z)
    assert log_q.isfinite().all()
    assert log_p.isfinite().all()
    for term in (log_q, log_p, log_q - log_p):
        found = torch.autograd.grad(1_000 * term.sum(), (variables, z), retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in found)
    theirs = dist.RelaxedOneHotCategorical(torch.tensor(0.1), logits=variables.detach())
    assert not theirs.log_prob(theirs.sample()).isfinite().all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_gradients_of_the_divergence_are_exact_in_mean(temperature, seed):
    """Of two classes against quadrature over the log odds, within 4 standard errors."""
    torch.manual_seed(seed)
    p = RelaxedOneHots(torch.zeros(1, 2).double(), 0.5)

    def divergence(shift):
        q = RelaxedOneHots(torch.tensor([[shift, 0.0]]).double(), temperature)
        odds = torch.linspace(-60, 60, 24_001, dtype=torch.float64) + shift / temperature
        z = torch.stack([odds.sigmoid(), (-odds).sigmoid()], -1)
        log_q, log_p = q.log_prob(z), p.log_prob(z)
        step = (odds[1] - odds[0]) * z.prod(-1)
        return (step * log_q.exp() * (log_q - log_p)).sum().item()

    shift = torch.full((40_000,), 1.3, dtype=torch.float64, requires_grad=True)
    q = RelaxedOneHots(torch.stack([shift, torch.zeros_like(shift)], -1)[:, None], temperature)
    z = q.rsample()
    terms = q.log_prob(z) - p.log_prob(z)
    assert_within(terms.mean(), divergence(1.3), terms.std() / 200)
    (gradient,) = torch.autograd.grad(terms.sum(), shift)
    exact = (divergence(1.3 + 1e-4) - divergence(1.3 - 1e-4)) / 2e-4
    assert_within(gradient.mean(), exact, gradient.std() / 200)


@pytest.mark.parametrize("kind", [OneHots, lambda logits: RelaxedOneHots(logits, 0.7)])
def test_shapes_and_expansion(kind):
    d = kind(torch.randn(4, 2, 3))
    assert (d.batch_shape, d.event_shape, d.sample((5,)).shape) == ((4,), (6,), (5, 4, 6))
    wide = d.expand((6, 4))
    z = wide.sample()
    torch.testing.assert_close(wide.log_prob(z), d.log_prob(z))
    with pyro.plate("particles", 6, dim=-2), pyro.plate("data", 4, dim=-1):
        assert pyro.sample("z", d).shape == (6, 4, 6)


def test_mixtures_are_sums_over_their_components():
    weights = torch.tensor([0.2, 0.5, 0.3]).double()
    each = OneHots(logits(3, 2, 3))
    mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), each)
    z = OneHots(torch.zeros(2, 3).double()).enumerate_support()
    expected = (weights * each.log_prob(z[:, None]).exp()).sum(-1)
    torch.testing.assert_close(mixture.log_prob(z).exp(), expected)
    assert mixture.support.is_discrete
    relaxed = RelaxedOneHots(each.logits, 0.1)
    mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), relaxed)
    z = mixture.sample((50,))
    expected = (weights * relaxed.log_prob(z[:, None]).exp()).sum(-1)
    torch.testing.assert_close(mixture.log_prob(z).exp(), expected)


def test_one_hots_of_other_classes_are_infinitely_far():
    value, _ = closed_form(OneHots(torch.zeros(3, 2, 2)), OneHots(torch.zeros(1, 4)))
    assert (value == math.inf).all()


@pytest.mark.parametrize(
    ("latent_dim", "classes", "message"),
    [
        (12, 5, "divisor of latent_dim = 12, from 2, got 5; take one of 2, 3, 4, 6, 12, or"),
        (12, 1, "from 2, got 1; take one of 2"),
        (7, 2, "take one of 7"),
        (1, 2, "latent_dim must be at least 2 for one-hot vectors, .*, got 1"),
    ],
)
def test_classes_that_do_not_fit_are_refused_with_those_that_do(latent_dim, classes, message):
    with pytest.raises(ValueError, match=message):
        number_of_variables(latent_dim, classes)
    assert number_of_variables(12, 4) == 3
