r"""The commands that put questions to a trained model: draws, codes, missing pixels, scores."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyrovae.cli import options

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pyrovae.data import Split
    from pyrovae.queries import Imputed, ImputedExample, Scores
    from pyrovae.runs import Run

__all__ = ["decode", "encode", "impute", "reconstruct", "sample", "score"]


ROWS = 100_000  # means that are decoded at a time
MOST_LINES = 20  # examples of an imputation that are printed


@click.command()
@options.on_run
@options.whole_number("--count", 64, "Number of draws.")
@click.option("--means", is_flag=True, help="Means of p(x|z) instead of draws.")
@options.file(
    "--out",
    metavar="FILE",
    help=".png of images, .csv or .parquet of rows, .npy or .npz. [RUN/figures/...]",
)
@options.seed
def sample(run: "Run", count: int, means: bool, out: str | None, seed: int) -> None:
    """Sample from the model: z from p(z), then x from p(x|z).

    What is written is in the units of the data.
    """
    import torch

    from pyrovae import plots
    from pyrovae._process.isolation import isolated

    path = destination_of_rows(run, out, "drawn", (".npy", ".npz"))
    vae = run.vae()
    with torch.no_grad(), isolated():
        torch.manual_seed(seed)
        if means:
            x = torch.cat([vae.decode(z) for z in vae.sample_prior(count).split(ROWS)])
        else:
            x = vae.sample(count)
    what = "means of $p(x|z)$" if means else "draws $x \\sim p(x|z)$"
    write_rows(
        run,
        path,
        {"x": run.original(x)},
        lambda: plots.images(x.numpy(), f"{what}, $z \\sim p(z)$"),
    )
    options.echo(path)


@click.command()
@options.on_run
@options.other_data
@options.whole_number("--count", 20, "Number of examples.")
@options.file(
    "--out",
    metavar="FILE",
    help=".png, .npz, or .csv or .parquet of rows. [RUN/figures/reconstructed.png]",
)
@options.seed
def reconstruct(run: "Run", split: "Split", count: int, out: str | None, seed: int) -> None:
    """Draw examples beside their reconstructions.

    A reconstruction is the mean of p(x|z) at a draw of z from q(z|x).
    """
    import numpy as np
    import torch

    from pyrovae import plots, runs
    from pyrovae._process.isolation import isolated

    endings = (".png", ".npz") if _has_images(run) else (".png", ".npz", ".csv", ".parquet")
    path = runs.destination(out, run.folder / "figures/reconstructed.png", endings)
    vae = run.vae()
    x = split.batch(np.arange(min(count, len(split))))
    with torch.no_grad(), isolated():
        torch.manual_seed(seed)
        means = vae.reconstruct(x)
    original = run.original(means)
    arrays = {"reconstruction": original}
    if path.suffix == ".npz":
        arrays = {"x": split.in_units(np.arange(len(x)))} | arrays
    ids = None if split.ids is None else split.ids[: len(x)]

    def figure() -> Any:
        if _has_images(run):
            return plots.reconstructions(x.numpy(), means.numpy())
        known = split.in_units(np.arange(len(x))).astype(np.float64)
        return plots.reconstructions(known, original, schema=run.schema)

    write_rows(run, path, arrays, figure, ids=ids)
    options.echo(path)


@click.command()
@options.on_run
@options.other_data
@options.file(
    "--out",
    metavar="FILE",
    help=".npz with loc, scale and labels, or .csv or .parquet of rows. [RUN/codes.csv]",
)
@options.quiet
def encode(run: "Run", split: "Split", out: str | None) -> None:
    """Write the mean and standard deviation of each q(z|x)."""
    from pyrovae import queries, runs, training

    path = runs.destination(out, run.folder / "codes.csv", (".csv", ".parquet", ".npz"))
    vae = run.vae()
    with training.counting("encoding", len(split)) as progress:
        loc, scale = queries.encodings(vae, split, progress=progress)
    labels = {} if split.labels is None else {"labels": split.labels}
    if path.suffix == ".npz":
        runs.write_arrays(path, {"loc": loc.numpy(), "scale": scale.numpy()} | labels)
    else:
        columns = {f"z{d + 1}": loc[:, d].numpy() for d in range(loc.shape[1])}
        columns |= {f"z{d + 1}_sd": scale[:, d].numpy() for d in range(loc.shape[1])}
        _write_columns(run, path, columns | labels, split)
    options.echo(
        f"mean and standard deviation of q(z|x), {len(loc):,} examples, {loc.shape[1]} dimensions\n"
        f"their root mean square over examples: means {_root_mean_square(loc)}\n"
        f"{'':31}deviations {_root_mean_square(scale)}\n"
        f"codes    {path}"
    )


@click.command()
@options.on_run
@options.file(
    "--z", "codes", metavar="FILE", required=True, help="Codes: .npy, .npz or .csv, as of encode."
)
@click.option("--draws", is_flag=True, help="Draws from p(x|z) instead of its means.")
@options.text(
    "--out",
    metavar="FILE",
    help=".png of images, .csv or .parquet of rows, .npy or .npz. [RUN/figures/...]",
)
@options.seed
def decode(run: "Run", codes: str, draws: bool, out: str | None, seed: int) -> None:
    """Decode codes: the mean of p(x|z), or a draw, at each z.

    FILE has a row for each z: an array, the array z or loc of an .npz file, or the columns z1, z2,
    ... of a table.
    """
    import torch

    from pyrovae import plots, queries
    from pyrovae._process.isolation import isolated

    path = destination_of_rows(run, out, "decoded", (".npy", ".npz"))
    z = queries.read_codes(codes, run.config.model["latent_dim"])
    vae = run.vae()
    with torch.no_grad(), isolated():
        torch.manual_seed(seed)
        parts = vae.place(z).split(ROWS)
        x = torch.cat([vae.likelihood(at).sample() if draws else vae.decode(at) for at in parts])
    what = "draws $x \\sim p(x|z)$" if draws else "means of $p(x|z)$"
    write_rows(run, path, {"x": run.original(x)}, lambda: plots.images(x.numpy(), what))
    options.echo(path)


def _root_mean_square(values: "Tensor", most: int = 8) -> str:
    sizes = values.square().mean(0).sqrt().tolist()
    return " ".join(f"{size:.2f}" for size in sizes[:most]) + (" ..." if len(sizes) > most else "")


@click.command()
@options.on_run
@options.other_data
@options.text(
    "--mask", metavar="NAME|FILE", help="Name of the hidden part, or file of the observed pixels."
)
@options.text("--method", metavar="HOW", default="importance", help="Or nuts.")
@options.whole_number("--completions", 5, "Draws for each example.")
@options.count("--samples", metavar="N", help="Draws of z per example. [1000; nuts 400]")
@options.number("--level", default=0.9, help="Probability of an interval of a missing value.")
@options.count("--count", metavar="N", help="Use only the first N examples. [8 images, all rows]")
@options.file(
    "--out",
    metavar="FILE",
    help=".png, .npz, or .csv or .parquet of rows. [RUN/figures/imputed.png or .csv]",
)
@options.seed
@options.quiet
@options.printed
def impute(
    run: "Run",
    split: "Split",
    mask: str | None,
    method: str,
    count: int | None,
    out: str | None,
    seed: int,
    **given: Any,
) -> options.Found:
    """Draw missing values from p(x_miss|x_obs).

    NaN and empty cells of the data are missing. A mask name stands for the HIDDEN part: lower,
    upper, left, right, random:0.5. A mask file (.npy, .npz or .png) is true (1, white) at OBSERVED
    pixels and has the shape of one example or of all examples.

    Of a table, FILE.csv has the means in place of the gaps, FILE-1.csv, FILE-2.csv, ... one draw of
    all gaps each, and FILE-gaps.csv a line for each gap, with its mean and interval.
    """
    import numpy as np
    import torch

    from pyrovae import plots, queries, training

    path = destination_of_rows(run, out, "imputed", (".npz",))
    shown = min(len(split), count or (8 if _has_images(run) else len(split)))
    x = split.batch(np.arange(shown))
    observed = ~np.isnan(x.numpy())
    if mask is None and observed.all():
        raise ValueError(
            f"nothing is missing in the {shown} examples; hide some values with --mask"
        )
    if mask is not None:
        hidden = ~queries.mask(mask, split.event_shape, len(split), seed=seed)
        observed &= ~np.broadcast_to(hidden, (len(split), *split.event_shape))[:shown]
    vae = run.vae()
    if method not in queries.METHODS:
        raise click.BadParameter(
            f"{method!r} is not one of {', '.join(queries.METHODS)}", param_hint="--method"
        )
    what = "examples" if method == "importance" else "draws of the chains"
    with training.counting(what, queries.work(method, len(x), given["samples"])) as progress:
        found = queries.impute(
            vae, x, torch.from_numpy(observed), method=method, seed=seed, progress=progress, **given
        )

    def figure() -> Any:
        captions = [_caption(row) for row in found.rows]
        drawn, mean = found.completions.numpy(), found.mean.numpy()
        return plots.completions(x.numpy(), observed, drawn, mean, captions)

    found = run.in_units(found)
    written = _write_imputed(run, path, found, split, figure)
    files = [str(file) for file in written]
    return found.to_dict() | {"file": files[0], "files": files}, [*_lines_of_imputed(found), *files]


@click.command()
@options.on_run
@options.other_data
@options.file(
    "--out",
    metavar="FILE",
    help=".csv, .parquet or .npz, one row for each example. [RUN/scores.csv]",
)
@options.whole_number("--samples", 1_000, "Draws of z per example.")
@options.proposal
@options.scaled
@options.seed
@options.quiet
@options.printed
def score(
    run: "Run", split: "Split", out: str | None, proposal: str | None, **given: Any
) -> options.Found:
    """Estimate log p(x) of each example, with its error.

    The file has log_evidence with its standard_error, ess and pareto_k of the weights, the id of
    the row and the label if there are any. Densities are per unit of the data. A low log p(x) need
    not be an anomaly, and an anomaly may have a high one.
    """
    from pyrovae import evidence, queries, runs, training

    path = runs.destination(out, run.folder / "scores.csv", (".csv", ".parquet", ".npz"))
    vae = run.vae()
    if proposal in (None, "auto"):
        proposal = evidence.affordable([vae], len(split), given["samples"])
    with training.counting(f"{given['samples']:,} samples each", len(split)) as progress:
        found = queries.score(vae, split, proposal=proposal, progress=progress, **given)
    labels = {} if split.labels is None else {"label": split.labels}
    _write_columns(run, path, found.arrays() | labels, split)
    lines = [*_lines_of_scores(found, split.ids), f"scores   {path}"]
    return found.to_dict() | {"file": str(path)}, lines


def _has_images(run: "Run") -> bool:
    return len(run.config.data["event_shape"]) == 3


def destination_of_rows(run: "Run", out: str | None, stem: str, more: tuple[str, ...]) -> Path:
    """Where rows or images are written: by default into the run's figures."""
    from pyrovae import runs

    first = (".png",) if _has_images(run) else (".csv", ".parquet")
    return runs.destination(out, run.folder / f"figures/{stem}{first[0]}", (*first, *more))


def write_rows(
    run: "Run",
    path: Path,
    arrays: "dict[str, np.ndarray]",
    figure: "Callable[[], Any] | None" = None,
    ids: "np.ndarray | None" = None,
) -> None:
    """Write examples: a table with the columns of the run's, or the arrays, or their picture."""
    from pyrovae import runs

    if path.suffix not in (".csv", ".parquet"):
        runs.write_arrays(path, arrays, figure)
        return
    schema, x = run.schema, run.readable(next(iter(arrays.values())))
    if schema is None:
        runs.write_arrays(path, {"x": x})
    else:
        runs.write_frame(runs.as_frame(schema, x, ids), path)


def _write_columns(
    run: "Run", path: Path, columns: "dict[str, np.ndarray]", split: "Split"
) -> None:
    """Write one row for each example, which begins with its id where it has one."""
    from pyrovae import runs

    schema = run.schema
    name = "id" if path.suffix == ".npz" or schema is None else schema.id_name
    if path.suffix != ".npz":
        columns = {n: runs.rounded(x) if x.dtype.kind == "f" else x for n, x in columns.items()}
    ids = {} if split.ids is None else {"id" if name is None else name: split.ids}
    runs.write_arrays(path, ids | columns)


def _write_imputed(
    run: "Run", path: Path, found: "Imputed", split: "Split", figure: "Callable[[], Any]"
) -> list[Path]:
    """Write completions: arrays or a picture, or the files of a table; return their names."""
    import numpy as np

    from pyrovae import runs

    observed, stored = found.observed.numpy(), split.in_units(np.arange(len(found.x)))

    table = path.suffix in (".csv", ".parquet")

    def exact(values: "Tensor") -> "np.ndarray":
        """Values in the units of the data, the observed ones as they are stored."""
        original = run.original(values)
        return np.where(observed, stored, run.readable(original) if table else original)

    values = {name: exact(getattr(found, name)) for name in ("mean", "lower", "upper")}
    draws = [exact(draw) for draw in found.completions.unbind(1)]
    if not table:
        values |= {"completions": np.stack(draws, 1), "x": stored}
        runs.write_arrays(path, found.arrays() | values, figure)
        return [path]
    schema, ids = run.schema, None if split.ids is None else split.ids[: len(found.x)]
    written = []
    for number, x in enumerate([values["mean"], *draws]):
        written.append(path.with_stem(f"{path.stem}-{number}") if number else path)
        if schema is None:
            runs.write_arrays(written[-1], {"x": x})
        else:
            runs.write_frame(runs.as_frame(schema, x, ids), written[-1])
    written.append(path.with_stem(f"{path.stem}-gaps"))
    runs.write_frame(runs.gaps_frame(schema, observed, ids=ids, **values), written[-1])
    return written


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
        yield f"log p(x_obs) in nats, +- standard error over draws: {found.kind}"
    for number, row in enumerate(found.rows):
        if number == MOST_LINES:
            yield f"  ... and {len(found.x) - MOST_LINES:,} more"
            return
        line, evidence = f"{number:>5} {row.observed:>5} of {row.pixels} observed", row.log_evidence
        if evidence is not None:
            line += f"  log p(x_obs) {evidence:10.2f}"
        line += f"  effective sample size {row.effective:,.0f}"
        if row.r_hat is not None:
            line += f"  r_hat {row.r_hat:.3f}"
        yield line


def _lines_of_scores(found: "Scores", ids: "np.ndarray | None") -> Iterator[str]:
    from pyrovae.evidence import reliable_below

    values, count = found.log_evidence, len(found.log_evidence)
    yield (
        f"log p(x), mean of {count:,} examples: {found.mean:.2f} nats, +- standard error over "
        "examples"
    )
    yield f"{found.kind}, {found.samples:,} samples each"
    lowest, highest = (
        f"{values[i]:.2f} ({f'row {i + 1}' if ids is None else ids[i]})"
        for i in (int(values.argmin()), int(values.argmax()))
    )
    yield f"lowest {lowest}, median {values.median():.2f}, highest {highest}"
    if heavy := found.heavy_tails:
        fitted = found.proposal == "mixture"
        yield (
            f"the weights of {heavy:,} have a heavy tail (pareto_k above "
            f"{reliable_below(found.samples):.2g}): their errors are lower limits; "
            + ("evaluate has --method ais" if fitted else "use --proposal mixture")
        )
