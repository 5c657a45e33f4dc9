r"""The commands that ask a run: what is missing in an observation, and how probable one is."""

from collections.abc import Iterator, Mapping
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
)

if TYPE_CHECKING:
    import numpy as np

    from pyrovae.data import Split
    from pyrovae.runs import Run

__all__ = ["impute", "score"]

_BATCH = 1_000
_WEIGHED = ("log_evidence", "standard_error", "ess", "pareto_k")


@click.command()
@run_options
@text("--data", metavar="NAME|PATH", help="Other data. [the run's test set]")
@text("--mask", metavar="NAME|FILE", help="What is hidden, by name, or a file of what is observed.")
@text("--method", metavar="HOW", default="importance", show_default=True, help="Or nuts.")
@count("--completions", metavar="N", default=5, show_default=True, help="Draws for each example.")
@count("--samples", metavar="N", help="Draws of z for each. [1000; nuts 400]")
@count("--count", default=8, show_default=True, help="The first so many examples.")
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

    A name says what is hidden: lower, upper, left, right, random:0.5. A file, .npy, .npz or .png,
    is true (1, white) where a pixel is OBSERVED; it has the shape of one observation or of all.
    In --data FILE.npy of floats, NaN is missing too.
    """
    import numpy as np
    import torch

    from pyrovae import queries
    from pyrovae.runs import as_json as in_json
    from pyrovae.runs import destination, write_arrays
    from pyrovae.training import counting

    opened = opened_run(run, own)
    event_shape = tuple(opened.config.data["event_shape"])
    image = len(event_shape) == 3
    kind = ".png" if image else ".npz"
    endings = (".png", ".npz") if image else (".npz",)
    path = destination(out, opened.folder / f"figures/imputed{kind}", endings)
    split, present = _with_holes(opened, data, data_dir)
    chosen = np.arange(min(count, len(split)))
    observed = np.ones(event_shape, bool)
    if mask is not None:
        observed = queries.mask(mask, event_shape, len(split), seed=seed)
    elif present is None:
        raise ValueError(
            f"nothing is missing in {data or 'the test set'}; say with --mask what is to be hidden"
        )
    observed = np.broadcast_to(observed, (len(split), *event_shape))[chosen]
    x = split.batch(chosen)
    if present is not None:
        observed = observed & present[chosen]
    vae = opened.vae()
    if method not in queries.METHODS:
        raise click.BadParameter(
            f"{method!r} is not one of {', '.join(queries.METHODS)}", param_hint="--method"
        )
    total = queries.work(method, len(x), samples)
    what = "examples" if method == "importance" else "draws of the chains"
    with counting(what, total) as advance:
        found = queries.impute(
            vae,
            x,
            torch.from_numpy(np.ascontiguousarray(observed)),
            method=method,
            completions=completions,
            samples=samples,
            seed=seed,
            advance=advance,
        )
    arrays = {"completions": found.completions, "x": x} | {
        name: value for name, value in vars(found).items() if value is not None
    }
    plain = {name: value.numpy() for name, value in arrays.items()} | {"observed": observed}
    rows = list(_rows(found, observed))

    def figure() -> Any:
        from pyrovae.plots import completions as completed

        shown = plain["x"] if present is None else np.where(present[chosen], plain["x"], np.nan)
        captions = [_caption(row) for row in rows]
        return completed(shown, observed, plain["completions"], plain["mean"], captions)

    write_arrays(path, plain, figure)
    result = {
        "method": method,
        "samples": queries.SAMPLES[method] if samples is None else samples,
        "kind": queries.KINDS[method],
        "completions": completions,
        "images": len(x),
        "rows": rows,
        "file": str(path),
    }
    click.echo(in_json(result) if as_json else "\n".join(_of_imputed(result)))


@click.command()
@run_options
@text("--data", metavar="NAME|PATH", help="What to score; all of it. [the run's test set]")
@text("--out", metavar="FILE", required=True, help=".csv or .npz, one row for each example.")
@count("--samples", default=1_000, show_default=True, help="K, draws per example.")
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
    """log p(x) of each example, by the importance-weighted bound, with its standard error.

    The file has log_evidence and its standard_error, ess and pareto_k of the weights, and the label
    where there is one. Draws are from q(z|x), or from a mixture that is fitted to each example,
    which takes longer and needs fewer of them: see impute. A low log p(x) need not be an anomaly,
    nor a high one none.
    """
    import torch

    from pyrovae.estimates import Estimate
    from pyrovae.evidence import PROPOSALS, RELIABLE, importance_weighted
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
    x = torch.cat(list(split.batches(_BATCH)))
    for batch in x.split(_BATCH):
        vae.check_data(vae.place(batch))
    with counting(f"{samples:,} samples each", len(split)) as advance:
        found = importance_weighted(
            vae, x, samples=samples, seed=seed, proposal=proposal, progress=advance
        )
    every = vars(found) | found.details
    arrays = {name: every[name].numpy() for name in _WEIGHED}
    scores, heavy = arrays["log_evidence"], int((arrays["pareto_k"] > RELIABLE).sum())
    if split.labels is not None:
        arrays["label"] = split.labels
    if path.suffix == ".csv":
        _write_table(path, arrays)
    else:
        write_arrays(path, arrays)
    mean = Estimate.of(torch.from_numpy(scores))
    result = {
        "log_evidence": mean.to_dict(),
        "kind": found.kind,
        "proposal": proposal,
        "samples": samples,
        "examples": len(split),
        "heavy_tails": heavy,
        "file": str(path),
    }
    if as_json:
        click.echo(in_json(result))
        return
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
    """Data, and where they are present: other than None for a .npy file that holds NaN."""
    import tempfile

    import numpy as np

    if data is None:
        return opened.dataset(data_dir).test, None
    path = Path(data).expanduser()
    if path.suffix.lower() == ".npy" and path.is_file():
        try:
            x = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError):
            return opened.treat(data, data_dir), None  # which says what is wrong
        if x.dtype.kind == "f" and np.isnan(x).any():
            present = ~np.isnan(x)
            if not present.any():
                raise ValueError(f"{path} holds nothing but NaN; there is nothing to go by")
            x = np.where(present, x, x[present].flat[0])
            if opened.config.data["maximum"] is not None and (x == np.rint(x)).all():
                x = x.astype(np.int64)  # counts, which NaN had made floats
            with tempfile.TemporaryDirectory() as folder:
                filled = Path(folder, path.name)
                np.save(filled, x)
                split = opened.treat(str(filled), data_dir)
            return split, present.reshape(len(x), *split.event_shape)
    return opened.treat(data, data_dir), None


def _rows(found: Any, observed: "np.ndarray") -> Iterator[dict[str, Any]]:
    """What is known of each example."""
    for index, seen in enumerate(observed):
        row: dict[str, Any] = {"observed": int(seen.sum()), "pixels": int(seen.size)}
        row["effective"] = found.effective[index].item()
        if found.log_evidence is not None:
            row["log_evidence"] = {
                "estimate": found.log_evidence[index].item(),
                "standard_error": found.standard_error[index].item(),
            }
            row["pareto_k"] = found.pareto_k[index].item()
        else:
            row["r_hat"] = found.r_hat[index].item()
        yield row


def _caption(row: Mapping[str, Any]) -> str:
    if "log_evidence" not in row:
        return f"effective\ndraws {row['effective']:.0f}"
    evidence = row["log_evidence"]
    number = f"{evidence['estimate']:.2f} ± {evidence['standard_error']:.2f}"
    return "$\\log p(x_\\mathrm{obs})$\n" + number.replace("-", "\N{MINUS SIGN}")


def _of_imputed(result: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{result['completions']} completions of each of {result['images']:,} examples by "
        f"{result['method']}, {result['samples']:,} draws of z for each"
    )
    if result["method"] == "importance":
        yield f"log p(x_obs) in nats: {result['kind']}"
    for number, row in enumerate(result["rows"]):
        line = f"{number:>5} {row['observed']:>5} of {row['pixels']} observed"
        if "log_evidence" in row:
            evidence = row["log_evidence"]
            line += (
                f"  log p(x_obs) {evidence['estimate']:>10.2f} +- {evidence['standard_error']:.2f}"
            )
        line += f"  effective sample size {row['effective']:,.0f}"
        if "r_hat" in row:
            line += f"  r_hat {row['r_hat']:.3f}"
        yield line
    yield result["file"]


def _write_table(path: Path, columns: Mapping[str, Any]) -> None:
    from pyrovae._process.files import write_text

    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    lines = [",".join(columns), *(",".join(f"{value:.9g}" for value in row) for row in rows)]
    write_text(path, "\n".join(lines) + "\n")
