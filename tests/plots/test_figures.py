import ast
import os
from functools import partial
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from PIL import Image
from pyro import distributions as dist
from scipy.stats import norm
from torch import nn

from pyrovae import plots
from pyrovae.diagnostics import kl_per_dimension, marginal_quantiles
from pyrovae.likelihoods import Binomial, ContinuousBernoulli, Normal
from pyrovae.networks import MLP
from pyrovae.plots import run_figures as pictures
from pyrovae.plots import style
from pyrovae.posteriors import POSTERIORS, DiagonalNormal
from pyrovae.priors import PRIORS, StandardNormal
from pyrovae.runs import context_of
from pyrovae.vae import VAE
from tests.oracles import assert_within

SHAPES = {"image": (1, 6, 5), "colour": (3, 5, 6), "table": (3,)}
LIKELIHOODS = {
    "image": partial(Binomial, total_count=16),
    "colour": ContinuousBernoulli,
    "table": Normal,
}
N = 30


def make_vae(kind="image", latent_dim=2, prior="normal", posterior="diagonal"):
    torch.manual_seed(0)
    shape, network = SHAPES[kind], partial(MLP, hidden_dims=(16,), dropout=0.1)
    q = POSTERIORS[posterior](latent_dim, shape, network)
    known = {"latent_dim": latent_dim, "event_shape": shape, "posterior": q}
    return VAE(
        PRIORS[prior](**context_of(PRIORS[prior], known)),
        LIKELIHOODS[kind](latent_dim, shape, network),
        q,
    )


def make_data(kind="image"):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(N, *SHAPES[kind], generator=generator)
    return (16 * x).round() if kind == "image" else x


def make_metrics(epochs=1):
    return [
        {
            "epoch": epoch,
            "step": 10 * epoch,
            "elbo": -100 - 1e4 * (epoch == 1) - 1.0 / epoch,
            "reconstruction": -95 - 1e4 * (epoch == 1) - 1.0 / epoch,
            "kl": 5.0,
            "validation_elbo": -110.0 if epoch % 2 else None,
            "seconds": 1.0 * epoch,
            "images_per_second": 100.0,
        }
        for epoch in range(1, epochs + 1)
    ]


@pytest.fixture
def coarse(monkeypatch):
    monkeypatch.setitem(style.SETTINGS, "savefig.dpi", 50)


@pytest.fixture
def kept(monkeypatch):
    """The figures that ``draw`` makes, by name; nothing is written."""
    made = {}
    monkeypatch.setattr(pictures, "save", lambda figure, path: made.update({path.stem: figure}))
    return made


def cases():
    """By default each prior, and each latent_dim with each kind; all three in the slow tier."""
    for i, prior in enumerate(name for name in PRIORS if name not in ("sphere", "categorical")):
        for j, latent_dim in enumerate([1, 2, 10]):
            for k, kind in enumerate(SHAPES):
                marks = [] if (3 * j + k) % 8 == i else [pytest.mark.slow]
                yield pytest.param(prior, latent_dim, kind, marks=marks)


@pytest.mark.parametrize(("prior", "latent_dim", "kind"), list(cases()))
def test_every_picture_that_applies_is_made(tmp_path, coarse, prior, latent_dim, kind):
    labels = np.arange(N) % 3
    vae = make_vae(kind, latent_dim, prior)
    paths = pictures.draw_vae(vae, make_data(kind), labels, [], tmp_path / "new")
    names = ["samples.png", "reconstructions.png", "latent.png"]
    if latent_dim == 2 and kind != "table":
        names.append("grid.png")
    assert [path.name for path in paths] == names
    assert sorted(os.listdir(tmp_path / "new")) == sorted(names)
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert min(image.size) > 100
            assert "Creation Time" not in image.info
            assert "Software" not in image.info


@pytest.mark.parametrize("latent_dim", [2, 3])
@pytest.mark.parametrize("prior", ["sphere", "vamp"])
def test_a_sphere_is_drawn(tmp_path, coarse, prior, latent_dim):
    vae = make_vae("image", latent_dim, prior, posterior="power_spherical")
    paths = pictures.draw_vae(vae, make_data("image"), np.arange(N) % 3, [], tmp_path)
    names = [path.stem for path in paths]
    assert "latent" in names
    assert "grid" not in names


@pytest.mark.parametrize("labels", [np.arange(N) % 3, np.arange(N), None])
@pytest.mark.parametrize("latent_dim", [2, 6])
@pytest.mark.parametrize("prior", ["categorical", "vamp"])
def test_one_hot_vectors_are_drawn_as_probabilities(tmp_path, kept, prior, latent_dim, labels):
    vae = make_vae("image", latent_dim, prior, posterior="relaxed_categorical")
    x = make_data("image")
    pictures.draw_vae(vae, x, labels, [], tmp_path)
    assert set(kept) == {"samples", "reconstructions", "latent"}
    assert vae.training
    axes = kept["latent"].axes[0]
    shown = axes.images[0].get_array()
    rows = 1 if labels is None else len(np.unique(labels))
    assert shown.shape == (rows + 1, latent_dim)
    sums = shown.reshape(rows + 1, -1, 2).sum(-1)
    np.testing.assert_allclose(sums, 1, rtol=1e-5)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == ("all data" if labels is None else "class 0")
    assert names[-1] == "prior p(z)"
    if labels is not None:
        means = vae.eval().encode(x).detach().numpy()
        np.testing.assert_allclose(shown[1], means[labels == 1].mean(0), rtol=1e-5)


def test_more_classes_than_are_readable_become_one_row():
    figure = plots.discrete(np.full((50, 4), 0.5), np.full(4, 0.5), np.arange(50))
    assert figure.axes[0].images[0].get_array().shape == (2, 4)
    assert figure.axes[0].get_xlabel() == "dimension of z, from 0"


OVER_THE_REALS = [q for q in POSTERIORS if q not in ("power_spherical", "relaxed_categorical")]


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
@pytest.mark.parametrize("posterior", OVER_THE_REALS)
def test_every_posterior_is_drawn(tmp_path, coarse, posterior, latent_dim):
    vae = make_vae("image", latent_dim, posterior=posterior)
    paths = pictures.draw_vae(vae, make_data("image"), np.arange(N) % 3, [], tmp_path)
    assert "latent.png" in [path.name for path in paths]


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("latent_dim", [1, 2])
def test_every_axis_is_labelled_with_its_unit(tmp_path, kept, kind, latent_dim):
    vae = make_vae(kind, latent_dim)
    pictures.draw_vae(vae, make_data(kind), np.arange(N) % 3, make_metrics(3), tmp_path)
    unit = "nats per example" if kind == "table" else "nats per image"
    assert [a.get_ylabel() for a in kept["bound"].axes] == [
        f"{part} ({unit})" for part in ("ELBO", "reconstruction", "KL term")
    ]
    assert kept["latent"].axes[-1].get_xlabel().startswith("$z_{1}$ (KL ")
    assert kept["latent"].axes[-1].get_xlabel().endswith(" nats)")
    if kind == "table":
        for name in ("samples", "reconstructions"):
            assert "units of the data" in kept[name].get_supxlabel()
            assert "unit" in kept[name].get_supylabel()
    for figure in kept.values():
        assert figure.get_suptitle()


def test_the_bound_is_drawn_with_its_parts_and_without_the_wild_first_epoch():
    figure = plots.bound(make_metrics(40))
    elbo, reconstruction, kl = figure.axes
    training, validation = elbo.lines
    values = np.array([row["elbo"] for row in make_metrics(40)])
    np.testing.assert_allclose(training.get_ydata(), values)
    np.testing.assert_array_equal(validation.get_xdata(), np.arange(1, 40, 2))
    np.testing.assert_allclose(
        reconstruction.lines[0].get_ydata() - kl.lines[0].get_ydata(), values
    )
    assert -120 < elbo.get_ylim()[0] < -110 < -100 < elbo.get_ylim()[1] < -90
    low, high = reconstruction.get_ylim()
    assert -100 < low < -95.1 < high < -90
    assert len({line.get_color() for axes in figure.axes for line in axes.lines}) == 4


def test_the_bound_of_a_single_epoch_is_a_marker_at_a_whole_epoch():
    metrics = [{**make_metrics()[0], "validation_elbo": None}]
    figure = plots.bound(metrics)
    for axes in figure.axes:
        (line,) = axes.lines
        assert line.get_marker() == "o"
        inside = [tick for tick in axes.get_xticks() if 0.5 <= tick <= 1.5]
        assert inside == [1.0]


def test_no_metrics_are_refused_by_bound_and_skipped_by_draw(tmp_path, coarse):
    with pytest.raises(ValueError, match="at least one epoch, got none"):
        plots.bound([])
    paths = pictures.draw_vae(make_vae(), make_data(), None, [], tmp_path)
    assert "bound.png" not in [path.name for path in paths]


def test_ellipses_have_the_posteriors_own_mean_and_standard_deviation(tmp_path, kept):
    vae, x = make_vae(), make_data()
    pictures.draw_vae(vae, x, None, [], tmp_path)
    (axes,) = kept["latent"].axes
    (ellipses,) = (c for c in axes.collections if type(c) is PolyCollection)
    outlines = np.stack([path.vertices[:-1] for path in ellipses.get_paths()])
    low, high = outlines.min(1), outlines.max(1)
    with torch.no_grad():
        vae.eval()
        posterior = vae.posterior(x[np.random.default_rng(0).permutation(N)])
    np.testing.assert_allclose((high - low) / 2, posterior.stddev, rtol=1e-4)
    np.testing.assert_allclose((high + low) / 2, posterior.mean, atol=1e-5)


def test_intervals_have_the_posteriors_own_standard_deviation(tmp_path, kept):
    vae, x = make_vae(latent_dim=1), make_data()
    pictures.draw_vae(vae, x, np.arange(N) % 3, [], tmp_path)
    axes = kept["latent"].axes[1]
    (intervals,) = (c for c in axes.collections if isinstance(c, LineCollection))
    ends = np.stack(intervals.get_segments())[..., 0]
    with torch.no_grad():
        vae.eval()
        posterior = vae.posterior(x[np.random.default_rng(0).permutation(N)])
    np.testing.assert_allclose(np.diff(ends)[:, 0] / 2, posterior.stddev[:, 0], rtol=1e-4)
    np.testing.assert_allclose(ends.mean(1), posterior.mean[:, 0], atol=1e-5)


def test_an_ellipse_of_a_correlated_posterior_is_tilted_with_it():
    covariance = np.array([[[1.0, 0.6], [0.6, 0.5]]])
    figure = plots.latent(
        np.zeros((1, 2)),
        covariance,
        np.random.default_rng(0).normal(size=(100, 2)),
        lambda z: -(z**2).sum(-1),
    )
    (ellipses,) = (c for c in figure.axes[0].collections if type(c) is PolyCollection)
    points = ellipses.get_paths()[0].vertices
    distance = np.einsum("pi,ij,pj->p", points, np.linalg.inv(covariance[0]), points)
    np.testing.assert_allclose(distance, 1, rtol=1e-9)


@pytest.mark.parametrize("latent_dim", [2, 3])
def test_contours_of_the_standard_normal_hold_the_mass_they_claim(tmp_path, kept, latent_dim):
    pictures.draw_vae(make_vae(latent_dim=latent_dim), make_data(), None, [], tmp_path)
    contours = [c for c in kept["latent"].axes[0].collections if not getattr(c, "filled", True)]
    outside = 2 * np.pi * contours[0].levels  # the density is uniform in units of its maximum
    expected = np.array([0.05, 0.2, 0.5])
    assert_within(outside, expected, np.sqrt(expected * (1 - expected) / 2000))


def test_the_grid_lies_at_the_exact_quantiles_of_the_standard_normal(tmp_path, kept):
    pictures.draw_vae(make_vae(), make_data(), None, [], tmp_path)
    (axes,) = kept["grid"].axes
    texts = [label.get_text() for label in axes.get_xticklabels()]
    z = [float(text.split("\n")[0].replace("\N{MINUS SIGN}", "-")) for text in texts]
    quantiles = [float(text.split("(")[1].split()[0]) / 100 for text in texts]
    assert quantiles == [0.1, 0.3, 0.5, 0.7, 0.9]
    np.testing.assert_allclose(z, norm.ppf(quantiles), atol=0.005)


def test_a_prior_without_a_quantile_function_gets_the_quantiles_of_its_draws():
    torch.manual_seed(0)
    prior = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    quantiles = np.array([0.1, 0.5, 0.9])
    z = marginal_quantiles(prior, quantiles)
    error = np.sqrt(quantiles * (1 - quantiles) / 20_000) / norm.pdf(norm.ppf(quantiles))
    assert_within(z.numpy(), norm.ppf(quantiles)[:, None], error[:, None])


def test_the_grid_has_z1_rightwards_and_z2_upwards():
    z = np.array([[-1.0, 10.0], [0.0, 20.0], [1.0, 30.0]])
    values = z[None, :, 0] + z[:, None, 1]  # entry [j, i]
    images = np.broadcast_to(values[:, :, None, None, None], (3, 3, 1, 4, 4))
    figure = plots.grid(images, z, np.array([0.2, 0.5, 0.8]))
    canvas = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(canvas[0, -1], 1)  # the largest value, top right
    np.testing.assert_allclose(canvas[-1, 0], 9 / 31)
    np.testing.assert_allclose(canvas[0, 0], 29 / 31)


def test_images_keep_the_scale_of_the_data():
    real, sampled = np.full((1, 1, 4, 4), 16.0), np.full((1, 1, 4, 4), 4.0)
    real[0, 0, 0, 0] = 0
    left, right = (axes.images[0].get_array() for axes in plots.samples(real, sampled).axes)
    assert (left.min(), left.max()) == (0, 1)
    np.testing.assert_allclose(right, 0.25)


def test_reconstructions_are_spread_evenly_over_the_classes(tmp_path, kept):
    labels = np.repeat([0, 1, 2, 3], [24, 2, 2, 2])
    pictures.draw_vae(make_vae(), make_data(), labels, [], tmp_path)
    shown = [t.get_text() for axes in kept["reconstructions"].axes for t in axes.get_xticklabels()]
    assert shown[:8] == [f"class {label}" for label in (0, 1, 2, 3, 0, 1, 2, 3)]


def test_the_dimensions_of_largest_kl_are_shown(tmp_path, kept):
    class Informed(nn.Module):
        def forward(self, x):
            loc = torch.zeros(*x.shape[:-3], 4)
            loc[..., 1], loc[..., 3] = 2.0, 3.0
            return dist.Normal(loc, torch.ones(4)).to_event(1)

    vae = make_vae(latent_dim=4)
    vae.posterior = Informed()
    pictures.draw_vae(vae, make_data(), None, [], tmp_path)
    (axes,) = kept["latent"].axes
    assert axes.get_xlabel() == "$z_{4}$ (KL 4.5 nats)"  # m^2 / 2
    assert axes.get_ylabel() == "$z_{2}$ (KL 2.0 nats)"


def test_kl_without_a_closed_form_agrees_with_the_closed_form():
    torch.manual_seed(0)
    q = dist.Normal(torch.randn(50, 3), 0.3 + torch.rand(50, 3)).to_event(1)
    exact, closed = kl_per_dimension(q, StandardNormal(3)(), torch.zeros(1, 3))
    assert closed
    p = dist.MultivariateNormal(torch.zeros(3), torch.eye(3))
    estimate, closed = kl_per_dimension(q, p, p.sample((5000,)))
    assert not closed
    np.testing.assert_allclose(estimate, exact, rtol=0.1)


class Banana(nn.Module):
    """A posterior whose mean and variance have no closed form."""

    def __init__(self, latent_dim):
        super().__init__()
        self.latent_dim = latent_dim

    def forward(self, x):
        loc = x.flatten(1)[:, : self.latent_dim] / 16
        normal = dist.MultivariateNormal(loc, torch.eye(self.latent_dim))
        return dist.TransformedDistribution(normal, [dist.transforms.TanhTransform()])


@pytest.mark.parametrize("latent_dim", [1, 2, 4])
def test_a_posterior_that_can_only_be_sampled_is_drawn(tmp_path, coarse, latent_dim):
    vae = make_vae(latent_dim=latent_dim)
    vae.posterior = Banana(latent_dim)
    assert pictures.draw_vae(vae, make_data(), np.arange(N) % 3, [], tmp_path)


def test_more_than_ten_classes_get_a_colour_scale(tmp_path, kept):
    pictures.draw_vae(make_vae(), make_data(), np.arange(N), [], tmp_path)
    axes, scale = kept["latent"].axes
    assert scale.get_ylabel() == "class"
    assert not axes.texts


def test_up_to_ten_classes_are_numbered(tmp_path, kept):
    pictures.draw_vae(make_vae(), make_data(), np.arange(N) % 10, [], tmp_path)
    (axes,) = kept["latent"].axes
    assert [text.get_text() for text in axes.texts] == [str(label) for label in range(10)]
    assert len(set(style.CLASSES)) == 10


def test_numbers_of_classes_in_one_place_do_not_overlap():
    draws, labels = np.random.default_rng(0).normal(size=(500, 2)), np.arange(500) % 10
    covariance = np.broadcast_to(0.01 * np.eye(2), (500, 2, 2))
    figure = plots.latent(draws, covariance, draws, lambda z: np.exp(-(z**2).sum(-1)), labels)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 10
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


@pytest.mark.parametrize("shape", [(6, 5), (2, 2, 4), (2,), (1,)])
def test_any_event_shape_is_drawn(tmp_path, coarse, shape):
    network = partial(MLP, hidden_dims=(8,))
    vae = VAE(StandardNormal(2), Normal(2, shape, network), DiagonalNormal(2, shape, network))
    x = torch.randn(N, *shape, generator=torch.Generator().manual_seed(0))
    names = [path.stem for path in pictures.draw_vae(vae, x, None, [], tmp_path)]
    assert ("grid" in names) == (shape == (6, 5))


def test_drawing_changes_nothing_global(tmp_path, coarse):
    vae = make_vae()
    vae.train()
    vae.likelihood.eval()
    modes = {name: module.training for name, module in vae.named_modules()}
    parameters = dict.copy(matplotlib.rcParams)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    pictures.draw_vae(vae, make_data(), np.arange(N) % 3, make_metrics(), tmp_path)
    assert dict.copy(matplotlib.rcParams) == parameters
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(map(np.array_equal, np.random.get_state(), numpy_state))  # noqa: NPY002
    assert {name: module.training for name, module in vae.named_modules()} == modes


def test_no_figure_imports_pyplot_and_chooses_no_backend():
    for path in Path(plots.__file__).parent.glob("*.py"):
        source = path.read_text()
        names = {
            getattr(node, "module", None) or node.names[0].name
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        assert not any("pyplot" in name for name in names)
        assert "matplotlib.use(" not in source


def test_the_same_seed_gives_the_same_bytes_whatever_the_users_style(tmp_path, coarse):
    vae, x, labels = make_vae(), make_data(), np.arange(N) % 3

    def drawn(name, seed):
        paths = pictures.draw_vae(vae, x, labels, make_metrics(), tmp_path / name, seed=seed)
        return [path.read_bytes() for path in paths]

    first = drawn("first", 0)
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 20, "lines.linewidth": 9}):
        assert drawn("again", 0) == first
    assert drawn("other", 1)[1:] != first[1:]


def test_a_failing_save_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def fail(self, fname, **kwargs):
        fname.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="no space left"):
        plots.save(Figure(), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["figure.png"]


def test_a_figure_is_saved_as_png_only(tmp_path):
    with pytest.raises(ValueError, match=r"saved as \.png, got figure\.pdf"):
        plots.save(Figure(), tmp_path / "figure.pdf")


def test_labels_of_another_split_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one per example: got 7 for 30"):
        pictures.draw_vae(make_vae(), make_data(), np.zeros(7, int), [], tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "real",
    [[100.5], [-100.5, 100.5], [7.0], [np.nan], [0.25, 0.25, np.nan], [3.0, 2.0]],
    ids=str,
)
def test_histograms_of_few_rows_do_not_divide_by_nothing(tmp_path, real):
    """A row outside of the bins, a column without a value, a constant."""
    table = np.repeat(np.array(real)[:, None], 3, axis=1)
    for drawn in (np.random.default_rng(0).normal(size=(500, 3)), np.full((5, 3), 0.25)):
        figure = plots.samples(table, drawn)
        figure.savefig(tmp_path / "x.png")


def test_histograms_are_densities_of_all_values():
    real, drawn = np.random.default_rng(1).normal(size=(2, 4000, 3))
    panel = plots.samples(real, drawn).axes[0]
    shares = sum(bar.get_width() * bar.get_height() for bar in panel.patches if bar.get_alpha())
    assert 0.985 < shares <= 1
