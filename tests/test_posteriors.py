"""Every posterior is a distribution over z for each x, and differentiable in all its parameters."""

import pytest
import torch

from pyrovae.networks import Linear
from pyrovae.posteriors import POSTERIORS, DiagonalNormal

SHAPES = [(5,), (1, 4, 4)]


@pytest.mark.parametrize("event_shape", SHAPES)
@pytest.mark.parametrize("batch", [(), (7,), (3, 7)])
@pytest.mark.parametrize("name", POSTERIORS)
def test_shapes_under_extra_batch_dimensions(name, batch, event_shape, network):
    q = POSTERIORS[name](2, event_shape, network)(torch.randn(*batch, *event_shape))
    assert q.batch_shape == batch
    assert q.event_shape == (2,)
    assert q.rsample((6,)).shape == (6, *batch, 2)


@pytest.mark.parametrize("name", POSTERIORS)
def test_gradients_reach_every_parameter(name, network):
    posterior = POSTERIORS[name](2, (5,), network)
    q = posterior(torch.randn(8, 5))
    z = q.rsample()
    (q.log_prob(z.detach()) + z.square().sum(-1)).sum().backward()
    for parameter_name, parameter in posterior.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", POSTERIORS)
def test_density_integrates_to_one(name, network):
    """On a grid in two dimensions, for one x."""
    q = POSTERIORS[name](2, (5,), network).double()(torch.randn(5, dtype=torch.float64))
    axes = [torch.linspace(-8, 8, 1_601, dtype=torch.float64)] * 2
    z = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) * q.stddev + q.mean
    cell = 0.01**2 * q.stddev.prod()
    assert (q.log_prob(z).exp().sum() * cell).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", POSTERIORS)
def test_save_and_load(name, network):
    a, b = (POSTERIORS[name](2, (5,), network) for _ in range(2))
    b.load_state_dict(a.state_dict())
    x = torch.randn(3, 5)
    assert torch.equal(a(x).mean, b(x).mean)
    assert torch.equal(a(x).stddev, b(x).stddev)


def test_encoder_gives_a_log_standard_deviation():
    posterior = DiagonalNormal(1, (1,), Linear)
    with torch.no_grad():
        posterior.encoder.layer.weight.zero_()
        posterior.encoder.layer.bias.copy_(torch.tensor([3.0, torch.log(torch.tensor(0.5))]))
    q = posterior(torch.zeros(1))
    torch.testing.assert_close(q.mean, torch.tensor([3.0]))
    torch.testing.assert_close(q.stddev, torch.tensor([0.5]))


def test_initialize_makes_the_encoder_blind_to_the_unit_of_x(network):
    x = torch.randn(50, 5)
    torch.manual_seed(1)
    metres = DiagonalNormal(2, (5,), network)
    torch.manual_seed(1)
    millimetres = DiagonalNormal(2, (5,), network)
    metres.initialize(x)
    millimetres.initialize(1000 * x)
    torch.testing.assert_close(metres(x).mean, millimetres(1000 * x).mean)
