"""The mean of each estimator is the exact gradient, and its variance the one of the formula."""

import itertools
import json
import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

from pyrovae import plots
from pyrovae.diagnostics import gradient_variance
from pyrovae.diagnostics.gradient_variance import ESTIMATORS, compare_gradients
from pyrovae.estimates import Estimate
from pyrovae.likelihoods import Bernoulli
from pyrovae.objectives import OBJECTIVES, Beta
from pyrovae.posteriors import DiagonalNormal, InverseAutoregressive, Point, PowerSpherical
from pyrovae.priors import GaussianMixture, Sphere, StandardNormal, VampPrior
from pyrovae.vae import VAE
from tests.conftest import EXPENSIVE_SEEDS, SEEDS
from tests.models import PAIRS, Rows, affine
from tests.models import make_pair as pair
from tests.oracles import assert_finite, assert_within, exact_elbo

SHAPE = (1, 8, 8)


def by_name(result):
    return {row.name: row for row in result.estimators}


@pytest.fixture
def kept(monkeypatch):
    """The moments that a comparison makes: of the estimators, then of differences."""
    made = []

    class Kept(gradient_variance.Moments):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(gradient_variance, "Moments", Kept)
    return made


def check_mean(moments, expected):
    """Each component of a mean is within 4 standard errors."""
    error = (moments.squares / (moments.count - 1) / moments.count).sqrt()
    assert_within(moments.mean, expected, error, floor=1e-9 * expected.abs())


def check_difference(row):
    """The mean is within 4 standard errors of that of the plain estimator."""
    difference = row.noise.difference
    assert_finite(difference.norm, difference.standard_error)
    assert_within(difference.z_score, 0.0, 1.0)


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_the_mean_is_the_gradient_of_the_exact_elbo(seed, kept):
    """On a linear-Gaussian VAE: 4 standard errors of 200 draws, in every parameter."""
    vae, x, _ = affine(seed)
    x = x.repeat(5, 1)
    size = sum(p.numel() for p in vae.posterior.parameters())
    expected = exact_elbo(vae, x, torch.sum)[-size:] / len(x)
    rows = by_name(compare_gradients(vae, Rows(x), draws=200, seed=seed))
    for moments, name in zip(kept[:3], ESTIMATORS, strict=True):
        check_mean(moments, expected)
        row, noise = rows[name], moments.squares.sum() / 199 / 200
        assert row.noise.mean.norm == pytest.approx(moments.mean.norm().item())
        assert row.noise.mean.standard_error == pytest.approx(noise.sqrt().item())
        assert_within(row.noise.mean.norm, expected.norm(), row.noise.mean.standard_error)
        assert row.noise.mean.squared_norm == pytest.approx(
            (moments.mean.square().sum() - noise).item()
        )
        assert row.noise.signal_to_noise == pytest.approx(
            math.sqrt(row.noise.mean.squared_norm / row.noise.variance.value)
        )
    assert rows["elbo"].noise.difference is None
    for name in ESTIMATORS[1:]:
        check_difference(rows[name])


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_the_check_of_the_means_finds_another_gradient(seed, monkeypatch):
    """The gradient at beta 2 is more than 4 standard errors away."""
    monkeypatch.setitem(OBJECTIVES, "stl", lambda: Beta(beta=2.0))
    vae, x, _ = affine(seed)
    row = by_name(compare_gradients(vae, Rows(x.repeat(20, 1)), draws=100, seed=seed))["stl"]
    assert_finite(row.noise.difference.z_score, row.noise.difference.norm)
    assert abs(row.noise.difference.z_score) > 4
    assert row.noise.difference.norm > 4 * row.noise.difference.standard_error


@pytest.mark.parametrize("seed", SEEDS)
def test_sticking_the_landing_has_no_variance_at_the_exact_posterior(seed):
    vae, x, _ = affine(seed, diagonal=False)
    rows = by_name(compare_gradients(vae, Rows(x), draws=50, seed=seed))
    assert rows["stl"].noise.variance.value < 1e-20 * rows["elbo"].noise.variance.value
    assert rows["stl"].noise.variance_ratio.value < 1e-20
    for name in ("elbo", "analytic"):
        assert rows[name].noise.variance.value > 1e-3


class Shared(nn.Module):
    """q(z | x) = N(m, s^2) for every x."""

    def __init__(self, loc, scale):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([loc], dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor([scale], dtype=torch.float64).log())

    def forward(self, x):
        q = dist.Normal(self.loc, self.log_scale.exp())
        return q.expand((*x.shape[:-1], 1)).to_event(1)


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
@pytest.mark.parametrize("scale", [0.2, 0.5, 1.5])
def test_the_variance_is_that_of_the_formula_in_one_dimension(seed, scale):
    r"""4 standard errors. With :math:`x \mid z \sim N(wz, t^2)` and exact precision c = 1 + k.

    In the mean m the gradient is linear in the noise, with the slopes s c, s k and s |c - 1 / s^2|.
    In log s it is quadratic, of the form s (a - b m) e + d e^2.
    """
    w, t, m = 1.2, 0.7, 0.3
    k = (w / t) ** 2
    x = torch.tensor([[0.5], [-1.0], [2.0]], dtype=torch.float64)
    prior = StandardNormal(1).double()
    prior.loc, prior.scale = prior.loc.double(), prior.scale.double()
    vae = VAE(prior, lambda z: dist.Normal(w * z, t).to_event(1), Shared(m, scale))
    rows = by_name(compare_gradients(vae, Rows(x), draws=200, seed=seed))
    a, (quiet, loud) = w * x / t**2, (k, 1 + k)
    linear = {"elbo": loud, "analytic": quiet, "stl": loud - scale**-2}
    inner = {"elbo": loud, "analytic": quiet, "stl": loud}
    for name in ESTIMATORS:
        of_loc = (scale * linear[name]) ** 2 * torch.ones_like(a)
        of_scale = scale**2 * (a - inner[name] * m) ** 2 + 2 * (scale**2 * linear[name]) ** 2
        truth = ((of_loc + of_scale).sum() / len(x) ** 2).item()
        variance, layers = rows[name].noise.variance, rows[name].noise.layers
        assert_within(variance.value, truth, variance.standard_error)
        assert variance.value == pytest.approx(sum(layer.variance for layer in layers))
        loc = of_loc.sum().item() / len(x) ** 2
        assert layers[0].name == "loc"
        assert layers[0].variance == pytest.approx(loc, rel=4 * math.sqrt(2 / 199))
        ratio, noisy = rows[name].noise.variance_ratio, rows["elbo"].noise.variance.value
        assert ratio.value == pytest.approx(variance.value / noisy)
    assert rows["elbo"].noise.variance_ratio.standard_error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("size", [1, 40])
def test_moments_are_numpys_and_their_standard_error_is_what_repetition_shows(size):
    """The spread of 1,000 estimates, known to 2.2 percent itself, within 5 of those."""
    rng = np.random.default_rng(0)
    scale = 1 / np.arange(1, size + 1)
    found, errors = [], []
    for _ in range(1_000):
        values = 3 + rng.standard_normal((30, size)) * scale
        moments = gradient_variance.Moments()
        for value in values:
            moments.add(torch.from_numpy(value))
        found.append(moments.variance)
        errors.append(Estimate.of(moments.increments).standard_error)
    np.testing.assert_allclose(moments.mean, values.mean(0))
    assert moments.variance == pytest.approx(values.var(0, ddof=1).sum())
    assert math.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(found), rel=5 * 0.022)


def test_all_estimators_take_the_same_draws(vae, digits):
    seen = []
    likelihood = vae.likelihood

    def recorded(z):
        seen.append(z.detach().clone())
        return likelihood(z)

    watched = VAE(vae.prior, recorded, vae.posterior)
    seen.clear()
    compare_gradients(watched, Rows(digits), draws=3)
    assert len(seen) == 9
    for draw in range(3):
        assert torch.equal(seen[3 * draw], seen[3 * draw + 1])
        assert torch.equal(seen[3 * draw], seen[3 * draw + 2])
    for one, other in itertools.combinations(seen[::3], 2):
        assert not torch.equal(one, other)


def test_the_same_seed_gives_the_same_result_of_the_first_examples(vae, digits):
    told = []
    result = compare_gradients(vae, Rows(digits), draws=4, limit=10, progress=told.append)
    assert told == [1, 1, 1, 1]
    assert (result.draws, result.examples) == (4, 10)
    assert result.parameters == sum(p.numel() for p in vae.posterior.parameters())
    assert result == compare_gradients(vae, Rows(digits[:10]), draws=4)
    other = compare_gradients(vae, Rows(digits), draws=4, limit=10, seed=1)
    assert by_name(other)["elbo"].noise.variance != by_name(result)["elbo"].noise.variance


def test_nothing_global_is_left_changed(vae, digits):
    vae.train()
    vae.likelihood.eval()
    frozen = next(vae.likelihood.parameters()).requires_grad_(False)
    gradient = torch.ones_like(next(vae.posterior.parameters()))
    next(vae.posterior.parameters()).grad = gradient
    pyro.param("posterior$$$mine", torch.ones(2))
    store = dict(pyro.get_param_store().items())
    modes = {name: module.training for name, module in vae.named_modules()}
    weights = [p.detach().clone() for p in vae.parameters()]
    state, filters = torch.get_rng_state(), list(warnings.filters)
    with torch.no_grad():
        compare_gradients(vae, Rows(digits), draws=2)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert warnings.filters == filters
    assert {name: module.training for name, module in vae.named_modules()} == modes
    assert pyro.get_param_store().keys() == store.keys()
    assert all(map(torch.equal, vae.parameters(), weights))
    assert [p for p in vae.parameters() if not p.requires_grad] == [frozen]
    assert next(vae.posterior.parameters()).grad is gradient
    assert sum(p.grad is not None for p in vae.parameters()) == 1
    assert gradient.eq(1).all()


def test_only_what_is_trained_counts(vae, digits):
    name, first = next(iter(vae.posterior.named_parameters()))
    first.requires_grad_(False)
    result = compare_gradients(vae, Rows(digits), draws=2)
    assert result.parameters == sum(p.numel() for p in vae.posterior.parameters()) - (first.numel())
    assert all(layer.name != name for layer in by_name(result)["stl"].noise.layers)


def make(prior, posterior, network):
    return VAE(prior, Bernoulli(2, SHAPE, network), posterior)


def nothing(row):
    keys = ("mean", "variance", "signal_to_noise", "variance_ratio", "difference", "formula")
    plain = row.to_dict()
    return row.noise is None and all(plain[key] is None for key in keys) and plain["layers"] == []


@pytest.mark.parametrize("kind", ["mixture", "flow"])
def test_without_a_closed_form_the_analytic_row_says_so_and_has_no_numbers(kind, network, digits):
    if kind == "mixture":
        vae = make(GaussianMixture(2, components=3), DiagonalNormal(2, SHAPE, network), network)
    else:
        vae = make(StandardNormal(2), InverseAutoregressive(2, SHAPE, network), network)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = compare_gradients(vae, Rows(digits), draws=20)
    rows = by_name(result)
    assert rows["analytic"].reason.startswith("no closed form of KL(")
    assert result.q in rows["analytic"].reason
    assert result.p in rows["analytic"].reason
    assert nothing(rows["analytic"])
    check_difference(rows["stl"])
    assert result.note is None


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_a_prior_made_of_the_posterior_is_differentiated_too(seed, network, digits, kept):
    """4 standard errors, from the exact gradient in one dimension by quadrature."""
    torch.manual_seed(seed)
    posterior = DiagonalNormal(1, SHAPE, network)
    prior = VampPrior(posterior, SHAPE, components=3)
    vae = VAE(prior, Bernoulli(1, SHAPE, network), posterior).double()
    x = digits[:4].double()
    result = compare_gradients(vae, Rows(x), draws=200, seed=seed)
    assert "is made of the posterior: the gradient goes through p(z), too" in result.note
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    q = vae.posterior(x)
    z = q.mean + q.stddev * torch.from_numpy(nodes)[:, None, None]  # (nodes, batch, 1)
    terms = vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)
    bound = (torch.from_numpy(weights / weights.sum()) @ terms).mean()
    exact = torch.autograd.grad(bound, list(posterior.parameters()))
    expected = torch.cat([part.flatten() for part in exact])
    for moments in kept[:2]:
        direction = gradient_variance._signs(len(expected), 7)
        error = math.sqrt((moments.squares / 199 / 200).sum())
        assert_within(direction @ (moments.mean - expected), 0.0, error * math.sqrt(len(expected)))
        assert_within((moments.mean - expected).norm(), 0.0, error)
    check_difference(by_name(result)["stl"])


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_a_sphere_has_all_three(seed, network, digits):
    torch.manual_seed(seed)
    result = compare_gradients(
        make(Sphere(2), PowerSpherical(2, SHAPE, network), network),
        Rows(digits),
        draws=50,
        seed=seed,
    )
    rows = by_name(result)
    for name in ESTIMATORS:
        assert rows[name].reason is None
        assert rows[name].noise.variance.value > 0
    for name in ESTIMATORS[1:]:
        check_difference(rows[name])


@pytest.mark.parametrize(("prior", "posterior"), PAIRS)
def test_every_pair_has_numbers_or_a_reason(prior, posterior, digits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = compare_gradients(pair(prior, posterior), Rows(digits), draws=2, limit=5)
    rows = by_name(result)
    for row in rows.values():
        if row.reason is None:
            assert math.isfinite(row.noise.variance.value)
            assert row.noise.mean.norm > 0
        else:
            assert nothing(row)
    assert rows["elbo"].reason is None
    # relaxed_categorical is itself where it is evaluated, with draws that no gradient goes through
    assert (rows["stl"].reason is None) == (posterior != "relaxed_categorical")


def test_a_point_has_no_noise_and_the_note_says_why(network, digits):
    vae = make(StandardNormal(2), Point(2, SHAPE, network), network)
    result = compare_gradients(vae, Rows(digits), draws=5)
    assert "is a point: nothing is drawn" in result.note
    assert "no bound" in result.note
    for row in result.estimators:
        assert row.noise.variance.value == 0
        assert row.noise.signal_to_noise is row.noise.variance_ratio is None
        assert row.noise.mean.norm > 0


class Coins(nn.Module):
    """Two bits whose odds depend on x, which cannot be drawn by a differentiable map."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.randn(3, 2, dtype=torch.float64))

    def forward(self, x):
        return dist.Bernoulli(logits=x @ self.slope).to_event(1)


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_draws_that_cannot_be_differentiated_leave_the_gradient_by_the_score(seed, kept):
    """4 standard errors from the sum over all four z."""
    torch.manual_seed(seed)
    x = torch.randn(4, 3, dtype=torch.float64)
    decoder = torch.randn(2, 3, dtype=torch.float64)

    def prior():
        return dist.Bernoulli(torch.full((2,), 0.3, dtype=torch.float64)).to_event(1)

    vae = VAE(prior, lambda z: dist.Normal(z @ decoder, 1.0).to_event(1), Coins())
    rows = by_name(compare_gradients(vae, Rows(x), draws=300, seed=seed))
    for name in ("analytic", "stl"):
        assert "has no reparameterised draws" in rows[name].reason
        assert nothing(rows[name])
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 2)
    z, q = bits[:, None].expand(4, 4, 2), vae.posterior(x)
    log_ratio = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x) - q.log_prob(z)
    bound = (q.log_prob(z).exp() * log_ratio).sum(0).mean()
    (expected,) = torch.autograd.grad(bound, vae.posterior.slope)
    check_mean(kept[0], expected.flatten())
    assert rows["elbo"].formula.endswith("times the score of q")


def test_an_infinite_divergence_has_no_gradient_in_exact_elbo(network, digits):
    plain = DiagonalNormal(2, SHAPE, network)

    class Heavy(nn.Module):
        def __init__(self):
            super().__init__()
            self.normal = plain

        def forward(self, x):
            q = self.normal(x)
            return dist.StudentT(1.5, q.mean, q.stddev).to_event(1)

    row = by_name(
        compare_gradients(make(StandardNormal(2), Heavy(), network), Rows(digits), draws=2)
    )
    assert row["analytic"].reason.endswith("is infinite")
    assert nothing(row["analytic"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 1}, "draws must be at least 2 for a variance, got 1"),
        ({"limit": 0}, "limit must be positive, got 0"),
    ],
)
def test_a_wrong_number_is_refused(vae, digits, options, message):
    with pytest.raises(ValueError, match=message):
        compare_gradients(vae, Rows(digits), **options)


def test_what_has_no_gradient_is_refused(vae, digits):
    with pytest.raises(ValueError, match="there are no examples"):
        compare_gradients(vae, Rows(digits[:0]))

    def fixed(x):
        return dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1)

    with pytest.raises(
        ValueError, match=r"the posterior fixed has no parameters to train.*; give a module"
    ):
        compare_gradients(VAE(vae.prior, vae.likelihood, fixed), Rows(digits))

    def steep(z):
        loc = (0 * z).sqrt().sum(-1)[..., None, None, None]  # (*batch, 1, 1, 1)
        return dist.Normal(loc, 1.0).expand((*z.shape[:-1], *SHAPE)).to_event(3)

    with pytest.raises(ValueError, match="the gradient of elbo is not finite; look for"):
        compare_gradients(VAE(vae.prior, steep, vae.posterior), Rows(digits))


@pytest.mark.parametrize("kind", ["all", "no closed form", "point"])
def test_the_figure_shows_each_layer_by_each_estimator(kind, network, digits, tmp_path):
    posterior = (Point if kind == "point" else DiagonalNormal)(2, SHAPE, network)
    prior = StandardNormal(2) if kind != "no closed form" else GaussianMixture(2, components=3)
    result = compare_gradients(make(prior, posterior, network), Rows(digits), draws=10)
    figure = plots.gradients(result)
    noise, signal = figure.axes
    rows = [row for row in result.estimators if row.reason is None]
    layers = [layer.name for layer in rows[0].noise.layers]
    assert [label.get_text() for label in noise.get_yticklabels()] == [*layers, "all"]
    for axes in (noise, signal):
        assert axes.get_xlabel()
        assert len([line for line in axes.get_lines() if len(line.get_xdata()) > 2]) == len(rows)
    for row, line in zip(rows, noise.get_lines(), strict=False):
        shown = np.array([*(part.variance for part in row.noise.layers), row.noise.variance.value])
        if kind == "point":
            assert np.isnan(line.get_xdata()).all()
        else:
            np.testing.assert_array_equal(line.get_xdata(), shown)
    for row, line in zip(rows, signal.get_lines(), strict=False):
        last = row.noise.signal_to_noise
        assert line.get_xdata()[-1] == pytest.approx(
            math.nan if last is None else last, nan_ok=True
        )
    labels = figure.legends[0].get_texts()
    assert len(labels) == len(rows)
    plots.save(figure, tmp_path / "gradients.png")
    assert (tmp_path / "gradients.png").stat().st_size > 10_000


SMALL = ("--encoder", "mlp:hidden_dims=8", "--decoder", "mlp:hidden_dims=8", "--latent-dim", 2)
FEW = ("kl", "run", "--samples", 2, "--limit", 20, "--gradients", "--draws", 5)


def test_the_command_prints_writes_and_refuses(command, tmp_path):
    assert command("fit", *SMALL, "--epochs", 1, "--out", "run")[0] == 0
    picture = tmp_path / "run/figures/gradients.png"
    for wrong in (("--draws", 1), ("--draws", 0), ("--draws", "x"), ("--limit", 0)):
        status, out, err = command("kl", "run", "--gradients", *wrong)
        assert (status, out) == (2, "")
        assert err.count("\n") == 1
    assert "gradients" not in json.loads(command("kl", "run", "--samples", 2, "--json")[1])
    assert not picture.exists()
    status, out, _ = command(*FEW, "--json")
    assert status == 0
    result = json.loads(out)
    assert result["images"] == 20
    found = result["gradients"]
    assert (found["draws"], found["images"]) == (5, 20)
    assert [row["name"] for row in found["estimators"]] == list(ESTIMATORS)
    assert picture.read_bytes().startswith(b"\x89PNG")
    status, out, _ = command(*FEW)
    assert status == 0
    assert "5 draws for a batch of the first 20 test examples" in out
    for row in found["estimators"]:
        assert f"variance {row['variance']['value']:.4g} +- " in out
    assert out.count("of that of Monte Carlo KL") == 2
    assert "figure   run/figures/gradients.png" in out


def test_the_command_takes_a_batch_of_at_most_100(command):
    assert command("fit", *SMALL, "--epochs", 1, "--out", "run")[0] == 0
    many = ("--samples", 2, "--limit", 120, "--gradients", "--draws", 2, "--json")
    result = json.loads(command("kl", "run", *many)[1])
    assert (result["images"], result["gradients"]["images"]) == (120, 100)


def test_the_command_says_what_is_not_there(command):
    assert command("fit", *SMALL, "--prior", "mixture", "--epochs", 1, "--out", "run")[0] == 0
    _, out, _ = command(*FEW)
    assert "analytic KL           no closed form of KL(Independent Normal || Mixture" in out
    analytic = json.loads(command(*FEW, "--json")[1])["gradients"]["estimators"][1]
    assert analytic["variance"] is analytic["mean"] is analytic["difference"] is None


def test_the_command_shows_a_point_without_noise(command):
    assert command("fit", *SMALL, "--posterior", "point", "--epochs", 1, "--out", "run")[0] == 0
    status, out, _ = command(*FEW)
    assert status == 0
    assert "is a point: nothing is drawn" in out
    assert out.count("signal to noise infinite, there is no noise") == 3
