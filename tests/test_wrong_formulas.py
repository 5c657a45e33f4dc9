"""The wrong formulas of docs/answers/wrong-formulas.md: each number, by another way.

The right column is held against a truth that nobody here wrote down twice: torch's KL, SciPy's
quadrature and normals, Pyro's RenyiELBO. The wrong one is off by the amount that is known, or by
many standard errors. All are held against what the page shows.
"""

import importlib.util
import math
import re
from pathlib import Path

import pytest
import torch
from pyro.infer import RenyiELBO
from scipy import integrate, stats
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from pyrovae.data import load
from pyrovae.diagnostics import log_weights
from pyrovae.estimates import Estimate
from pyrovae.evidence import exact
from pyrovae.objectives import Analytic, Beta
from tests.oracles import assert_finite

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "answers" / "wrong-formulas.md"
LOG_P = stats.norm(0, 2).logpdf(2.0)  # of the datum of the small model
LOC, SCALE = math.sqrt(3) / 2, 0.5  # of its posterior
TOLERANCE = 5  # standard errors


@pytest.fixture(scope="module")
def wrong_formulas():
    path = ROOT / "examples" / "wrong_formulas.py"
    spec = importlib.util.spec_from_file_location("wrong_formulas", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def number(text):
    if text == "-":
        return None
    value, _, error = text.partition(" +- ")
    return Estimate(float(value), float(error)) if error else float(value)


@pytest.fixture(scope="module")
def page():
    """What the page prints: the numbers of each row, by letter and name."""
    block = re.search(r"^```text\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)[1]
    rows, letter = {}, None
    for line in block.splitlines()[1:]:
        if line.startswith("("):
            letter = line[1]
        else:
            numbers = re.split(r" {2,}", line[41:].strip())
            rows[letter, line[2:41].strip()] = [number(text) for text in numbers]
    return rows


def run(wrong_formulas, name, *options):
    """The rows of one mistake, by name, under the page's seed."""
    mistake = getattr(wrong_formulas, name)
    torch.manual_seed(0)
    rows = mistake(*options)[0] if options else mistake()
    return mistake.__doc__[1], {row.what: row[1:] for row in rows}


def value(number):
    return number.value if isinstance(number, Estimate) else number


def error(number):
    """The standard error, and half of the last digit that is printed."""
    return (number.standard_error if isinstance(number, Estimate) else 0.0) + 1e-4


def agree(a, b):
    assert_finite(value(a), value(b), error(a), error(b))
    return abs(value(a) - value(b)) < TOLERANCE * math.hypot(error(a), error(b))


EXACT = ("noise", "kl_of_sigma", "denominator", "surrogate", "averages")


@pytest.mark.parametrize("name", EXACT)
def test_the_page_shows_what_is_computed(wrong_formulas, page, name):
    letter, rows = run(wrong_formulas, name)
    assert set(rows) == {what for of, what in page if of == letter}
    for what, numbers in rows.items():
        for computed, shown in zip(numbers, page[letter, what], strict=True):
            assert agree(computed, shown), what


def test_noise_has_the_standard_deviation_that_each_formula_says(wrong_formulas):
    _, rows = run(wrong_formulas, "noise")
    for scale in (0.5, 2.0):
        truth, right, wrong = rows[f"standard deviation of z, scale {scale}"]
        assert truth == scale
        assert agree(right, scale)
        assert agree(wrong, abs(math.log(scale / 2)))
        assert not agree(wrong, scale)
    truth, right, wrong = rows["ELBO, q being p(z | x)"]
    assert truth == pytest.approx(LOG_P, abs=1e-6)
    assert agree(right, LOG_P)
    lost = 3 * (math.log(SCALE / 2) ** 2 - SCALE**2) / 2  # E log p(x | z) falls with the variance
    assert agree(wrong, LOG_P - lost)
    assert lost > 100 * error(wrong)


def test_kl_of_sigma_is_too_small_and_has_another_optimum(wrong_formulas):
    _, rows = run(wrong_formulas, "kl_of_sigma")
    kl = kl_divergence(Normal(LOC, SCALE), Normal(0.0, 1.0)).item()
    short = 0.5 * (SCALE**2 - SCALE - math.log(SCALE))  # the right one less the wrong one
    for what, truth, wrong in (
        ("KL(q || p), q being p(z | x)", kl, kl - short),
        ("ELBO, q being p(z | x)", LOG_P, LOG_P + short),
        ("scale of q with the best ELBO", SCALE, 1 / 3),  # 3 s^2 + s / 2 - 1 / 2 = 0
    ):
        assert rows[what] == pytest.approx((truth, truth, wrong), abs=1e-5)


def test_the_denominator_makes_a_density_of_the_product(wrong_formulas):
    _, rows = run(wrong_formulas, "denominator")

    def joint(z):
        return stats.norm.pdf(z) * stats.norm.pdf(2.0, math.sqrt(3) * z, 1)

    evidence, mean = (integrate.quad(f, -12, 12)[0] for f in (joint, lambda z: z * joint(z)))
    assert evidence == pytest.approx(math.exp(LOG_P), rel=1e-8)
    assert rows["integral over z"] == pytest.approx((1, 1, evidence), abs=1e-6)
    assert rows["mean of z given x"] == pytest.approx((LOC, mean / evidence, mean), abs=1e-6)


def test_the_surrogate_is_above_the_evidence_and_the_bound_is_pyros(wrong_formulas):
    _, rows = run(wrong_formulas, "surrogate")
    ((truth, right, wrong),) = rows.values()
    assert truth == pytest.approx(LOG_P, abs=1e-6)
    assert_finite(right.value, wrong.value)
    assert right.value < truth < wrong.value - 100 * error(wrong)
    vae, x = wrong_formulas.small(exact_posterior=False), wrong_formulas.X.expand(20_000, 1)
    renyi = RenyiELBO(alpha=0, num_particles=10, vectorize_particles=True, max_plate_nesting=1)
    pyros = -renyi.loss(vae.model, vae.guide, x) / len(x)
    assert agree(right, Estimate(pyros, right.standard_error))


def test_the_surrogate_of_many_draws_tends_to_evidence_and_divergence(wrong_formulas):
    vae = wrong_formulas.small(exact_posterior=False)
    x = wrong_formulas.X.expand(50, 1)
    log_w = log_weights(vae, vae.posterior(x), x, 10_000, seed=1)
    surrogate = (log_w.softmax(0) * log_w).sum(0)
    expected = LOG_P + kl_divergence(Normal(LOC, SCALE), Normal(0.0, 1.0)).item()
    assert agree(Estimate.of(surrogate), expected)
    weights = log_w.softmax(0)
    above = (weights * (len(log_w) * weights).log()).sum(0)  # KL of the weights from equal ones
    bound = log_w.logsumexp(0) - math.log(len(log_w))
    torch.testing.assert_close(surrogate, bound + above)


def test_averages_in_the_wrong_place_are_other_quantities(wrong_formulas):
    _, rows = run(wrong_formulas, "averages")
    torch.manual_seed(0)
    vae = wrong_formulas.small(exact_posterior=False)
    x = vae.sample(wrong_formulas.DATA)
    each = torch.from_numpy(stats.norm(0, 2).logpdf(x[:, 0].numpy()))
    torch.testing.assert_close(exact(vae, x).log_evidence, each)
    renyi = RenyiELBO(alpha=0, num_particles=10, vectorize_particles=True, max_plate_nesting=1)
    many = x.repeat(wrong_formulas.REPEATS, 1)
    pyros = -renyi.loss(vae.model, vae.guide, many) / len(many)
    posterior = Normal(math.sqrt(3) * x[:, 0] / 4, SCALE)
    gap = kl_divergence(Normal(0.0, 1.0).expand(posterior.batch_shape), posterior).mean().item()
    for truth, right, _ in rows.values():
        assert truth == pytest.approx(each.mean().item(), abs=1e-6)
        assert right.value < truth
        assert agree(right, Estimate(pyros, right.standard_error))
    pooled, product, logs = (
        rows[what][2]
        for what in ("log of the mean over data too", "one weight for all data", "mean of the logs")
    )
    assert_finite(*(part for row in (pooled, product, logs) for part in (value(row), error(row))))
    ceiling = each.logsumexp(0).item() - math.log(len(each))
    assert f"${ceiling:.3f}$" in PAGE.read_text()
    assert truth + 20 * error(pooled) < pooled.value < ceiling + TOLERANCE * error(pooled)
    assert agree(logs, truth - gap)
    assert logs.value + 20 * error(product) < product.value
    assert product.value < right.value - 50 * error(product)
    variance = (4.5 + 3 * x.square()).mean().item()  # of one log weight, -(x - sqrt(3) z)^2 / 2
    assert product.value - logs.value < math.sqrt(10 * variance / len(each))


def test_the_mean_over_dimensions_is_a_weight_of_one_over_their_number(vae, digits):
    """The loss with the wrong line, and its gradient, are those of Beta at the same draws."""
    q, p = vae.posterior(digits), vae.prior()
    torch.manual_seed(3)
    z = q.rsample()
    reconstruction = vae.likelihood(z).log_prob(digits)
    sampled = q.base_dist.log_prob(z) - p.base_dist.log_prob(z)
    by_hand = -(reconstruction - sampled.mean(-1)).sum()
    torch.manual_seed(3)
    objective = Beta(beta=1 / vae.latent_dim)
    loss = objective.differentiable_loss(vae.model, vae.guide, digits)
    parameters = list(vae.parameters())
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(by_hand, parameters)
    )


@pytest.mark.parametrize(
    ("loss", "scale"),
    [
        (lambda loc, x: 0.5 * functional.mse_loss(loc, x, reduction="sum") / len(x), 1.0),
        (functional.mse_loss, math.sqrt(64 / 2)),
    ],
    ids=["half of the sum", "mean"],
)
def test_squared_error_is_a_normal_of_a_scale_but_for_a_constant(wrong_formulas, loss, scale):
    """Losses of two batches, and of two models, differ by the same from those of the normal."""
    x = torch.cat(list(load("digits", scaling="unit").test.batches(100)))
    apart = []
    for seed in (0, 1):
        config, _ = wrong_formulas.pyrovae.Config.resolve(
            {
                "data": {"scaling": "unit"},
                "model": {
                    "likelihood": f"normal:scale={scale}",
                    "encoder": "mlp",
                    "decoder": "mlp",
                },
                "training": {"seed": seed},
            }
        )
        vae = config.build()
        for batch in x.split(200):
            torch.manual_seed(0)
            exactly = Analytic().loss(vae.model, vae.guide, batch) / len(batch)
            torch.manual_seed(0)
            q = vae.posterior(batch)
            loc = vae.decode(q.rsample())
            by_hand = loss(loc, batch) + kl_divergence(q, vae.prior().expand([len(batch)])).mean()
            apart.append(exactly - by_hand.item())
    constant = 64 * (math.log(scale) + math.log(2 * math.pi) / 2)
    assert apart == pytest.approx([constant] * len(apart), abs=1e-3)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
def test_the_cross_entropy_of_grey_pixels_integrates_to_less_than_one(wrong_formulas, p):
    logits = torch.tensor(p, dtype=torch.float64).logit()

    def integral(kind):
        density = kind(logits=logits)
        return integrate.quad(lambda x: density.log_prob(logits.new_tensor(x)).exp().item(), 0, 1)[
            0
        ]

    assert integral(wrong_formulas.ContinuousBernoulli) == pytest.approx(1, abs=1e-9)
    by_hand, _ = integrate.quad(lambda x: p**x * (1 - p) ** (1 - x), 0, 1)
    assert integral(wrong_formulas.WithoutConstant) == pytest.approx(by_hand, abs=1e-9)
    assert by_hand < 0.51


def retrained(wrong_formulas, page, name):
    """The rows at the page's size, some ten seconds, after they were held against the page."""
    letter, rows = run(wrong_formulas, name, "digits", 40, 0, 100)
    assert set(rows) == {what for of, what in page if of == letter}
    for what, numbers in rows.items():
        for computed, shown in zip(numbers, page[letter, what], strict=True):
            if computed is None:
                assert shown is None
            else:  # another machine's rounding is as another seed
                assert value(computed) == pytest.approx(value(shown), rel=0.15, abs=0.1), what
    return rows


def check_better(rows, *names):
    """The right one is higher by many standard errors."""
    for name in names:
        _, right, wrong = rows[name]
        assert_finite(value(right), value(wrong), error(right), error(wrong))
        assert value(right) - value(wrong) > TOLERANCE * math.hypot(error(right), error(wrong))


@pytest.mark.slow
def test_training_with_the_averaged_kl_is_as_shown(wrong_formulas, page):
    rows = retrained(wrong_formulas, page, "averaged_kl")
    _, right, wrong = rows["trained: KL(q || p)"]
    assert_finite(wrong.value, right.value)
    assert wrong.value > 2 * right.value
    check_better(rows, "trained: ELBO", "trained: log p(x) at least")


@pytest.mark.slow
def test_training_with_the_cross_entropy_of_grey_pixels_is_as_shown(wrong_formulas, page):
    rows = retrained(wrong_formulas, page, "grey_bernoulli")
    integral = integrate.quad(lambda x: 0.1**x * 0.9 ** (1 - x), 0, 1)[0]
    assert rows["integral over x from 0 to 1, p = 0.1"] == pytest.approx((1, 1, integral))
    mean = 0.2 / (2 * 0.2 - 1) + 1 / (2 * math.atanh(1 - 2 * 0.2))  # Loaiza-Ganem, Cunningham
    assert rows["mean of the fit to pixels of mean 0.2"] == pytest.approx(
        (0.2, 0.2, mean), abs=1e-4
    )
    check_better(rows, "trained: ELBO, as the formula has it", "trained: ELBO, of the density")


@pytest.mark.slow
def test_training_with_squared_errors_is_as_shown(wrong_formulas, page):
    rows = retrained(wrong_formulas, page, "squared_error")
    _, right, wrong = rows["0.5 * sum: -log N(x | loc, scale)"]
    assert right - wrong == pytest.approx(32 * math.log(2 * math.pi), abs=1e-3)
    for loss, scale in (("0.5 * sum", 1.0), ("mean", math.sqrt(32))):
        assert rows[f"{loss}: scale, of pixels in [0, 1]"][2] == pytest.approx(scale)
        _, right, wrong = rows[f"{loss}, trained: KL(q || p)"]
        assert wrong.value < 0.05 < right.value
        check_better(rows, f"{loss}, trained: ELBO")
