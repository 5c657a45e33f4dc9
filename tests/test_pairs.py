"""Every prior is trained, evaluated and kept with every posterior that goes with it."""

import math
from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

import pyrovae
from pyrovae.data import Split, load
from pyrovae.evidence import evaluate
from pyrovae.kl import ledger
from pyrovae.posteriors import POSTERIORS
from pyrovae.priors import PRIORS
from pyrovae.runs import Config, start
from pyrovae.runs.starting import matching_priors
from pyrovae.training import fit
from pyrovae.vae import SpaceError
from tests.models import (
    ACROSS,
    COVERING_PAIRS,
    EVERY_PAIR,
    PAIRS,
    PRODUCT,
    UNDEFINED_PAIRS,
    make_pair,
)
from tests.oracles import assert_adds_up, assert_reached


def test_the_covering_pairs_have_every_prior_and_every_posterior():
    assert set(COVERING_PAIRS) <= set(PAIRS)
    assert {prior for prior, _ in COVERING_PAIRS} == {prior for prior, _ in PAIRS} == set(PRIORS)
    assert {q for _, q in COVERING_PAIRS} == {q for _, q in PAIRS} == set(POSTERIORS)


@pytest.mark.parametrize(("prior", "posterior"), PRODUCT)
def test_a_step_has_finite_gradients_everywhere_and_the_result_is_evaluated(
    prior, posterior, digits
):
    vae = make_pair(prior, posterior)
    objective = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    with pyro.validation_enabled():
        assert math.isfinite(objective.loss_and_grads(vae.model, vae.guide, digits))
    for name, parameter in vae.named_parameters():
        assert_reached(parameter, name)
    pyro.clear_param_store()
    vae.zero_grad()

    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    row = fit(vae, digits, epochs=1, batch_size=64).metrics[-1]
    assert_adds_up(row)
    assert all(not torch.equal(p, before[name]) for name, p in vae.named_parameters())
    result = evaluate(vae, Split.from_array(digits[:20]), samples=3)
    for term in ("elbo", "reconstruction", "kl", "log_evidence"):
        assert math.isfinite(getattr(result, term).value)
    assert vae.encode(digits).shape == (64, 2)
    divergence = ledger(vae, Split.from_array(digits[:10]), samples=(2, 10))
    if posterior == "point":
        assert divergence.infinite
    else:
        assert divergence.infinite is None
        assert all(math.isfinite(row.estimate.value) for row in divergence.monte_carlo)


@pytest.fixture(scope="module")
def few_digits():
    """200 of the embedded digits, 120 of them to train on."""
    dataset = load("digits")
    sizes = {"train": 120, "validation": 40, "test": 40}
    parts = {name: getattr(dataset, name).batch(np.arange(n)) for name, n in sizes.items()}
    return replace(dataset, **{name: Split.from_array(x) for name, x in parts.items()})


@pytest.mark.contract
@pytest.mark.parametrize(("prior", "posterior"), EVERY_PAIR)
def test_a_run_is_saved_and_loaded_to_the_bit(prior, posterior, few_digits, tmp_path):
    components = ":components=5" if prior in ("mixture", "vamp") else ""
    model = {"prior": prior + components, "posterior": posterior, "latent_dim": 2}
    model |= {"encoder": "mlp:hidden_dims=8", "decoder": "mlp:hidden_dims=8"}
    config, _ = Config.resolve({"model": model, "training": {"epochs": 1, "averaging": 0.0}})
    folder, vae, _ = start(config, few_digits, tmp_path / "run")
    again = pyrovae.load(folder)
    assert not again.training
    weights, loaded = vae.state_dict(), again.state_dict()
    assert weights.keys() == loaded.keys()
    assert all(torch.equal(weights[name], loaded[name]) for name in weights)
    results = [evaluate(each, few_digits.test, samples=3, limit=10) for each in (vae, again)]
    assert results[0] == results[1]


@pytest.mark.parametrize(("prior", "posterior"), ACROSS)
def test_a_pair_over_two_spaces_is_refused(prior, posterior, digits):
    with pytest.raises(SpaceError, match=r"they must be over the same space$"):
        fit(make_pair(prior, posterior), digits, epochs=1)


def test_the_pairs_that_go_together_are_found_from_their_supports():
    found = [
        (prior, posterior) for posterior in POSTERIORS for prior in matching_priors()[posterior]
    ]
    assert sorted(found) == sorted(PAIRS)


def test_a_run_over_two_spaces_is_refused_with_the_pairs_that_go_together(few_digits, tmp_path):
    config, _ = Config.resolve({"model": {"prior": "sphere", "latent_dim": 2}})
    message = (
        "Sphere is over points of the unit sphere .* over real vectors .* same space. These go "
        "together: the priors normal, .*, vamp, flow with the posteriors diagonal, .*, flow; the "
        "priors normal, .* with the posterior point; the priors vamp, sphere with the posterior "
        "power_spherical; the priors vamp, categorical with the posterior relaxed_categorical$"
    )
    with pytest.raises(SpaceError, match=message):
        start(config, few_digits, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.contract
@pytest.mark.parametrize(("prior", "posterior"), sorted(UNDEFINED_PAIRS))
def test_a_pair_without_a_density_is_refused(prior, posterior):
    with pytest.raises(ValueError, match="has no density; take a posterior with one"):
        make_pair(prior, posterior)
