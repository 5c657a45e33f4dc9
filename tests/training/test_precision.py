"""Networks compute in bfloat16 where that is asked for, and all else in float32."""

from functools import partial

import pytest
import torch
from pyro import distributions as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae.data import load
from pyrovae.evidence import evaluate
from pyrovae.likelihoods import Bernoulli, Binomial
from pyrovae.networks import MLP, Conv, Gated, Residual
from pyrovae.objectives import Elbo
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import Flow, StandardNormal
from pyrovae.training.fitting import fit
from pyrovae.training.precision import products_in
from pyrovae.training.staging import Staged
from pyrovae.vae import VAE
from tests.conftest import EXPENSIVE_SEEDS

SHAPE = (1, 8, 8)
SMALL = partial(MLP, hidden_dims=(32,))


def make(network=SMALL, prior=None):
    torch.manual_seed(0)
    return VAE(
        prior or StandardNormal(3),
        Binomial(3, SHAPE, network, total_count=16),
        DiagonalNormal(3, SHAPE, network),
    )


@pytest.fixture(scope="module")
def digits():
    return torch.cat(list(load("digits").train.batches(100)))[:200]


class Types(TorchDispatchMode):
    """Notes the types of what operations give, products apart from the others."""

    PRODUCTS = ("mm", "addmm", "bmm", "convolution")

    def __init__(self):
        super().__init__()
        self.products, self.others = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if isinstance(out, torch.Tensor) and out.is_floating_point():
            (self.products if name in self.PRODUCTS else self.others).add(out.dtype)
        return out


@pytest.mark.parametrize("network", [SMALL, Residual, Gated, Conv])
def test_products_are_bf16_and_distributions_float32(network, digits):
    vae, x = make(network), digits[:10]
    with products_in("bf16", vae), Types() as seen:
        q = vae.posterior(x)
        p = vae.likelihood(q.rsample())
        log_p = p.log_prob(x)
    assert seen.products == {torch.bfloat16}
    assert {q.mean.dtype, q.stddev.dtype, p.mean.dtype, log_p.dtype} == {torch.float32}
    with Types() as seen:
        vae.likelihood(vae.posterior(x).rsample()).log_prob(x)
    assert seen.products == {torch.float32} == seen.others


def test_densities_are_of_the_networks_outputs_without_further_rounding(digits):
    """Given the same outputs, log p(x | z) and the KL are those of float32 to the bit."""
    vae, x = make(), digits[:10]
    with products_in("bf16", vae):
        q = vae.posterior(x)
        z = q.rsample()
        logits = vae.likelihood.decoder(z)
        log_p = vae.likelihood(z).log_prob(x)
    exact = torch.distributions.Binomial(16, logits=logits).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(log_p, exact, rtol=1e-6, atol=1e-4)
    kl = torch.distributions.kl_divergence(q.base_dist, torch.distributions.Normal(0, 1))
    assert kl.dtype == torch.float32


def test_a_priors_own_networks_stay_float32(digits):
    vae = make(prior=Flow(3, transforms=1, hidden_dims=(8,)))
    z = torch.randn(5, 3)
    expected = vae.prior().log_prob(z)
    with products_in("bf16", vae):
        assert torch.equal(vae.prior().log_prob(z), expected)


def test_gradients_are_float32_and_near(digits):
    vae = make()
    gradients = {}
    for precision in ("float32", "bf16"):
        vae.zero_grad()
        torch.manual_seed(1)
        with products_in(precision, vae):
            Elbo().loss_and_grads(vae.model, vae.guide, digits)
        gradients[precision] = torch.cat([p.grad.flatten() for p in vae.parameters()])
    assert gradients["bf16"].dtype == torch.float32
    assert not torch.equal(gradients["bf16"], gradients["float32"])
    distance = (gradients["bf16"] - gradients["float32"]).norm() / gradients["float32"].norm()
    assert distance < 0.02  # 8 bits: 2^-9 = 0.002 at each rounding


def test_networks_are_as_before_after_the_block():
    vae = make()
    before = {name: vars(module).keys() for name, module in vae.named_modules()}
    with pytest.raises(RuntimeError, match="inside"), products_in("bf16", vae):
        raise RuntimeError("inside")
    assert before == {name: vars(module).keys() for name, module in vae.named_modules()}


@pytest.mark.parametrize("mode", ["graph", pytest.param("inductor", marks=pytest.mark.slow)])
def test_bf16_is_staged(mode, digits):
    vae = make()
    with products_in("bf16", vae):
        staged = Staged(Elbo(), vae, mode=mode, tolerance=0.05)
        staged.loss_and_grads(vae.model, vae.guide, digits)
        assert staged.reason is None
        for p in vae.parameters():
            p.grad = None
        torch.manual_seed(2)
        replayed = float(staged.loss_and_grads(vae.model, vae.guide, digits))
        torch.manual_seed(2)
        eager = Elbo().loss(vae.model, vae.guide, digits)
    assert replayed == pytest.approx(eager, rel=1e-3)


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
@pytest.mark.parametrize("mode", ["off", "graph"])
def test_bf16_trains_to_the_same_bound(seed, mode):
    data = load("digits")
    bounds = {}
    for precision in ("float32", "bf16"):
        vae = make()
        fit(
            vae,
            data,
            epochs=6,
            batch_size=64,
            learning_rate=3e-3,
            compile=mode,
            precision=precision,
            device="cpu",
            seed=seed,
        )
        bounds[precision] = evaluate(vae, data.validation, samples=10).elbo.value
        assert {p.dtype for p in vae.parameters()} == {torch.float32}
    assert bounds["bf16"] != bounds["float32"]
    assert bounds["bf16"] == pytest.approx(bounds["float32"], abs=1.0)


def test_a_bf16_run_resumes_at_its_precision_alone(digits, tmp_path):
    options = {"epochs": 2, "batch_size": 50, "device": "cpu", "out": tmp_path / "run"}
    fit(make(), digits, **options, precision="bf16")
    with pytest.raises(ValueError, match="has precision = bf16, got float32"):
        fit(make(), digits, **options, resume=True)


def test_a_model_without_networks_is_refused_and_nothing_is_written(digits, tmp_path):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(SHAPE))

        def forward(self, z):
            logits = self.logits + 0 * z.sum(-1)[..., None, None, None]
            return dist.Bernoulli(logits=logits).to_event(3)

    class Same(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return dist.Normal(self.loc.expand(len(x), 3), 1.0).to_event(1)

    vae = VAE(StandardNormal(3), Constant(), Same())
    x = (digits > 8).float()
    with pytest.raises(
        ValueError, match="networks called encoder or decoder, and this model has none"
    ):
        fit(vae, x, epochs=1, device="cpu", precision="bf16", out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_precision_is_refused(digits):
    with pytest.raises(ValueError, match="precision must be one of float32, bf16, got 'half'"):
        fit(make(), digits, epochs=1, device="cpu", precision="half")


def test_a_bernoulli_of_doubles_stays_double(digits):
    vae = VAE(StandardNormal(3), Bernoulli(3, SHAPE, SMALL), DiagonalNormal(3, SHAPE, SMALL))
    vae = vae.double()
    x = (digits[:5] > 8).double()
    with products_in("bf16", vae):
        assert vae.posterior(x).mean.dtype == torch.float64
