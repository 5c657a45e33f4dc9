r"""The command that takes the gap between log p(x) and the ELBO apart."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from pyrovae.cli.options import (
    count,
    data_dir_option,
    json_option,
    opened_run,
    run_options,
    seed_option,
)

__all__ = ["gap"]


@click.command()
@run_options
@count("--images", metavar="N", default=16, show_default=True, help="The first N test examples.")
@click.option(
    "--method",
    type=click.Choice(["auto", "exact", "quadrature", "bridge"]),
    default="auto",
    show_default=True,
    help="How log p(x) is computed.",
)
@click.option(
    "--samples",
    metavar="N",
    type=click.IntRange(2),
    default=10_000,
    show_default=True,
    help="Draws of each q for each ELBO.",
)
@count("--steps", metavar="N", default=1_000, show_default=True, help="Of the search for best q.")
@click.option(
    "--draws",
    metavar="N",
    type=click.IntRange(4),
    default=250,
    show_default=True,
    help="Of each of 4 NUTS chains, after as many to warm up.",
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
    """log p(x) - ELBO of single images: the best q's share, and what the encoder loses against it.

    log p(x) = ELBO + KL(q(z|x) || p(z|x)), each term computed by itself: exactly where that can be,
    by quadrature for one and two latent dimensions, with NUTS and bridge sampling elsewhere. A
    picture goes to RUN/figures/gap.png, and of a two-dimensional latent another one to
    RUN/figures/posteriors.png.
    """
    from pyrovae import plots
    from pyrovae.diagnostics import gap as take_apart
    from pyrovae.diagnostics import gap_summary, posterior_densities
    from pyrovae.runs import as_json as in_json
    from pyrovae.runs import destination
    from pyrovae.training import counting

    opened = opened_run(run, own)
    path = destination(None, opened.folder / "figures/gap.png", (".png",))
    vae, dataset = opened.vae(), opened.dataset(data_dir)
    found = take_apart(
        vae,
        dataset.test,
        images=images,
        method=method,
        samples=samples,
        steps=steps,
        draws=draws,
        warmup=draws,
        seed=seed,
        counting=counting,
    )
    labels = dataset.test.labels
    result = gap_summary(found, None if labels is None else labels.tolist())
    pictures = {path: plots.gap(result)}
    if vae.latent_dim == 2:
        panels = posterior_densities(vae, found)
        pictures[path.with_name("posteriors.png")] = plots.posteriors(panels, result)
    for path, picture in pictures.items():
        plots.save(picture, path)
    if as_json:
        click.echo(in_json(result))
    else:
        click.echo("\n".join(_lines(result)))
        for path in pictures:
            click.echo(f"figure   {path}")


_COLUMNS = {
    "log_evidence": "log p(x)",
    "elbo": "ELBO",
    "kl": "KL(q||p(z|x))",
    "residual": "residual",
    "approximation": "approximation",
    "amortisation": "amortisation",
}


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    rows = [["image", *_COLUMNS.values()]]
    for row in result["per_image"]:
        values = [_text(row[name]["value"], row[name]["error"]) for name in _COLUMNS]
        rows.append([str(row["image"]), *values])
    means = (result["mean"][name] for name in _COLUMNS)
    rows.append(["mean", *(_text(mean["estimate"], mean["error"]) for mean in means)])
    errors = (result["mean"][name]["standard_error"] for name in _COLUMNS)
    if result["images"] > 1:
        rows.append(["images", *(f"+- {error:.3f}" for error in errors)])
    yield (
        f"log p(x) = ELBO + KL + residual; log p(x) - ELBO = approximation gap + amortisation gap; "
        f"{result['images']:,} test examples, nats"
    )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
    yield "+- after a number is its own error; in the last line, that of the mean over examples"
    for name, way in result["ways"].items():
        yield f"{_COLUMNS[name]}: {way}"
    yield f"draws of each q: {result['samples']:,}"
    if result["nuts"] is not None:
        nuts = result["nuts"]
        yield (
            f"NUTS: {nuts['chains']} chains of {nuts['draws']:,} draws, r-hat at most "
            f"{nuts['largest_r_hat']:.3f}, at least {nuts['smallest_effective']:,.0f} effective "
            f"draws, {nuts['divergences']:,} divergent"
        )


def _text(value: float, error: float) -> str:
    return f"{value:.3f}" + (f" +- {error:.3f}" if error >= 5e-4 else "")
