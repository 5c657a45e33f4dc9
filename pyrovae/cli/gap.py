r"""The command that splits the gap between log p(x) and the ELBO into its two parts."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from pyrovae.cli.options import (
    data_dir_option,
    json_option,
    opened_run,
    run_options,
    seed_option,
    whole_number,
)

if TYPE_CHECKING:
    from pyrovae.diagnostics import Gap

__all__ = ["gap"]


@click.command()
@run_options
@whole_number("--images", 16, "The first N test examples.")
@click.option(
    "--method",
    type=click.Choice(["auto", "exact", "quadrature", "bridge"]),
    default="auto",
    show_default=True,
    help="Method for log p(x).",
)
@whole_number("--samples", 10_000, "Draws from each q for each ELBO.", least=2)
@whole_number("--steps", 1_000, "Steps of the search for the best q.")
@whole_number(
    "--draws", 250, "Draws of each of 4 NUTS chains, after as many warm-up draws.", least=4
)
@seed_option
@data_dir_option
@json_option
def gap(
    run: str,
    images: int,
    method: str,
    samples: int,
    steps: int,
    draws: int,
    seed: int,
    data_dir: str | None,
    as_json: bool,
    **own: str | None,
) -> None:
    """Split log p(x) - ELBO of single examples into the best q's part and the encoder's part.

    log p(x) = ELBO + KL(q(z|x) || p(z|x)), each term computed on its own: exactly where possible,
    by quadrature for one and two latent dimensions, otherwise with NUTS and bridge sampling. The
    figure is written to RUN/figures/gap.png; a two-dimensional latent has another one in
    RUN/figures/posteriors.png.
    """
    from pyrovae import plots
    from pyrovae.diagnostics import NutsSettings, posterior_densities
    from pyrovae.diagnostics import gap as split
    from pyrovae.runs import as_json as in_json
    from pyrovae.runs import destination
    from pyrovae.training import counting

    opened = opened_run(run, own)
    path = destination(None, opened.folder / "figures/gap.png", (".png",))
    vae, dataset = opened.vae(), opened.dataset(data_dir)
    found = split(
        vae,
        dataset.test,
        images=images,
        labels=dataset.test.labels,
        method=method,
        samples=samples,
        steps=steps,
        nuts=NutsSettings(draws, warmup=draws),
        seed=seed,
        counting=counting,
    )
    pictures = {path: plots.gap(found)}
    if vae.latent_dim == 2:
        panels = posterior_densities(vae, found)
        pictures[path.with_name("posteriors.png")] = plots.posteriors(panels, found)
    for path, picture in pictures.items():
        plots.save(picture, path)
    if as_json:
        click.echo(in_json(found.to_dict()))
    else:
        click.echo("\n".join(_lines(found)))
        for path in pictures:
            click.echo(f"figure   {path}")


_COLUMNS = {
    "log_evidence": "log p(x)",
    "elbo": "ELBO",
    "kl": "KL(q||p(z|x))",
    "residual": "residual",
    "approximation": "approximation",
    "amortization": "amortization",
}


def _lines(result: "Gap") -> Iterator[str]:
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
    yield "+- after a number is its own error; in the last line, that of the mean over examples"
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
