"""Exported networks give the numbers of every posterior and likelihood, or say why not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae.runs import FORMATS, Run, start, write_networks

NET = {"encoder": "mlp:hidden_dims=8", "decoder": "mlp:hidden_dims=8", "latent_dim": 3}


def trained(folder, data=None, **model):
    settings = {"model": NET | model, "training": {"epochs": 1}, "data": data or {}}
    config, dataset = pyrovae.Config.resolve(settings)
    return Run.open(start(config, dataset, folder)[0]), dataset


def outputs(file, x):
    """What another program gets from a file."""
    if file.suffix == ".pt2":
        return [at.detach().numpy() for at in torch.export.load(file).module()(x)]
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})


def check(run, dataset, kind, out):
    files = write_networks(run, kind, out=out)
    about = json.loads(files[-1].read_text())
    vae = run.vae()
    x = dataset.test.batch(np.arange(9))
    with torch.no_grad():
        q = vae.posterior(x)
        z = vae.prior().sample((9,))
        p = vae.likelihood(z)
    for part, given, d in (("encoder", x, q), ("decoder", z, p)):
        found = dict(
            zip(about[part]["outputs"], outputs(out / about[part]["file"], given), strict=True)
        )
        for name, values in found.items():
            expected = getattr(d if hasattr(d, name) else d.base_dist, name).numpy()
            unit = max(1.0, abs(expected).max())
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5 * unit)
    assert "mean" in about["decoder"]["outputs"]
    return about


POSTERIORS = (
    {},
    {"posterior": "full"},
    {"posterior": "low_rank"},
    {"posterior": "laplace"},
    {"posterior": "point"},
    {"prior": "sphere", "posterior": "power_spherical"},
    {"prior": "categorical:classes=3", "posterior": "relaxed_categorical:classes=3"},
)
LIKELIHOODS = (
    "beta_binomial:dispersion=decoder",
    "binomial",
    "categorical:levels=17",
    "continuous_bernoulli",
    "discretized_logistic:levels=17",
    "laplace",
    "negative_binomial",
    "normal:scale=decoder",
    "poisson",
    "student_t",
)


@pytest.mark.parametrize("kind", [pytest.param("onnx", marks=pytest.mark.slow), "torch"])
def test_files_give_the_numbers_of_the_model(tmp_path, kind):
    pytest.importorskip("onnxscript" if kind == "onnx" else "torch")
    run, dataset = trained(tmp_path / "run")
    about = check(run, dataset, kind, tmp_path / "out")
    assert about["encoder"]["input"] == {"x": ["batch", 1, 8, 8]}
    assert about["encoder"]["outputs"] == {"loc": ["batch", 3], "scale": ["batch", 3]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("model", POSTERIORS, ids=str)
def test_every_posterior_is_exported_or_refused(tmp_path, model, kind):
    model = dict(model)
    if "categorical:classes=3" in model.values():
        model["latent_dim"] = 6
    run, dataset = trained(tmp_path / "run", **model)
    if kind == "onnx" and model.get("posterior") == "full":
        with pytest.raises(ValueError, match="ONNX lacks the operation linalg_solve_triangular"):
            write_networks(run, kind, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    check(run, dataset, kind, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_is_exported(tmp_path, likelihood, kind):
    run, dataset = trained(tmp_path / "run", likelihood=likelihood)
    check(run, dataset, kind, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("network", ["conv:channels=4-8", "residual:width=8,depth=3", "gated"])
def test_every_network_is_exported(tmp_path, network, kind):
    run, dataset = trained(tmp_path / "run", encoder=network, decoder=network)
    check(run, dataset, kind, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_table_of_several_kinds_is_exported_with_its_scaling(tmp_path, kind):
    rng = np.random.default_rng(0)
    rows = "\n".join(
        f"{rng.normal(5, 2)},{rng.poisson(4)},{rng.choice(['a', 'b'])}" for _ in range(80)
    )
    (tmp_path / "t.csv").write_text(f"size,count,color\n{rows}")
    run, dataset = trained(tmp_path / "run", {"name": str(tmp_path / "t.csv")}, latent_dim=1)
    about = check(run, dataset, kind, tmp_path / "out")
    assert about["x"]["scaling"] == "columns"
    assert len(about["x"]["loc"]) == len(about["x"]["scale"]) == 3


def test_the_command_writes_and_refuses_in_one_line(command, tmp_path):
    trained(tmp_path / "run")
    trained(tmp_path / "flow", posterior="flow:hidden_dims=8")
    result = command("export", "run", "--format", "torch", "--out", "there")
    assert (result.status, result.err) == (0, "")
    assert {path.name for path in Path("there").iterdir()} == {
        "encoder.pt2",
        "decoder.pt2",
        "export.json",
    }
    for arguments, message in (
        (("run", "--format", "tensorflow"), "--format must be one of onnx, torch"),
        (("flow", "--format", "torch"), "which has no parameters that a file could return"),
        (("run",), "--format"),
    ):
        result = command("export", *arguments)
        assert (result.status, result.out) == (2, "")
        assert message in result.err
        assert result.err.count("\n") == 1
    assert not Path("flow", "export").exists()
