r"""The commands that put questions to a trained model: draws, codes, missing pixels, scores."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyrovae.cli import options

if TYPE_CHECKING:
    import numpy as np

    from pyrovae.data import Split
    from pyrovae.queries import Imputed, ImputedExample, Scores
    from pyrovae.runs import Run

__all__ = ["encode", "impute", "reconstruct", "sample", "score"]


@click.command()
@options.on_run
@options.whole_number("--count", 64, "Number of draws.")
@click.option("--means", is_flag=True, help="Means of p(x|z) instead of draws.")
@options.text(
    "--out", metavar="FILE", help=".png of images, .csv of rows, .npy or .npz. [RUN/figures/...]"
)
@options.seed
def sample(run: "Run", count: int, means: bool, out: str | None, seed: int) -> None:
    """Sample from the model: z from p(z), then x from p(x|z)."""
    import torch

    from pyrovae import plots, runs

    kind = ".png" if _has_images(run) else ".csv"
    path = runs.destination(out, run.folder / f"figures/drawn{kind}", (kind, ".npy", ".npz"))
    vae = run.vae()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        x = vae.decode(vae.prior().sample((count,))) if means else vae.sample(count)
    what = "means of $p(x|z)$" if means else "draws $x \\sim p(x|z)$"
    runs.write_arrays(
        path, {"x": x.numpy()}, lambda: plots.images(x.numpy(), f"{what}, $z \\sim p(z)$")
    )
    click.echo(path)


@click.command()
@options.on_run
@options.text("--data", metavar="NAME|PATH", help="Other data. [the run's test set]")
@options.data_dir
@options.whole_number("--count", 20, "Number of examples.")
@options.text("--out", metavar="FILE", help=".png or .npz. [RUN/figures/reconstructed.png]")
@options.seed
def reconstruct(
    run: "Run", data: str | None, data_dir: str | None, count: int, out: str | None, seed: int
) -> None:
    """Draw examples beside the mean of p(x|z) at a draw of z from q(z|x)."""
    import numpy as np
    import torch

    from pyrovae import plots, runs

    path = runs.destination(out, run.folder / "figures/reconstructed.png", (".png", ".npz"))
    vae = run.vae()
    split = run.dataset(data_dir).test if data is None else run.treat(data, data_dir)
    x = split.batch(np.arange(min(count, len(split))))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        means = vae.reconstruct(x)
    runs.write_arrays(
        path,
        {"x": x.numpy(), "reconstruction": means.numpy()},
        lambda: plots.reconstructions(x.numpy(), means.numpy()),
    )
    click.echo(path)


@click.command()
@options.on_run
@options.text("--data", metavar="NAME|PATH", required=True, help="Data to encode.")
@options.data_dir
@options.text("--out", metavar="FILE", required=True, help=".npz with loc, scale and labels.")
def encode(run: "Run", data: str, data_dir: str | None, out: str) -> None:
    """Write the mean and standard deviation of q(z|x) for all examples of a dataset, in order."""
    from pyrovae import queries, runs, training

    path = runs.destination(out, Path(out), (".npz",))
    vae = run.vae()
    split = run.treat(data, data_dir)
    with training.counting("encoding", len(split)) as progress:
        loc, scale = queries.encodings(vae, split, progress=progress)
    arrays = {"loc": loc.numpy(), "scale": scale.numpy()}
    if split.labels is not None:
        arrays["labels"] = split.labels
    runs.write_arrays(path, arrays)
    click.echo(path)


@click.command()
@options.on_run
@options.text("--data", metavar="NAME|PATH", help="Other data. [the run's test set]")
@options.text(
    "--mask", metavar="NAME|FILE", help="Name of the hidden part, or file of the observed pixels."
)
@options.text("--method", metavar="HOW", default="importance", help="Or nuts.")
@options.whole_number("--completions", 5, "Draws for each example.")
@options.count("--samples", metavar="N", help="Draws of z per example. [1000; nuts 400]")
@options.whole_number("--count", 8, "Use only the first N examples.")
@options.text("--out", metavar="FILE", help=".png or .npz. [RUN/figures/imputed.png]")
@options.seed
@options.data_dir
@options.printed
def impute(
    run: "Run",
    data: str | None,
    mask: str | None,
    method: str,
    completions: int,
    samples: int | None,
    count: int,
    out: str | None,
    seed: int,
    data_dir: str | None,
) -> options.Found:
    """Draw missing pixels given the observed ones, from p(x_miss|x_obs).

    A mask name stands for the HIDDEN part: lower, upper, left, right, random:0.5. A mask file
    (.npy, .npz or .png) is true (1, white) at OBSERVED pixels and has the shape of one example or
    of all examples. In --data FILE.npy with floats, NaN counts as missing too.
    """
    import numpy as np
    import torch

    from pyrovae import plots, queries, runs, training

    endings = (".png", ".npz") if _has_images(run) else (".npz",)
    path = runs.destination(out, run.folder / f"figures/imputed{endings[0]}", endings)
    split, present = _with_holes(run, data, data_dir)
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
    vae = run.vae()
    if method not in queries.METHODS:
        raise click.BadParameter(
            f"{method!r} is not one of {', '.join(queries.METHODS)}", param_hint="--method"
        )
    what = "examples" if method == "importance" else "draws of the chains"
    with training.counting(what, queries.work(method, len(x), samples)) as progress:
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
        shown = x.numpy() if present is None else np.where(present[first], x.numpy(), np.nan)
        captions = [_caption(row) for row in found.rows]
        drawn, mean = found.completions.numpy(), found.mean.numpy()
        return plots.completions(shown, observed, drawn, mean, captions)

    runs.write_arrays(path, found.arrays(), figure)
    return found.to_dict() | {"file": str(path)}, [*_lines_of_imputed(found), str(path)]


@click.command()
@options.on_run
@options.text("--data", metavar="NAME|PATH", help="Data to score, all rows. [the run's test set]")
@options.text(
    "--out", metavar="FILE", required=True, help=".csv or .npz, one row for each example."
)
@options.whole_number("--samples", 1_000, "Draws of z per example.")
@options.text("--proposal", metavar="HOW", default="posterior", help="Or mixture.")
@options.seed
@options.data_dir
@options.printed
def score(
    run: "Run",
    data: str | None,
    out: str,
    samples: int,
    proposal: str,
    seed: int,
    data_dir: str | None,
) -> options.Found:
    """Estimate log p(x) of each example by the importance-weighted bound, with its standard error.

    The file has log_evidence with its standard_error, ess and pareto_k of the weights, and the
    label if there is one. Draws come from q(z|x) or, with --proposal mixture, from a mixture fitted
    to each example, which takes longer and needs fewer draws. A low log p(x) need not be an
    anomaly, and an anomaly may have a high one.
    """
    from pyrovae import evidence, queries, runs, training

    path = runs.destination(out, Path(out), (".csv", ".npz"))
    vae = run.vae()
    split = run.dataset(data_dir).test if data is None else run.treat(data, data_dir)
    if proposal not in evidence.PROPOSALS:
        raise click.BadParameter(
            f"{proposal!r} is not one of {', '.join(evidence.PROPOSALS)}", param_hint="--proposal"
        )
    with training.counting(f"{samples:,} samples each", len(split)) as progress:
        found = queries.score(
            vae, split, samples=samples, proposal=proposal, seed=seed, progress=progress
        )
    labels = {} if split.labels is None else {"label": split.labels}
    runs.write_arrays(path, found.arrays() | labels)
    return found.to_dict() | {"file": str(path)}, [*_lines_of_scores(found), str(path)]


def _has_images(run: "Run") -> bool:
    return len(run.config.data["event_shape"]) == 3


def _with_holes(
    run: "Run", data: str | None, data_dir: str | None
) -> tuple["Split", "np.ndarray | None"]:
    """The data, and where values are present if a .npy file contains NaN, else None."""
    import tempfile

    import numpy as np

    if data is None:
        return run.dataset(data_dir).test, None
    path = Path(data).expanduser()
    if path.suffix.lower() == ".npy" and path.is_file():
        try:
            x = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError):
            return run.treat(data, data_dir), None  # raises the error
        if x.dtype.kind == "f" and np.isnan(x).any():
            present = ~np.isnan(x)
            if not present.any():
                raise ValueError(f"{path} holds nothing but NaN; it needs at least one value")
            x = np.where(present, x, x[present].flat[0])
            if run.config.data["maximum"] is not None and (x == np.rint(x)).all():
                x = x.astype(np.int64)  # counts that are stored as floats because of NaN
            with tempfile.TemporaryDirectory() as folder:
                filled = Path(folder, path.name)
                np.save(filled, x)
                split = run.treat(str(filled), data_dir)
            return split, present.reshape(len(x), *split.event_shape)
    return run.treat(data, data_dir), None


def _caption(row: "ImputedExample") -> str:
    evidence = row.log_evidence
    if evidence is None:
        return f"effective\ndraws {row.effective:.0f}"
    return "$\\log p(x_\\mathrm{obs})$\n" + str(evidence).replace("-", "\N{MINUS SIGN}")


def _lines_of_imputed(found: "Imputed") -> Iterator[str]:
    yield (
        f"{found.completions.shape[1]} completions of each of {len(found.x):,} examples by "
        f"{found.method}, {found.samples:,} draws of z for each"
    )
    if found.method == "importance":
        yield f"log p(x_obs) in nats: {found.kind}"
    for number, row in enumerate(found.rows):
        line, evidence = f"{number:>5} {row.observed:>5} of {row.pixels} observed", row.log_evidence
        if evidence is not None:
            line += f"  log p(x_obs) {evidence:10.2f}"
        line += f"  effective sample size {row.effective:,.0f}"
        if row.r_hat is not None:
            line += f"  r_hat {row.r_hat:.3f}"
        yield line


def _lines_of_scores(found: "Scores") -> Iterator[str]:
    from pyrovae.evidence import RELIABLE

    yield (
        f"log p(x), mean of {len(found.log_evidence):,} examples: {found.mean:.2f} nats "
        f"({found.kind}, {found.samples:,} samples each)"
    )
    if heavy := found.heavy_tails:
        yield (
            f"the weights of {heavy:,} have a heavy tail (pareto_k above {RELIABLE}): their errors "
            "are too small; take more samples, or --proposal mixture"
        )
