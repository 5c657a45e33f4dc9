"""Every prior is trained and evaluated with every posterior that goes with it."""

import math
from functools import partial

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyrovae.components import Spec, context_of, resolve
from pyrovae.data import Split
from pyrovae.evidence import evaluate
from pyrovae.likelihoods import Bernoulli
from pyrovae.networks import MLP
from pyrovae.posteriors import POSTERIORS
from pyrovae.priors import PRIORS
from pyrovae.training import fit
from pyrovae.vae import VAE

SHAPE = (1, 8, 8)
REFUSED = {("vamp", "point")}
PAIRS = [
    (p, q)
    for p in PRIORS
    for q in POSTERIORS
    if (p, q) not in REFUSED and (p == "vamp" or (p == "sphere") == (q == "power_spherical"))
]
ACROSS = [(p, q) for p in PRIORS for q in POSTERIORS if (p, q) not in [*PAIRS, *REFUSED]]


def make(prior, posterior):
    """A small VAE of two components by name, with few parts where there are many by default."""
    known = {"latent_dim": 2, "event_shape": SHAPE}
    known["network"] = partial(MLP, hidden_dims=(8,))

    def build(role, family, name):
        few = {"components": 5}
        _, options = resolve(role, family[name], Spec.parse(name), few)
        return family[name](**context_of(family[name], known), **options)

    known["posterior"] = build("posterior", POSTERIORS, posterior)
    prior = build("prior", PRIORS, prior)
    return VAE(prior, Bernoulli(2, SHAPE, known["network"]), known["posterior"])


@pytest.mark.parametrize(("prior", "posterior"), PAIRS)
def test_a_step_has_finite_gradients_everywhere_and_the_result_is_evaluated(
    prior, posterior, digits
):
    vae = make(prior, posterior)
    objective = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    with pyro.validation_enabled():
        assert math.isfinite(objective.loss_and_grads(vae.model, vae.guide, digits))
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    pyro.clear_param_store()
    vae.zero_grad()

    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    row = fit(vae, digits, epochs=1, batch_size=64).metrics[-1]
    assert row["elbo"] == pytest.approx(row["reconstruction"] - row["kl"])
    assert all(not torch.equal(p, before[name]) for name, p in vae.named_parameters())
    result = evaluate(vae, Split.from_array(digits[:20]), samples=3)
    for term in ("elbo", "reconstruction", "kl", "log_evidence"):
        assert math.isfinite(result[term]["estimate"])
    assert vae.encode(digits).shape == (64, 2)


@pytest.mark.parametrize(("prior", "posterior"), ACROSS)
def test_a_pair_over_two_spaces_is_refused_with_the_pairs_that_work(prior, posterior, digits):
    message = "On the sphere are the priors sphere and vamp with the posterior power_spherical"
    with pytest.raises(ValueError, match=message):
        fit(make(prior, posterior), digits, epochs=1)


@pytest.mark.parametrize(("prior", "posterior"), sorted(REFUSED))
def test_a_pair_without_a_density_is_refused(prior, posterior):
    with pytest.raises(ValueError, match="has no density; take a posterior with one"):
        make(prior, posterior)
