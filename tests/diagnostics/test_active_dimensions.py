"""What is said of the latent dimensions is true of posteriors that are known."""

import pytest
import torch
from torch import nn

from pyrovae.data import Split
from pyrovae.diagnostics.latent_dimensions import ACTIVE, active_units, activity
from pyrovae.likelihoods import Bernoulli
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal, InverseAutoregressive
from pyrovae.priors import StandardNormal
from pyrovae.vae import VAE
from tests.conftest import SEEDS


class Scaled(nn.Module):
    """A network whose means are known multiples of the data."""

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, 0.05, 0.0]))

    def forward(self, x):
        return torch.stack([self.weight * x, torch.zeros_like(x)], -2)


def scaled():
    return VAE(StandardNormal(3), Bernoulli(3, (3,), MLP), DiagonalNormal(3, (3,), Scaled))


@pytest.mark.parametrize("seed", SEEDS)
def test_activity_is_the_variance_of_the_means(seed):
    x = torch.randn(257, 3, generator=torch.Generator().manual_seed(seed))
    vae = scaled().train()
    expected = (vae.posterior.encoder.weight.detach() * x).double().var(0)
    found = activity(vae, Split.from_array(x))
    assert torch.allclose(found, expected, rtol=1e-6)
    assert vae.training
    assert active_units(vae, Split.from_array(x)) == int((expected > ACTIVE).sum()) == 1
    some = activity(vae, Split.from_array(x), limit=120)
    assert torch.allclose(some, activity(vae, Split.from_array(x[:120])))


def test_means_by_draws_do_not_depend_on_the_random_state(network, digits):
    vae = VAE(
        StandardNormal(2),
        Bernoulli(2, (1, 8, 8), network),
        InverseAutoregressive(2, (1, 8, 8), network),
    )
    before = torch.get_rng_state()
    first = activity(vae, Split.from_array(digits), limit=10)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    assert torch.equal(activity(vae, Split.from_array(digits), limit=10), first)


def test_one_example_has_no_variance():
    with pytest.raises(ValueError, match="there are 1 examples; give at least 2"):
        activity(scaled(), Split.from_array(torch.ones(1, 3)))
