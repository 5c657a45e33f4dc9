r"""The command that computes the KL term of a run in every available way."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from pyrovae.cli.options import (
    data_dir_option,
    json_option,
    opened_run,
    run_options,
    seed_option,
    text,
    whole_number,
)

if TYPE_CHECKING:
    from pyrovae.diagnostics import GradientComparison, GradientNoise, Variance
    from pyrovae.kl import Ledger

__all__ = ["kl"]


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
@run_options
@text(
    "--samples",
    metavar="N,N,...",
    default="1,10,100,1000,10000",
    show_default=True,
    callback=_numbers,
    help="Draws per example.",
)
@whole_number("--limit", 1_000, "Use only the first N examples.")
@click.option(
    "--gradients", is_flag=True, help="Also compare the noise of the encoder's gradients."
)
@whole_number("--draws", 100, "Draws of each gradient.", least=2)
@seed_option
@data_dir_option
@json_option
def kl(
    run: str,
    samples: tuple[int, ...],
    limit: int,
    gradients: bool,
    draws: int,
    seed: int,
    data_dir: str | None,
    as_json: bool,
    **own: str | None,
) -> None:
    """Compute KL(q(z|x) || p(z)) on the test set by formula, sampling, quadrature and bounds.

    The formula stands beside each number. The figure is RUN/figures/kl.png. --gradients compares
    three estimators of the gradient of the ELBO with respect to the encoder on one batch of the
    first examples, at most 100, and draws RUN/figures/gradients.png.
    """
    from pyrovae import plots
    from pyrovae.diagnostics import GRADIENT_LIMIT, compare_gradients
    from pyrovae.kl import ledger
    from pyrovae.runs import as_json as in_json
    from pyrovae.runs import destination
    from pyrovae.training import counting

    opened = opened_run(run, own)
    path = destination(None, opened.folder / "figures/kl.png", (".png",))
    vae, dataset = opened.vae(), opened.dataset(data_dir)
    total = min(limit, len(dataset.test))
    with counting("KL(q || p)", total) as progress:
        result = ledger(
            vae, dataset.test, samples=samples, limit=limit, seed=seed, progress=progress
        )
    pictures = {path: plots.divergence(result)}
    lines, plain = list(_lines(result)), result.to_dict()
    if gradients:
        with counting("gradients", draws) as progress:
            found = compare_gradients(
                vae,
                dataset.test,
                draws=draws,
                limit=min(limit, GRADIENT_LIMIT),
                seed=seed,
                progress=progress,
            )
        plain["gradients"] = found.to_dict()
        pictures[path.with_name("gradients.png")] = plots.gradients(found)
        lines += _lines_of_gradients(found)
    for path, picture in pictures.items():
        plots.save(picture, path)
    if as_json:
        click.echo(in_json(plain))
    else:
        click.echo("\n".join(lines))
        for path in pictures:
            click.echo(f"figure   {path}")


def _lines(result: "Ledger") -> Iterator[str]:
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
        yield f"{title}, {rows[0].formula}"
        for row in rows:
            error = row.estimate.standard_error
            yield (
                f"{row.samples:>10,} draws {row.estimate.value:>14.6f}"
                + ("" if error is None else f" +- {error:.6f}")
                + ("" if row.z_score is None else f"  z = {row.z_score:+.2f}")
                + ("" if row.mean_ratio is None else f"  mean of r {row.mean_ratio:.3f}")
            )
    if result.infinite_variance:
        yield (
            f"r - 1 - log r has infinite variance for {result.infinite_variance:,} of the "
            f"{result.examples:,} q, and its z-scores mean nothing for them"
        )
    if result.per_dimension:
        values = " ".join(f"{part.value:.3f}" for part in result.per_dimension)
        yield f"by dimension     {values}  {result.per_dimension[0].formula}"


_TITLES = {"elbo": "Monte Carlo KL", "analytic": "analytic KL", "stl": "sticking the landing"}


def _lines_of_gradients(result: "GradientComparison") -> Iterator[str]:
    yield (
        "gradient of the ELBO per example with respect to the encoder: "
        f"{result.parameters:,} parameters, {result.draws:,} draws for a batch of the first "
        f"{result.examples:,} test examples"
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
