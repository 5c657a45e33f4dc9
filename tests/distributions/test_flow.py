"""A flow is a Pyro distribution: density and draws agree with zuko's and with torch's."""

import subprocess
import sys

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform, ComposeTransform, SigmoidTransform

from pyrovae.distributions.densities import FlowDistribution, zuko_flows
from pyrovae.networks import Linear
from pyrovae.posteriors import InverseAutoregressive
from pyrovae.priors import Flow
from tests.conftest import SEEDS

zuko = sys.modules[zuko_flows().__name__.partition(".")[0]]


@pytest.fixture
def counted(monkeypatch):
    """The number of passes through networks inside of autoregressive maps so far."""
    passes = [0]
    forward = zuko.nn.MaskedMLP.forward

    def count(self, x):
        passes[0] += 1
        return forward(self, x)

    monkeypatch.setattr(zuko.nn.MaskedMLP, "forward", count)
    return passes


def posterior(latent_dim=4, transforms=3):
    return InverseAutoregressive(latent_dim, (5,), Linear, transforms=transforms)


def test_density_and_draws_are_torchs_where_torch_has_the_transform():
    base = dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
    parts = [AffineTransform(0.3, 0.7), SigmoidTransform(), AffineTransform(1.0, 2.0)]
    flow = FlowDistribution(base, zuko.transforms.DependentTransform(ComposeTransform(parts), 1))
    torch.manual_seed(0)
    z = flow.rsample((8,))
    torch.manual_seed(0)
    oracle = TransformedDistribution(Normal(torch.zeros(3), torch.ones(3)), parts)
    torch.testing.assert_close(z, oracle.rsample((8,)))
    expected = oracle.log_prob(z).sum(-1)
    torch.testing.assert_close(flow.log_prob(z), expected)
    torch.testing.assert_close(flow.log_prob(z.clone()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["nsf", "maf", "realnvp"])
def test_the_prior_is_zukos_own_flow(kind):
    torch.manual_seed(0)
    prior = Flow(4, kind=kind, transforms=2, hidden_dims=(8,))
    torch.manual_seed(0)
    make = {"nsf": zuko.flows.NSF, "maf": zuko.flows.MAF, "realnvp": zuko.flows.RealNVP}[kind]
    oracle = make(4, transforms=2, hidden_features=(8,))
    z = 2 * torch.randn(3, 9, 4)
    torch.testing.assert_close(prior().log_prob(z), oracle().log_prob(z))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_kept_density_of_a_draw_is_that_of_the_inversion(seed):
    torch.manual_seed(seed)
    for q in (
        posterior().double()(torch.randn(7, 5).double()),
        Flow(4).double()(),
        Flow(4, kind="realnvp").double()(),
    ):
        z = q.rsample((6,))
        torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=1e-6, atol=1e-6)


def test_log_density_is_by_the_jacobian_of_the_map():
    q = posterior(3).double()(torch.randn(5).double())
    e = torch.randn(3, dtype=torch.float64)
    z = q.transform(e)
    jacobian = torch.autograd.functional.jacobian(q.transform, e)
    expected = q.base.log_prob(e) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-6, atol=1e-6)


def test_a_draw_of_the_posterior_and_its_density_take_one_pass(counted):
    q = posterior(transforms=3)(torch.randn(7, 5))
    with pyro.plate("data", 7):
        trace = pyro.poutine.trace(lambda: pyro.sample("z", q)).get_trace()
        trace.compute_log_prob()
    assert counted == [3]  # one for each map
    q.log_prob(trace.nodes["z"]["value"].clone())
    assert counted[0] > 3 + 3 * 4  # any other value is inverted dimension by dimension


def test_the_density_of_a_prior_takes_one_pass(counted):
    p = Flow(4, transforms=3)()
    p.log_prob(torch.randn(7, 4))
    assert counted == [3]


def test_gradients_of_a_kept_density_are_those_of_the_inversion():
    module = posterior().double()
    x = torch.randn(7, 5).double()
    gradients = []
    for keep in (True, False):
        torch.manual_seed(3)
        q = module(x)
        z = q.rsample()
        module.zero_grad()
        q.log_prob(z if keep else z.clone()).sum().backward()
        gradients.append([p.grad.clone() for p in module.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)


def test_a_draw_without_gradient_is_scored_with_one():
    q = posterior()(torch.randn(7, 5))
    z = q.sample()
    assert not z.requires_grad
    assert q.log_prob(z).requires_grad
    with torch.no_grad():
        assert not q.log_prob(z).requires_grad


def test_values_outside_the_support_are_refused_where_asked():
    p = FlowDistribution(
        dist.Normal(torch.zeros(2), 1.0).to_event(1), Flow(2).to_normal().inv, validate_args=True
    )
    with pytest.raises(ValueError, match="support"):
        p.log_prob(torch.tensor([0.0, float("nan")]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Flow(2, transforms=0),
            "transforms must be positive, got 0; for .* Standard",
        ),
        (lambda: Flow(2, hidden_dims=(8, 0)), "hidden_dims must be positive, got 0"),
        (lambda: Flow(2, kind="x"), "kind must be one of nsf, maf, realnvp, got 'x'"),
        (lambda: posterior(transforms=0), "transforms must be positive, got 0; for .* Diagonal"),
        (
            lambda: InverseAutoregressive(2, (5,), Linear, features=0),
            "features must be positive, got 0",
        ),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_zuko_leaves_validation_as_it_is():
    code = (
        "import sys, torch\n"
        "from pyrovae.priors import Flow\n"
        "assert 'zuko' not in sys.modules\n"
        "Flow(2)\n"
        "assert 'zuko' in sys.modules\n"
        "assert torch.distributions.Distribution._validate_args\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
