"""The explorer computes in the page what torch computes, for every network and likelihood."""

import base64
import json
import re
import shutil
import zlib

import numpy as np
import pytest
import torch

from pyrovae.estimates import Estimate
from pyrovae.report import Packed, write_report
from tests.report.pages import Checked, browse, finished

needs_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")


def unpacked(block):
    """The arrays of a block, read as the script reads them."""
    content, at, found = zlib.decompress(base64.b64decode(block.text())), 0, []
    for rows, columns in block.shapes:
        scale = np.frombuffer(content, "<f4", rows, at)
        planes = np.frombuffer(content, np.uint8, block.width * rows * columns, at + 4 * rows)
        first, *others = planes.reshape(block.width, rows, columns)
        whole = first.view(np.int8).astype(float)
        for plane in others:
            whole = 256 * whole + plane
        found.append(scale[:, None] * whole)
        at += 4 * rows + block.width * rows * columns
    assert at == len(content)
    return found


@pytest.mark.parametrize("width", [2, 3])
def test_numbers_come_back_to_their_last_bit(width):
    block = Packed(width)
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(5, 7)) * [[1e-6], [1.0], [0.0], [3e5], [-2.0]], np.zeros((1, 3))]
    coarse = rng.normal(size=(3, 4))
    assert [block.add(array) for array in arrays] == [0, 1]
    block.add(coarse, 100)
    for array, largest, found in zip(
        [*arrays, coarse], (block.largest, block.largest, 100), unpacked(block), strict=True
    ):
        step = np.abs(array).max(1, keepdims=True) / largest
        assert (np.abs(found - array) <= 0.501 * step + 1e-7 * np.abs(array)).all()


def explored(path):
    return json.loads(re.search(r'id="explorer-data">(.*?)</script>', path.read_text("utf-8"))[1])


@pytest.mark.slow
def test_a_page_says_what_it_cannot_decode(tmp_path):
    for name, model, words in (
        ("conv", {"decoder": "conv:channels=4"}, "The decoder is a Conv"),
        ("sphere", {"prior": "sphere", "posterior": "power_spherical"}, "z is something else"),
    ):
        run, vae, dataset = finished(tmp_path / name, **model)
        page = Checked(write_report(run, vae, dataset).read_text("utf-8"))
        assert words in page.words
        assert page.scripts == 0


def test_drawings_need_an_encoder_that_the_page_can_compute(tmp_path):
    run, vae, dataset = finished(tmp_path / "run", posterior="low_rank")
    data = explored(write_report(run, vae, dataset))
    assert data["encoder"] is None
    assert "a posterior that is diagonal or full" in data["no_encoder"]
    assert len(data["decoder"]["layers"]) == 2


def difference(page, vae, data=None):
    """The largest difference between the page's decoding and torch's, of 100 draws of z."""
    torch.manual_seed(1)
    with torch.no_grad():
        z = 1.5 * torch.randn(100, vae.latent_dim)
        expected = vae.decode(z).flatten(1)
    found = browse(page, f"{json.dumps(z.tolist())}.map(explorer.decode)")
    return (torch.tensor(found) - expected).abs().max().item()


NETWORKS = (
    "mlp:hidden_dims=16-8,activation=gelu",
    "mlp:hidden_dims=16,activation=elu",
    "mlp:hidden_dims=16,activation=softplus,dropout=0.1",
    "mlp:hidden_dims=16,activation=relu",
    "residual:width=16,depth=3,activation=tanh",
    "gated:hidden_dims=16-8",
    "linear",
)


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("network", NETWORKS)
def test_every_perceptron_is_decoded_and_encoded(tmp_path, network):
    run, vae, dataset = finished(tmp_path / "run", decoder=network, encoder=network)
    page = write_report(run, vae, dataset)
    assert difference(page, vae) < 1e-3
    x = dataset.test.batch(np.arange(10))
    with torch.no_grad():
        q = vae.posterior(x)
    found = browse(page, f"{json.dumps(x.flatten(1).tolist())}.map(explorer.encode)")
    loc = torch.tensor([at["loc"] for at in found])
    scale = torch.tensor([at["root"] for at in found]).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(loc, q.mean, rtol=0.01, atol=0.01)
    torch.testing.assert_close(scale, q.stddev, rtol=0.01, atol=0.01)


LIKELIHOODS = (
    "bernoulli",
    "binomial",
    "beta_binomial:dispersion=decoder",
    "categorical:levels=17",
    "continuous_bernoulli",
    "discretized_logistic:levels=17,scale=learned",
    "laplace:scale=dimension",
    "negative_binomial",
    "normal:scale=decoder",
    "poisson",
    "student_t:df=4",
)


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_is_decoded_and_drawn_from(tmp_path, likelihood):
    treated = {"binarization": "threshold"} if likelihood == "bernoulli" else None
    run, vae, dataset = finished(tmp_path / "run", treated, likelihood=likelihood)
    page = write_report(run, vae, dataset)
    assert difference(page, vae) < 1e-3
    check_draws(page, vae)


def check_draws(page, vae):
    """Moments of 2,000 draws in the page, against those of p(x | z), with Bonferroni's limit."""
    z = [0.5] * vae.latent_dim
    draws = torch.tensor(browse(page, f"Array.from({{length: 2000}}, () => explorer.draw({z}))"))
    with torch.no_grad():
        p = vae.likelihood(torch.tensor(z))
        torch.manual_seed(0)
        same = p.sample((20_000,)).flatten(1)
    for power in (1, 2):
        ours, theirs = draws.double() ** power, same.double() ** power
        error = (ours.var(0) / len(ours) + theirs.var(0) / len(theirs)).sqrt()
        z_scores = (ours.mean(0) - theirs.mean(0)) / error.clamp_min(1e-3)
        assert z_scores.abs().max() < 6


@pytest.mark.slow
@needs_browser
def test_a_table_of_several_kinds_is_decoded_and_drawn_from(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        f"{rng.normal(5, 2):.3f},{rng.poisson(4)},{rng.choice(['red', 'green', 'blue'])},"
        f"{rng.lognormal():.4f},{rng.beta(2, 3):.4f}"
        for _ in range(200)
    ]
    (tmp_path / "t.csv").write_text("size,count,color,price,share\n" + "\n".join(rows))
    columns = "normal+poisson+categorical(levels=3)+log_normal+beta"
    run, vae, dataset = finished(
        tmp_path / "run", {"name": str(tmp_path / "t.csv")}, likelihood=f"columns:columns={columns}"
    )
    page = write_report(run, vae, dataset)
    assert difference(page, vae) < 1e-3
    check_draws(page, vae)
    shown = browse(
        page, "Array.from(document.querySelectorAll('#explorer td'), c => c.textContent)"
    )
    first = dataset.test.original(dataset.test.batch(np.arange(1)))[0]
    assert shown[3 * 2] == dataset.schema.columns[2].categories[int(first[2])]
    assert float(shown[0]) == pytest.approx(first[0], abs=0.01)


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(
    "model",
    [
        {},
        {"posterior": "full", "latent_dim": 3},
        {"prior": "mixture:components=3"},
        {"prior": "learned_normal"},
        {"prior": "flow"},
    ],
    ids=["diagonal", "full", "mixture", "learned", "flow"],
)
def test_the_kl_term_of_a_drawing_is_that_of_torch(tmp_path, model):
    run, vae, dataset = finished(tmp_path / "run", **model)
    page = write_report(run, vae, dataset)
    x = dataset.test.batch(np.arange(5))
    found = browse(page, f"{json.dumps(x.flatten(1).tolist())}.map(explorer.divergence)")
    if model.get("prior") == "flow":
        assert found == [None] * 5
        return
    torch.manual_seed(0)
    with torch.no_grad():
        q, p = vae.posterior(x), vae.prior()
        z = q.sample((20_000,))
        values = q.log_prob(z) - p.log_prob(z)  # (draws, examples)
    for (value, error), of_example in zip(found, values.T, strict=True):
        expected = Estimate.of(of_example)
        both = (error**2 + expected.standard_error**2) ** 0.5
        assert abs(value - expected.value) < 5 * both + 0.02
