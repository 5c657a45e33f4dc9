r"""The commands that take a model onward: walks through its latent space, files of its networks."""

from typing import TYPE_CHECKING, Any

import click

from pyrovae.cli import options
from pyrovae.cli.queries import destination_of_rows, write_rows

if TYPE_CHECKING:
    from torch import Tensor

    from pyrovae.runs import Run

__all__ = ["export", "traverse"]

MOST = 10  # dimensions of a traversal, those of the largest KL


@click.command()
@options.on_run
@options.text("--dims", metavar="D1,D2,...", help="Dimensions, from 1. [the 10 of largest KL]")
@options.text("--between", metavar="I,J", help="Walk between two test examples, counted from 1.")
@options.text("--path", default="auto", metavar="HOW", help="Of --between: linear or spherical.")
@options.whole_number("--example", 1, "Test example, from 1, whose code the others keep.")
@options.whole_number("--steps", 9, "Codes on each walk.")
@options.file(
    "--out",
    metavar="FILE",
    help=".png of images, .csv or .parquet of rows, .npz. [RUN/figures/traversal...]",
)
@options.data_dir
def traverse(
    run: "Run",
    dims: str | None,
    between: str | None,
    path: str,
    example: int,
    steps: int,
    out: str | None,
    data_dir: str | None,
) -> None:
    """Decode walks through the latent space.

    Without --between, one dimension of z at a time takes values of its prior, from the 2.5th to the
    97.5th percentile, and the others stay at the code of a test example: one row of images each.
    With it, z goes from the code of one test example to that of another, on a spherical path where
    the prior is a standard normal or on a sphere, else on a straight line.
    """
    import torch

    from pyrovae import diagnostics, plots

    options.check_data_dir(run=run)
    options.refuse_without("path", "--between", met=between is not None)
    for name in ("dims", "example"):
        options.refuse_without(name, "walks without --between", met=between is None)
    target = destination_of_rows(run, out, "traversal", (".npz",))
    vae, test = run.vae(), run.dataset(data_dir).test
    with torch.no_grad():
        if between is not None:
            start, end = (_code(vae, test, at) for at in _numbers("--between", between, 2))
            walks = diagnostics.between(vae, start, end, steps=steps, path=path)[None]
            chosen = []
        else:
            z = _code(vae, test, example)
            chosen = _dimensions(dims, vae) if dims else _largest(vae, test)
            walks = diagnostics.along_dimensions(vae, z, chosen, steps=steps)
        x = vae.decode(vae.place(walks.flatten(0, 1))).cpu()
    arrays = {"x": run.original(x), "z": walks.flatten(0, 1).numpy()}
    names = [f"$z_{{{d + 1}}}$" for d in chosen] or [f"{between}"]

    def figure() -> Any:
        images = x.unflatten(0, walks.shape[:2]).numpy()
        return plots.walks(images, names)

    write_rows(run, target, arrays, figure)
    options.echo(target)


def _numbers(option: str, text: str, count: int | None = None) -> list[int]:
    """Whole numbers from a list on the command line."""
    parts = text.split(",")
    try:
        found = [int(part) for part in parts]
    except ValueError:
        found = []
    if not found or (count is not None and len(found) != count):
        wanted = "whole numbers" if count is None else f"{count} whole numbers"
        raise click.UsageError(f"{option} must be {wanted} joined by commas, got {text!r}")
    return found


def _dimensions(text: str, vae: Any) -> list[int]:
    found = _numbers("--dims", text)
    if not all(1 <= d <= vae.latent_dim for d in found):
        raise click.UsageError(f"z has the dimensions 1 to {vae.latent_dim}, got --dims {text}")
    return [d - 1 for d in found]


def _code(vae: Any, test: Any, index: int) -> "Tensor":
    """The mean of q(z|x) of one test example, counted from 1."""
    import numpy as np

    from pyrovae.distributions import moments

    if not 1 <= index <= len(test):
        raise click.UsageError(f"the test set has the examples 1 to {len(test)}, got {index}")
    x = vae.place(test.batch(np.array([index - 1])))
    code: Tensor = moments(vae.posterior(x))[0][0]
    return code


def _largest(vae: Any, test: Any) -> list[int]:
    """The dimensions of z that vary most between examples, largest first."""
    from pyrovae import diagnostics

    size = diagnostics.activity(vae, test, limit=500)
    order: list[int] = size.argsort(descending=True)[:MOST].tolist()
    return [d for d in order if size[d] > diagnostics.ACTIVE] or order[:1]


@click.command()
@options.on_run
@options.text("--format", "kind", metavar="HOW", required=True, help="onnx or torch.")
@options.text("--out", metavar="FOLDER", help="Where the files go. [RUN/export]")
@options.quiet
def export(run: "Run", kind: str, out: str | None) -> None:
    """Write encoder and decoder as files for other programs.

    encoder maps x, as the model takes it, to the parameters of q(z|x); decoder maps z to the mean
    and the parameters of p(x|z). Each is run and compared with the model, to 1e-5, before it is
    kept. export.json has the names and shapes of inputs and outputs, and how x is scaled.
    """
    from pyrovae import runs
    from pyrovae._process.choices import check_choice
    from pyrovae._process.files import expanded

    check_choice("--format", kind, runs.FORMATS)
    folder = None if out is None else expanded(out)
    for path in runs.write_networks(run, kind, out=folder):
        options.echo(path)
