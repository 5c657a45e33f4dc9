"""Walks through z: along one dimension in quantiles of the prior, and between two codes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae.diagnostics import along_dimensions, between
from pyrovae.priors import Laplace, LearnedNormal, Sphere, StandardNormal
from pyrovae.runs import Run, start
from tests.conftest import SEEDS


class Only:
    """As much of a VAE as a walk needs."""

    def __init__(self, prior, latent_dim):
        self.prior, self.latent_dim = prior, latent_dim


def test_one_dimension_moves_in_quantiles_of_its_prior():
    z = torch.tensor([0.3, -2.0, 5.0])
    for prior, exact in (
        (StandardNormal(3), torch.distributions.Normal(0.0, 1.0)),
        (Laplace(3), torch.distributions.Laplace(0.0, 1.0)),
    ):
        walks = along_dimensions(Only(prior, 3), z, [2, 0], steps=5)
        assert walks.shape == (2, 5, 3)
        expected = exact.icdf(torch.linspace(0.025, 0.975, 5))
        torch.testing.assert_close(walks[0, :, 2], expected)
        torch.testing.assert_close(walks[1, :, 0], expected)
        assert (walks[0, :, :2] == z[:2]).all()
        assert (walks[1, :, 1:] == z[1:]).all()
    with pytest.raises(ValueError, match="no dimension of z moves alone"):
        along_dimensions(Only(Sphere(3), 3), z)
    with pytest.raises(ValueError, match="z has the dimensions 0 to 2, got 3"):
        along_dimensions(Only(StandardNormal(3), 3), z, [3])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_spherical_path_turns_evenly_and_changes_its_length_evenly(seed):
    torch.manual_seed(seed)
    a, b = 3 * torch.randn(2, 8, dtype=torch.float64)
    path = between(Only(StandardNormal(8), 8), a, b, steps=7)
    torch.testing.assert_close(path[[0, -1]], torch.stack([a, b]))
    lengths = path.norm(dim=1)
    torch.testing.assert_close(lengths.diff(), lengths.diff()[0].expand(6))
    unit = path / lengths[:, None]
    turns = (unit[1:] * unit[:-1]).sum(1).arccos()
    torch.testing.assert_close(turns, turns[0].expand(6))
    whole = torch.arccos(a @ b / (a.norm() * b.norm()))
    torch.testing.assert_close(turns.sum(), whole)
    assert whole < math.pi
    plane = torch.linalg.matrix_rank(path, rtol=1e-10)
    assert plane == 2


def test_the_prior_decides_the_path():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    half = torch.tensor([0.5, 0.5])
    for prior, round_ in ((StandardNormal(2), True), (Sphere(2), True), (Laplace(2), False)):
        middle = between(Only(prior, 2), a, b, steps=3)[1]
        torch.testing.assert_close(middle, half * (math.sqrt(2) if round_ else 1))
    learned = LearnedNormal(2)
    with torch.no_grad():
        learned.loc += 1
    torch.testing.assert_close(between(Only(learned, 2), a, b, steps=3)[1], half)
    vae = Only(StandardNormal(2), 2)
    torch.testing.assert_close(between(vae, a, a, steps=3), a.expand(3, 2))
    with pytest.raises(ValueError, match="use the path linear"):
        between(vae, a, -a)
    assert (between(vae, a, -a, path="linear", steps=3)[1] == 0).all()


def test_the_command_walks_and_refuses_in_one_line(command, tmp_path):
    network = "mlp:hidden_dims=8"
    model = {"encoder": network, "decoder": network, "latent_dim": 3}
    config, dataset = pyrovae.Config.resolve({"model": model, "training": {"epochs": 1}})
    start(config, dataset, tmp_path / "run")
    result = command("traverse", "run", "--dims", "3,1", "--steps", 4, "--out", "walks.npz")
    assert (result.status, result.err) == (0, "")
    with np.load("walks.npz") as found:
        z, x = torch.from_numpy(found["z"]).unflatten(0, (2, 4)), torch.from_numpy(found["x"])
    vae = Run.open("run").vae()
    with torch.no_grad():
        q = vae.posterior(dataset.test.batch(np.arange(1)))
        expected = along_dimensions(vae, q.mean[0], [2, 0], steps=4)
        torch.testing.assert_close(vae.decode(z.flatten(0, 1)), x)
    torch.testing.assert_close(z, expected)
    assert command("traverse", "run").status == 0
    assert Path("run/figures/traversal.png").stat().st_size > 1_000
    assert command("traverse", "run", "--between", "1,2", "--out", "way.png").status == 0
    for arguments, message in (
        (("--between", "1"), "must be 2 whole numbers"),
        (("--between", "1,1000"), "the examples 1 to 359, got 1000"),
        (("--dims", "0"), "z has the dimensions 1 to 3"),
        (("--dims", "1", "--between", "1,2"), "--dims applies to walks without --between"),
        (("--path", "linear"), "--path applies to --between"),
        (("--steps", "1"), "steps must be at least 2"),
    ):
        result = command("traverse", "run", *arguments)
        assert (result.status, result.out) == (2, "")
        assert message in result.err
        assert result.err.count("\n") == 1
