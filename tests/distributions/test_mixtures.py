"""The fast density of a mixture of normals, against torch's own in float64."""

import pytest
import torch
from pyro import distributions as dist

from pyrovae._process.compilation import traced
from pyrovae.distributions import Mixture, in_float64
from tests.conftest import SEEDS

SCALES = (1e-4, 1e-2, 1.0, 1e2)


def pair(seed, scale, dtype=torch.float32):
    """The same mixture by both classes, torch's in float64."""
    torch.manual_seed(seed)
    logits, loc = torch.randn(30, dtype=dtype), torch.randn(30, 7, dtype=dtype)
    spread = scale * (0.1 + torch.rand(30, 7, dtype=dtype))
    fast = Mixture(dist.Categorical(logits=logits), dist.Normal(loc, spread).to_event(1))
    slow = dist.MixtureSameFamily(
        dist.Categorical(logits=logits.double()),
        dist.Normal(loc.double(), spread.double()).to_event(1),
    )
    return fast, slow


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scale", SCALES)
def test_density_is_torchs(seed, scale):
    fast, slow = pair(seed, scale)
    z = fast.sample((5, 64))
    expected = slow.log_prob(z.double())
    for p in (fast, fast.expand((64,)), fast.expand((5, 64))):
        found = p.log_prob(z)
        assert found.dtype is torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=1e-6)
    [double] = in_float64(fast.expand((64,)))
    assert double.log_prob(z.double()).dtype is torch.float64
    torch.testing.assert_close(double.log_prob(z.double()), expected, rtol=1e-7, atol=1e-6)


def test_one_draw_for_an_expanded_mixture():
    fast, slow = pair(0, 1.0)
    z = fast.sample()
    found = fast.expand((3, 2)).log_prob(z)
    assert found.shape == (3, 2)
    torch.testing.assert_close(found[2, 1].double(), slow.log_prob(z.double()))


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_are_torchs(seed):
    fast, slow = pair(seed, 0.3, torch.float64)
    leaves = [
        t.requires_grad_()
        for t in (
            fast.component_distribution.base_dist.loc,
            fast.component_distribution.base_dist.scale,
        )
    ]
    slow = dist.MixtureSameFamily(slow.mixture_distribution, dist.Normal(*leaves).to_event(1))
    z = slow.sample((20,))
    grads = [torch.autograd.grad(p.log_prob(z).sum(), leaves) for p in (fast, slow)]
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8])
def test_extreme_scales_are_torchs(scale):
    """Squares that float64 cannot add without loss are left to torch."""
    fast, slow = pair(0, scale, torch.float64)
    z = torch.cat([fast.sample((20,)), fast.component_distribution.mean[:2]])
    torch.testing.assert_close(fast.log_prob(z), slow.log_prob(z), rtol=1e-9, atol=1e-8)


def test_infinite_values_have_no_density():
    fast, _ = pair(0, 1.0)
    z = torch.zeros(2, 7)
    z[1, 3] = torch.inf
    with pytest.raises(ValueError, match="support"):
        Mixture(
            fast.mixture_distribution, fast.component_distribution, validate_args=True
        ).log_prob(z * torch.nan)
    assert fast.log_prob(z)[1] == -torch.inf


def test_a_trace_has_no_branch():
    fast, slow = pair(0, 1.0)
    z = fast.sample((6,))
    graph = traced(lambda z: (fast.log_prob(z),), z)
    other = fast.sample((6,))
    [found] = graph(other)
    torch.testing.assert_close(found.double(), slow.log_prob(other.double()), rtol=2e-6, atol=1e-6)
    assert any("mm" in str(node.target) for node in graph.graph.nodes)  # not one density each


def test_other_components_are_torchs():
    laplace = dist.Laplace(torch.randn(4, 2), 1.0).to_event(1)
    weights = dist.Categorical(torch.ones(4))
    z = torch.randn(9, 2)
    expected = dist.MixtureSameFamily(weights, laplace).log_prob(z)
    torch.testing.assert_close(Mixture(weights, laplace).log_prob(z), expected)
