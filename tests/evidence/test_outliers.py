"""Rows far from everything the model has seen: very low, named, and the rest is evaluated."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae.data import Split, load
from pyrovae.diagnostics import diagnose
from pyrovae.evidence import METHODS, far_below, weight_statistics
from pyrovae.likelihoods import Normal
from pyrovae.networks import MLP
from pyrovae.posteriors import POSTERIORS
from pyrovae.priors import Categorical, Sphere, StandardNormal
from pyrovae.queries import impute, score
from pyrovae.vae import VAE

PRIORS = {"power_spherical": Sphere, "relaxed_categorical": Categorical}


def absurd(factor, rows=40, at=7):
    """Ordinary rows and one that is a factor from them, (rows, 5)."""
    x = np.random.default_rng(0).normal(size=(rows, 5))
    x[at] *= factor
    return torch.from_numpy(x).float()


def small(posterior="diagonal"):
    def network(inside, outside):
        return MLP(inside, outside, hidden_dims=(8,))

    prior = PRIORS.get(posterior, StandardNormal)(2)
    q = POSTERIORS[posterior](2, (5,), network)
    return VAE(prior, Normal(2, (5,), network, scale=1.0), q)


@pytest.mark.filterwarnings("ignore:the effective sample size:UserWarning")
@pytest.mark.filterwarnings("ignore:the weights of:UserWarning")
@pytest.mark.parametrize("factor", [300, 3e6, 1e30])
@pytest.mark.parametrize("posterior", [name for name in POSTERIORS if name != "point"])
def test_an_absurd_row_is_lowest_and_named_and_the_rest_is_scored(posterior, factor):
    vae, x = small(posterior), absurd(factor)
    with pytest.warns(UserWarning, match="far below that of all others in row 7 "):
        found = score(vae, x, samples=20)
    low = found.log_evidence[7]
    others = torch.cat([found.log_evidence[:7], found.log_evidence[8:]])
    assert not found.log_evidence.isnan().any()
    assert low < others.min() - 1e3
    assert others.isfinite().all()
    assert found.far_below.rows == (7,)
    assert found.far_below.others.value == pytest.approx(others.mean().item())
    with pytest.warns(UserWarning, match="row 7 .*without it the mean is -"):
        means = pyrovae.evaluate(vae, x, samples=20)
    for mean in (means.elbo, means.reconstruction, means.log_evidence):
        assert not math.isnan(mean.value)
        assert mean.standard_error is None or math.isfinite(mean.standard_error)
    assert not means.per_example.bias_corrected.isnan().any()
    assert means.per_example.bias_corrected[7] <= means.per_example.log_evidence[7] + 1e3
    assert json.loads(json.dumps(means.to_dict()))["far_below"]["rows"] == [7]


@pytest.mark.parametrize("method", [name for name in METHODS if name != "bdmc"])
def test_every_method_evaluates_the_rest_of_rows_with_an_impossible_one(method):
    def linear(inside, outside):
        return pyrovae.networks.Linear(inside, outside)

    vae = VAE(
        StandardNormal(1), Normal(1, (5,), linear, scale=1.0), POSTERIORS["full"](1, (5,), linear)
    )
    options = {"ais": {"samples": 2, "temperatures": 5}, "iw": {"samples": 20}}.get(method, {})
    with pytest.warns(UserWarning, match=r"in row 3 \(-"):
        found = pyrovae.evaluate(vae, absurd(1e30, 6, 3), method=method, **options)
    assert found.log_evidence.value < -1e20
    assert found.per_example.log_evidence.isfinite().sum() >= 5
    assert not found.per_example.log_evidence.isnan().any()


@pytest.mark.filterwarnings("ignore:the effective sample size:UserWarning")
def test_the_gaps_of_an_impossible_row_are_filled():
    observed = torch.ones(5, dtype=torch.bool)
    observed[0] = False
    found = impute(small(), absurd(1e30, 3, 1), observed, samples=60)
    assert found.completions.isfinite().all()


def test_ordinary_rows_are_not_named():
    assert far_below(torch.randn(1_000) * 50 - 90) is None
    assert far_below(torch.tensor([-1e9])) is None
    assert far_below(-torch.distributions.HalfCauchy(1.0).sample((30,))) is None
    assert far_below(-3_000 - torch.tensor([0.0, 0.1, 5e3, 1e4])) is None  # of a poor model


def test_most_rows_may_be_absurd():
    values = torch.cat([torch.randn(10) - 7, -1e5 * torch.rand(50) - 1e5])
    assert far_below(values).rows == tuple(range(10, 60))
    assert "and 45 more" in far_below(values).describe()


def test_rows_are_named_with_their_ids():
    found = far_below(torch.tensor([-1.0, -1e9]))
    assert "row 1 (id b) (-1e+09)" in found.describe(np.array(["a", "b"]))
    assert far_below(torch.tensor([-math.inf] * 2)).others is None


def test_weights_that_are_all_zero_have_no_size_and_no_error():
    log_w = torch.zeros(100, 2, dtype=torch.float64)
    log_w[:, 1] = -math.inf
    found = weight_statistics(log_w)
    assert found.ess.tolist() == [pytest.approx(100), 0]
    assert found.bias_corrected[1] == found.at_a_tenth[1] == -math.inf
    assert found.standard_error[0] < 1e-12
    assert found.standard_error[1].isnan()
    assert found.summary(100).sampling_error is None


def test_a_diagnosis_leaves_an_absurd_row_out_and_names_it():
    """The rest is diagnosed as if the row were not there."""
    vae, x = small(), absurd(1e30).numpy()
    whole = replace(load("digits"), train=Split.from_array(x[8:]), test=Split.from_array(x))
    rest = replace(whole, test=Split.from_array(np.delete(x, 7, axis=0)))
    with pytest.warns(UserWarning, match="far below that of all others in row 7 .*left out here"):
        found = diagnose(vae, whole, draws=2)
    expected = diagnose(vae, rest, draws=2)
    assert (found.examples, found.available, found.left_out) == (39, 40, (7,))
    assert expected.left_out == ()
    assert replace(found, available=39, left_out=()) == expected
