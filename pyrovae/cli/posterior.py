r"""The commands that ask how good q(z|x) is: its KL to p(z), its gap, and its calibration."""

from collections.abc import Iterable, Iterator
from textwrap import wrap
from typing import TYPE_CHECKING

import click

from pyrovae.cli import options

if TYPE_CHECKING:
    from pyrovae.diagnostics import Calibration, Gap, GradientComparison, GradientNoise, Variance
    from pyrovae.kl import Ledger
    from pyrovae.runs import Run

__all__ = ["calibrate", "gap", "kl"]


def _numbers(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in value.split(","))
    except ValueError:
        numbers = (0,)
    if min(numbers) < 1:
        raise click.BadParameter(
            f"{value!r} must be positive whole numbers joined by commas, such as 1,10,100"
        )
    return numbers


@click.command()
@options.on_run
@options.text(
    "--samples",
    metavar="N,N,...",
    default="1,10,100,1000,10000",
    callback=_numbers,
    help="Draws per example.",
)
@options.whole_number("--limit", 1_000, "Use only the first N examples.")
@click.option(
    "--gradients", is_flag=True, help="Also compare the noise of the encoder's gradients."
)
@options.whole_number("--draws", 100, "Draws of each gradient.", least=2)
@options.seed
@options.data_dir
@options.quiet
@options.printed
def kl(
    run: "Run",
    samples: tuple[int, ...],
    limit: int,
    gradients: bool,
    draws: int,
    seed: int,
    data_dir: str | None,
) -> options.Found:
    """Compute KL(q(z|x) || p(z)) by formula and by sampling.

    It is computed on the test set, also by quadrature and bounds where they exist. The formula
    stands beside each number. The figure is RUN/figures/kl.png. --gradients compares three
    estimators of the gradient of the ELBO with respect to the encoder on one batch of the first
    examples, at most 100, and draws RUN/figures/gradients.png.
    """
    from pyrovae import diagnostics, plots, training
    from pyrovae.kl import ledger

    options.refuse_without("draws", "--gradients", met=gradients)
    options.check_data_dir(run=run)
    vae, dataset = run.vae(), run.dataset(data_dir)
    with training.counting("KL(q || p)", min(limit, len(dataset.test))) as progress:
        result = ledger(
            vae, dataset.test, samples=samples, limit=limit, seed=seed, progress=progress
        )
    pictures = {"kl": plots.divergence(result)}
    plain, lines = result.to_dict(), list(_folded(_lines_of_ledger(result)))
    if gradients:
        with training.counting("gradients", draws) as progress:
            first = min(limit, diagnostics.GRADIENT_LIMIT)
            found = diagnostics.compare_gradients(
                vae, dataset.test, draws=draws, limit=first, seed=seed, progress=progress
            )
        plain["gradients"] = found.to_dict()
        pictures["gradients"] = plots.gradients(found)
        lines += _lines_of_gradients(found)
    return plain, [*lines, *options.drawn(run, pictures)]


def _folded(lines: Iterable[str]) -> Iterator[str]:
    """The same lines within 80 columns, with what follows below the second column."""
    indent = " " * 17
    for line in lines:
        yield from wrap(line, 80, subsequent_indent=indent, break_long_words=False)


def _lines_of_ledger(result: "Ledger") -> Iterator[str]:
    yield (
        f"KL(q || p), q {result.q}, p {result.p}, mean of {result.examples:,} test examples, "
        "nats per example"
    )
    if result.infinite:
        yield f"infinite: {result.infinite}"
    closed, integrated, bounds = result.closed_form, result.quadrature, result.bounds
    if closed is None:
        yield "closed form      none is known"
    else:
        yield f"closed form      {closed.value:.6f}  {closed.formula}"
    if integrated is not None:
        yield (
            f"quadrature       {integrated.value:.6f}  {integrated.formula}, "
            f"error {integrated.error:.0e}"
        )
    if bounds is not None:
        yield f"bounds           {bounds.lower:.6f} to {bounds.upper:.6f}  {bounds.formula}"
    for rows, title in ((result.monte_carlo, "Monte Carlo"), (result.low_variance, "low variance")):
        if rows is result.low_variance and result.unusable:
            yield f"{title}, {rows[0].formula}, {result.unusable}"
            continue
        yield f"{title}, {rows[0].formula}, +- standard error over draws"
        for row in rows:
            yield (
                f"{row.samples:>10,} draws {row.estimate:14.6f}"
                + ("" if row.z_score is None else f"  z = {row.z_score:+.2f}")
                + ("" if row.mean_ratio is None else f"  mean of r {row.mean_ratio:.3f}")
            )
    if result.per_dimension:
        values = " ".join(f"{part.value:.3f}" for part in result.per_dimension)
        yield f"by dimension     {values}  {result.per_dimension[0].formula}"


_TITLES = {"elbo": "Monte Carlo KL", "analytic": "analytic KL", "stl": "sticking the landing"}


def _lines_of_gradients(result: "GradientComparison") -> Iterator[str]:
    yield (
        "gradient of the ELBO per example with respect to the encoder: "
        f"{result.parameters:,} parameters, {result.draws:,} draws for a batch of the first "
        f"{result.examples:,} test examples, +- standard error over draws"
    )
    if result.note:
        yield result.note
    for row in result.estimators:
        title, noise = _TITLES[row.name], row.noise
        if noise is None:
            yield f"{title:<21} {row.reason}"
            continue
        mean, ratio, snr = noise.mean, noise.variance_ratio, noise.signal_to_noise
        line = f"{title:<21} variance {_with_error(noise.variance)}"
        if ratio is not None and row.name != "elbo":
            line += f", {_with_error(ratio)} of that of Monte Carlo KL"
        yield line
        yield (
            f"{'':21} mean of norm {mean.norm:.4g} +- {mean.standard_error:.2g}, signal to "
            "noise " + (_no_ratio(noise, result.draws) if snr is None else f"{snr:.3g}")
        )
        if noise.difference is not None:
            z_score = noise.difference.z_score
            yield (
                f"{'':21} mean less that of Monte Carlo KL: norm {noise.difference.norm:.2g}, "
                f"from noise alone {noise.difference.standard_error:.2g}"
                + ("" if z_score is None else f", z = {z_score:+.2f}")
            )


def _with_error(number: "Variance") -> str:
    error = number.standard_error
    return f"{number.value:.4g}" + ("" if error is None else f" +- {error:.2g}")


def _no_ratio(noise: "GradientNoise", draws: int) -> str:
    if noise.variance.value == 0:
        return "infinite, there is no noise"
    return f"below about {draws**-0.5:.2g}: the mean is lost in the noise"


@click.command()
@options.on_run
@options.whole_number("--images", 16, "The first N test examples.")
@options.choice(
    "--method", ["auto", "exact", "quadrature", "bridge"], "Method for log p(x).", "auto"
)
@options.whole_number("--samples", 10_000, "Draws from each q for each ELBO.", least=2)
@options.whole_number("--steps", 1_000, "Steps of the search for the best q.")
@options.whole_number(
    "--draws", 250, "Draws of each of 4 NUTS chains, after as many warm-up draws.", least=4
)
@options.seed
@options.data_dir
@options.quiet
@options.printed
def gap(
    run: "Run",
    images: int,
    method: str,
    samples: int,
    steps: int,
    draws: int,
    seed: int,
    data_dir: str | None,
) -> options.Found:
    """Split log p(x) - ELBO into the parts of family and encoder.

    log p(x) = ELBO + KL(q(z|x) || p(z|x)), each term computed on its own: exactly where possible,
    by quadrature for one and two latent dimensions, otherwise with NUTS and bridge sampling. The
    figure is written to RUN/figures/gap.png; a two-dimensional latent has another one in
    RUN/figures/posteriors.png.
    """
    from pyrovae import diagnostics, plots, training

    options.check_data_dir(run=run)
    vae = run.vae()
    sampled = vae.latent_dim == 2 or diagnostics.chosen(vae, method) == "bridge"
    options.refuse_without("draws", "bridge sampling and two latent dimensions", met=sampled)
    dataset = run.dataset(data_dir)
    found = diagnostics.gap(
        vae,
        dataset.test,
        images=images,
        labels=dataset.test.labels,
        method=method,
        samples=samples,
        steps=steps,
        nuts=diagnostics.NutsSettings(draws, warmup=draws),
        seed=seed,
        counting=training.counting,
    )
    pictures = {"gap": plots.gap(found)}
    if vae.latent_dim == 2:
        panels = diagnostics.posterior_densities(vae, found)
        pictures["posteriors"] = plots.posteriors(panels, found)
    return found.to_dict(), [*_lines_of_gap(found), *options.drawn(run, pictures)]


_COLUMNS = {
    "log_evidence": "log p(x)",
    "elbo": "ELBO",
    "kl": "KL(q||p(z|x))",
    "residual": "residual",
    "approximation": "approximation",
    "amortization": "amortization",
}


def _lines_of_gap(result: "Gap") -> Iterator[str]:
    terms = [result.terms[name] for name in _COLUMNS]
    count = len(result.x)
    rows = [["image", *_COLUMNS.values()]]
    for i in range(count):
        rows.append(
            [str(i), *(_text(term.value[i].item(), term.error[i].item()) for term in terms)]
        )
    means = [term.mean for term in terms]
    rows.append(["mean", *(_text(mean.value, mean.error) for mean in means)])
    if count > 1:
        rows.append(["images", *(f"+- {mean.standard_error:.3f}" for mean in means)])
    yield (
        f"log p(x) = ELBO + KL + residual; log p(x) - ELBO = approximation gap + amortization gap; "
        f"{count:,} test examples, nats"
    )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
    yield "+- standard error over draws; in the last line, of the mean over examples"
    for name, way in result.ways.items():
        yield f"{_COLUMNS[name]}: {way}"
    yield f"draws of each q: {result.samples:,}"
    if result.draws is not None:
        chains, draws = result.draws.z.shape[:2]
        yield (
            f"NUTS: {chains} chains of {draws:,} draws, r-hat at most "
            f"{result.draws.r_hat.max():.3f}, at least {result.draws.effective.min():,.0f} "
            f"effective draws, {result.draws.divergences:,} divergent"
        )


def _text(value: float, error: float) -> str:
    return f"{value:.3f}" + (f" +- {error:.3f}" if error >= 5e-4 else "")


@click.command()
@options.on_run
@options.whole_number("--simulations", 1_000, "Pairs of z and x to draw.")
@options.count("--draws", metavar="L", default=99, help="Draws from q(z|x) for each pair.")
@options.seed
@options.quiet
@options.printed
def calibrate(run: "Run", simulations: int, draws: int, seed: int) -> options.Found:
    """Test whether q(z|x) is the posterior of the run's own model.

    The test is simulation-based calibration. On data drawn from the model, the z that generated an
    x is ranked among draws from q(z|x). The test does not cover real data or the quality of the
    model. The figure is written to RUN/figures/calibration.png.
    """
    from pyrovae import diagnostics, plots, training

    vae, roles = run.vae(), run.roles()
    with training.counting("simulations", simulations) as progress:
        result = diagnostics.calibrate(
            vae, simulations=simulations, draws=draws, seed=seed, progress=progress
        )
    drawn = options.drawn(run, {"calibration": plots.calibration(result)})
    lines = [*_lines_of_calibration(result, roles), *drawn]
    return result.to_dict() | roles, lines


def _lines_of_calibration(result: "Calibration", roles: dict[str, str]) -> Iterator[str]:
    yield (
        f"{result.simulations:,} data drawn from the model, {result.draws} draws from q(z|x) "
        f"for each; prior {roles['prior']}, posterior {roles['posterior']}"
    )
    yield result.verdict
    yield (
        f"{'':<11} {'chi-squared':>11} {'p':>6} {'50 %':>6} {'80 %':>6} {'90 %':>6} "
        f"{'error / stated':>15}  ranks"
    )
    for row in result.functions:
        covered = [f"{100 * part.observed.value:.1f}" for part in row.coverage or ()]
        ratio = row.error_ratio
        error = "" if ratio is None else f"{ratio.value:.2f} +- {ratio.standard_error:.2f}"
        yield (
            f"{row.name:<11} {row.chi_squared:>11.1f} {row.adjusted_p_value:>6.3f} "
            + " ".join(f"{share:>6}" for share in covered or [""] * 3)
            + f" {error:>15}  {row.verdict}"
        )
    yield (
        f"p: adjusted for {len(result.functions)} functions by {result.permutations} "
        f"permutations; 50 %, 80 %, 90 %: how often such an interval of q holds z, in percent, "
        f"+- {_largest_error(result):.1f} over simulations; error / stated: that of q's mean over "
        "the standard deviation that q states, +- standard error over simulations"
    )


def _largest_error(result: "Calibration") -> float:
    parts = [part.observed for row in result.functions for part in row.coverage or ()]
    return 100 * max((part.standard_error or 0.0 for part in parts), default=0.0)
