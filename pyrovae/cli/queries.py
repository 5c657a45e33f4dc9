r"""The commands that impute missing pixels of examples and score examples."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyrovae.cli.options import (
    count,
    data_dir_option,
    json_option,
    opened_run,
    run_options,
    seed_option,
    text,
    whole_number,
)

if TYPE_CHECKING:
    import numpy as np

    from pyrovae.data import Split
    from pyrovae.queries import Imputed, ImputedExample
    from pyrovae.runs import Run

__all__ = ["impute", "score"]


@click.command()
@run_options
@text("--data", metavar="NAME|PATH", help="Other data. [the run's test set]")
@text(
    "--mask", metavar="NAME|FILE", help="Name of the hidden part, or file of the observed pixels."
)
@text("--method", metavar="HOW", default="importance", show_default=True, help="Or nuts.")
@whole_number("--completions", 5, "Draws for each example.")
@count("--samples", metavar="N", help="Draws of z per example. [1000; nuts 400]")
@whole_number("--count", 8, "Use only the first N examples.")
@text("--out", metavar="FILE", help=".png or .npz. [RUN/figures/imputed.png]")
@seed_option
@data_dir_option
@json_option
def impute(
    run: str,
    data: str | None,
    mask: str | None,
    method: str,
    completions: int,
    samples: int | None,
    count: int,
    out: str | None,
    seed: int,
    data_dir: str | None,
    as_json: bool,
    **own: str | None,
) -> None:
    """Draw missing pixels given the observed ones, from p(x_miss|x_obs).

    A mask name stands for the HIDDEN part: lower, upper, left, right, random:0.5. A mask file
    (.npy, .npz or .png) is true (1, white) at OBSERVED pixels and has the shape of one example or
    of all examples. In --data FILE.npy with floats, NaN counts as missing too.
    """
    import numpy as np
    import torch

    from pyrovae import queries
    from pyrovae.runs import as_json as in_json
    from pyrovae.runs import destination, write_arrays
    from pyrovae.training import counting

    opened = opened_run(run, own)
    image = len(opened.config.data["event_shape"]) == 3
    endings = (".png", ".npz") if image else (".npz",)
    path = destination(out, opened.folder / f"figures/imputed{endings[0]}", endings)
    split, present = _with_holes(opened, data, data_dir)
    first = slice(min(count, len(split)))
    if mask is None and present is None:
        raise ValueError(f"nothing is missing in {data or 'the test set'}; hide pixels with --mask")
    observed = np.ones((len(split), *split.event_shape), bool)[first]
    if mask is not None:
        hidden = ~queries.mask(mask, split.event_shape, len(split), seed=seed)
        observed &= ~np.broadcast_to(hidden, (len(split), *split.event_shape))[first]
    if present is not None:
        observed &= present[first]
    x = split.batch(np.arange(len(observed)))
    vae = opened.vae()
    if method not in queries.METHODS:
        raise click.BadParameter(
            f"{method!r} is not one of {', '.join(queries.METHODS)}", param_hint="--method"
        )
    what = "examples" if method == "importance" else "draws of the chains"
    with counting(what, queries.work(method, len(x), samples)) as progress:
        found = queries.impute(
            vae,
            x,
            torch.from_numpy(observed),
            method=method,
            completions=completions,
            samples=samples,
            seed=seed,
            progress=progress,
        )

    def figure() -> Any:
        from pyrovae.plots import completions as completed

        shown = x.numpy() if present is None else np.where(present[first], x.numpy(), np.nan)
        captions = [_caption(row) for row in found.rows]
        return completed(shown, observed, found.completions.numpy(), found.mean.numpy(), captions)

    write_arrays(path, found.arrays(), figure)
    if as_json:
        click.echo(in_json(found.to_dict() | {"file": str(path)}))
    else:
        click.echo("\n".join([*_lines(found), str(path)]))


@click.command()
@run_options
@text("--data", metavar="NAME|PATH", help="Data to score, all rows. [the run's test set]")
@text("--out", metavar="FILE", required=True, help=".csv or .npz, one row for each example.")
@whole_number("--samples", 1_000, "Draws of z per example.")
@text("--proposal", metavar="HOW", default="posterior", show_default=True, help="Or mixture.")
@seed_option
@data_dir_option
@json_option
def score(
    run: str,
    data: str | None,
    out: str,
    samples: int,
    proposal: str,
    seed: int,
    data_dir: str | None,
    as_json: bool,
    **own: str | None,
) -> None:
    """Estimate log p(x) of each example by the importance-weighted bound, with its standard error.

    The file has log_evidence with its standard_error, ess and pareto_k of the weights, and the
    label if there is one. Draws come from q(z|x) or, with --proposal mixture, from a mixture fitted
    to each example, which takes longer and needs fewer draws. A low log p(x) need not be an
    anomaly, and an anomaly may have a high one.
    """
    from pyrovae.evidence import PROPOSALS, RELIABLE
    from pyrovae.queries import score as scored
    from pyrovae.runs import as_json as in_json
    from pyrovae.runs import destination, write_arrays
    from pyrovae.training import counting

    opened = opened_run(run, own)
    path = destination(out, Path(out), (".csv", ".npz"))
    vae = opened.vae()
    split = opened.dataset(data_dir).test if data is None else opened.treat(data, data_dir)
    if proposal not in PROPOSALS:
        raise click.BadParameter(
            f"{proposal!r} is not one of {', '.join(PROPOSALS)}", param_hint="--proposal"
        )
    with counting(f"{samples:,} samples each", len(split)) as progress:
        found = scored(vae, split, samples=samples, proposal=proposal, seed=seed, progress=progress)
    labels = {} if split.labels is None else {"label": split.labels}
    write_arrays(path, found.arrays() | labels)
    if as_json:
        click.echo(in_json(found.to_dict() | {"file": str(path)}))
        return
    mean, heavy = found.mean, found.heavy_tails
    error = "" if mean.standard_error is None else f" +- {mean.standard_error:.2f}"
    click.echo(
        f"log p(x), mean of {len(split):,} examples: {mean.value:.2f}{error} nats "
        f"({found.kind}, {samples:,} samples each)"
    )
    if heavy:
        click.echo(
            f"the weights of {heavy:,} have a heavy tail (pareto_k above {RELIABLE}): their errors "
            "are too small; take more samples, or --proposal mixture"
        )
    click.echo(path)


def _with_holes(
    opened: "Run", data: str | None, data_dir: str | None
) -> tuple["Split", "np.ndarray | None"]:
    """The data, and where values are present if a .npy file contains NaN, else None."""
    import tempfile

    import numpy as np

    if data is None:
        return opened.dataset(data_dir).test, None
    path = Path(data).expanduser()
    if path.suffix.lower() == ".npy" and path.is_file():
        try:
            x = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError):
            return opened.treat(data, data_dir), None  # raises the error
        if x.dtype.kind == "f" and np.isnan(x).any():
            present = ~np.isnan(x)
            if not present.any():
                raise ValueError(f"{path} holds nothing but NaN; it needs at least one value")
            x = np.where(present, x, x[present].flat[0])
            if opened.config.data["maximum"] is not None and (x == np.rint(x)).all():
                x = x.astype(np.int64)  # counts that are stored as floats because of NaN
            with tempfile.TemporaryDirectory() as folder:
                filled = Path(folder, path.name)
                np.save(filled, x)
                split = opened.treat(str(filled), data_dir)
            return split, present.reshape(len(x), *split.event_shape)
    return opened.treat(data, data_dir), None


def _caption(row: "ImputedExample") -> str:
    evidence = row.log_evidence
    if evidence is None:
        return f"effective\ndraws {row.effective:.0f}"
    number = f"{evidence.value:.2f} ± {evidence.standard_error:.2f}"
    return "$\\log p(x_\\mathrm{obs})$\n" + number.replace("-", "\N{MINUS SIGN}")


def _lines(found: "Imputed") -> Iterator[str]:
    yield (
        f"{found.completions.shape[1]} completions of each of {len(found.x):,} examples by "
        f"{found.method}, {found.samples:,} draws of z for each"
    )
    if found.method == "importance":
        yield f"log p(x_obs) in nats: {found.kind}"
    for number, row in enumerate(found.rows):
        line, evidence = f"{number:>5} {row.observed:>5} of {row.pixels} observed", row.log_evidence
        if evidence is not None:
            line += f"  log p(x_obs) {evidence.value:>10.2f} +- {evidence.standard_error:.2f}"
        line += f"  effective sample size {row.effective:,.0f}"
        if row.r_hat is not None:
            line += f"  r_hat {row.r_hat:.3f}"
        yield line
