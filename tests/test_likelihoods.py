"""Every likelihood is normalised, keeps its constants, and starts from the data's mean."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from pyrovae.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Binomial,
    ContinuousBernoulli,
    Normal,
)
from pyrovae.networks import Linear

OPTIONS = {"binomial": {"total_count": 3}}
MEANS = torch.tensor([0.1, 0.5, 0.9])


def make(name, event_shape, network, **options):
    return LIKELIHOODS[name](2, event_shape, network, **(OPTIONS.get(name, {}) | options))


@pytest.mark.parametrize("event_shape", [(5,), (1, 4, 4), (3, 6, 5)])
@pytest.mark.parametrize("batch", [(), (7,), (3, 7)])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_shapes_under_extra_batch_dimensions(name, batch, event_shape, network):
    p = make(name, event_shape, network)(torch.randn(*batch, 2))
    assert p.batch_shape == batch
    assert p.event_shape == event_shape
    x = p.sample((4,))
    assert x.shape == (4, *batch, *event_shape)
    assert p.log_prob(x).shape == (4, *batch)
    assert p.mean.shape == (*batch, *event_shape)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_samples_lie_in_the_support(name, network):
    p = make(name, (5,), network)(torch.randn(20, 2))
    assert p.support.check(p.sample((50,))).all()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_sums_or_integrates_to_one(name, network):
    likelihood = make(name, (1,), network).double()
    p = likelihood(torch.randn(2, dtype=torch.float64))

    def density(x: float) -> float:
        with torch.no_grad():
            return p.log_prob(torch.tensor([x], dtype=torch.float64)).exp().item()

    if name == "bernoulli":
        total = density(0) + density(1)
    elif name == "binomial":
        total = sum(density(x) for x in range(4))
    elif name == "continuous_bernoulli":
        total = quad(density, 0, 1)[0]
    else:
        total = quad(density, -30, 30, points=[p.mean.item()], limit=200)[0]
    assert total == pytest.approx(1, abs=1e-6)


def test_every_entry_has_a_normalisation_test():
    assert set(LIKELIHOODS) == {"bernoulli", "binomial", "continuous_bernoulli", "normal"}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradients_reach_every_parameter(name, network):
    likelihood = make(name, (5,), network)
    p = likelihood(torch.randn(8, 2))
    p.log_prob(p.sample()).sum().backward()
    for parameter_name, parameter in likelihood.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_save_and_load(name, network):
    a, b = (make(name, (5,), network) for _ in range(2))
    b.load_state_dict(a.state_dict())
    z = torch.randn(3, 2)
    x = a(z).sample()
    assert torch.equal(a(z).log_prob(x), b(z).log_prob(x))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_initialize_starts_the_mean_at_the_mean_of_the_data(name):
    """With a linear decoder whose weights are zero the mean of p(x | z) is its start."""
    likelihood = make(name, (3,), Linear)
    maximum = OPTIONS.get(name, {}).get("total_count", 1)
    shares = np.linspace(0.05, 0.95, 2_000)[:, None] < MEANS.numpy()
    x = torch.from_numpy(shares.astype(np.float32)) * maximum
    likelihood.initialize(x)
    with torch.no_grad():
        likelihood.decoder.layer.weight.zero_()
    torch.testing.assert_close(likelihood(torch.zeros(2)).mean, x.mean(0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_initialize_survives_constant_pixels(name, network):
    likelihood = make(name, (2,), network)
    x = torch.tensor([[0.0, 1.0]]).expand(50, 2)
    likelihood.initialize(x)
    assert torch.isfinite(likelihood(torch.randn(2)).log_prob(x)).all()


def test_normalising_constants_are_scipys():
    z, x = torch.zeros(2), torch.tensor([0.0, 1.0, 2.0, 3.0])
    binomial = Binomial(2, (4,), Linear, total_count=3)(z)
    probs = binomial.base_dist.probs.detach().numpy()
    expected = stats.binom.logpmf(x.numpy(), 3, probs).sum()
    assert binomial.log_prob(x).item() == pytest.approx(expected, rel=1e-5)
    normal = Normal(2, (4,), Linear, scale=0.3)(z)
    expected = stats.norm.logpdf(x.numpy(), normal.mean.detach().numpy(), 0.3).sum()
    assert normal.log_prob(x).item() == pytest.approx(expected, rel=1e-5)


def test_bernoulli_enumerated_over_all_images_sums_to_one():
    p = Bernoulli(2, (1, 2, 3), Linear)(torch.randn(2))
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6))).reshape(-1, 1, 2, 3)
    assert p.log_prob(images).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_learned_scale_is_one_parameter_and_fixed_scale_none():
    learned, fixed = Normal(2, (3,), Linear), Normal(2, (3,), Linear, scale=0.5)
    count = sum(p.numel() for p in fixed.parameters())
    assert sum(p.numel() for p in learned.parameters()) == count + 1
    assert fixed(torch.zeros(2)).stddev.unique().item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("make_wrong", "message"),
    [
        (lambda: Binomial(2, (3,), Linear, total_count=0), "total_count must be positive, got 0"),
        (lambda: Normal(2, (3,), Linear, scale=0.0), "positive number or 'learned', got 0.0"),
        (lambda: Normal(2, (3,), Linear, scale="shared"), "'learned', got 'shared'"),
    ],
)
def test_wrong_options_are_refused(make_wrong, message):
    with pytest.raises(ValueError, match=message):
        make_wrong()


def test_continuous_bernoulli_differs_from_bernoulli_by_its_constant():
    torch.manual_seed(3)
    bernoulli = Bernoulli(2, (4,), Linear)
    continuous = ContinuousBernoulli(2, (4,), Linear)
    continuous.load_state_dict(bernoulli.state_dict())
    z, x = torch.randn(2), torch.rand(4)
    logits = bernoulli.decoder(z)
    unnormalised = (x * logits - torch.nn.functional.softplus(logits)).sum()
    constant = continuous(z).log_prob(x) - unnormalised
    other = continuous(z).log_prob(1 - x)
    mirrored = ((1 - x) * logits - torch.nn.functional.softplus(logits)).sum()
    torch.testing.assert_close(other - mirrored, constant)
    assert constant.item() > 4 * np.log(2) - 1e-4  # C(lambda) is at least 2
