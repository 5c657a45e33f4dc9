"""Scores are the importance-weighted bound of each example, with what its weights are worth."""

import numpy as np
import pytest
import torch

from pyrovae.data import Split
from pyrovae.evidence import reliable_below
from pyrovae.queries import score
from tests.models import linear_gaussian
from tests.oracles import assert_within


@pytest.mark.parametrize("proposal", ["posterior", "refined", "mixture"])
def test_scores_of_a_linear_gaussian_model_are_its_log_evidence(proposal):
    """Within 5 standard errors."""
    vae, x, evidence = linear_gaussian(0)
    advanced = []
    found = score(
        vae, Split.from_array(x), samples=2_000, proposal=proposal, progress=advanced.append
    )
    assert_within(found.log_evidence, evidence, found.standard_error, 5, 1e-6)
    assert sum(advanced) == len(x)
    assert found.heavy_tails == int((found.pareto_k > reliable_below(2_000)).sum())
    plain = found.to_dict()
    assert plain["log_evidence"]["estimate"] == pytest.approx(found.log_evidence.mean().item())
    assert (plain["proposal"], plain["samples"], plain["examples"]) == (proposal, 2_000, len(x))


def test_scores_are_in_order_and_of_the_first_examples(vae, digits):
    data = Split.from_array(digits)
    found, first = (score(vae, data, samples=20, limit=limit) for limit in (None, 7))
    assert list(found.arrays()) == ["log_evidence", "standard_error", "ess", "pareto_k"]
    assert found.arrays()["ess"].shape == (len(digits),)
    assert len(first.log_evidence) == 7
    assert np.isfinite(first.arrays()["log_evidence"]).all()
    assert torch.equal(found.log_evidence, score(vae, data, samples=20).log_evidence)


def test_what_cannot_be_scored_is_refused(vae, digits):
    with pytest.raises(ValueError, match=r"outside .* Bernoulli"):
        score(vae, Split.from_array(digits / 4), samples=20)
    with pytest.raises(ValueError, match="proposal must be one of posterior, refined, mixture"):
        score(vae, Split.from_array(digits), proposal="prior")
