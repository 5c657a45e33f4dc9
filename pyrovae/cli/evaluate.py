r"""The command that evaluates a run: bounds on log p(x), or estimates by other methods."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyrovae._process import processes
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
    from pyrovae.estimates import Estimate
    from pyrovae.evidence import (
        Evaluation,
        Evidence,
        MeanEvidence,
        MeanSandwich,
        Range,
        WeightSummary,
    )

    Result = Evaluation | MeanEvidence | MeanSandwich

__all__ = ["METHODS", "evaluate"]

METHODS = {
    "iw": ("samples", "proposal", "compile"),
    "ais": ("samples", "temperatures", "start"),
    "quadrature": (),
    "exact": (),
    "bdmc": ("samples", "temperatures", "start"),
}
"""The keys of :data:`pyrovae.evidence.METHODS`, known without an import, and their options."""

OPTIONS = ("samples", "temperatures", "start", "proposal", "compile")


@click.command()
@run_options
@click.option(
    "--method",
    type=click.Choice([*METHODS]),
    default="iw",
    show_default=True,
    help="How to estimate log p(x).",
)
@count("--samples", metavar="K", help="Draws (iw, [1000]) or chains (ais, bdmc, [16]) per example.")
@click.option(
    "--proposal",
    type=click.Choice(["posterior", "mixture"]),
    help="Draw z from q(z|x), or from a mixture fitted to each example (iw). [posterior]",
)
@count("--temperatures", metavar="T", help="Steps from start to p(x,z) (ais, bdmc). [500]")
@click.option(
    "--start",
    type=click.Choice(["prior", "posterior"]),
    help="Where chains start (ais, bdmc). [prior]",
)
@count("--limit", metavar="N", help="Use the first N examples; bdmc simulates N. [all; 100]")
@seed_option
@text("--compile", metavar="HOW", help="auto, off or inductor (iw). [auto]")
@text("--out", metavar="FILE", help="Write the numbers of each example to an .npz file.")
@data_dir_option
@json_option
def evaluate(
    run: str,
    method: str,
    limit: int | None,
    seed: int,
    out: str | None,
    data_dir: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Estimate the ELBO, its parts, and the importance-weighted bound on log p(x) on the test set.

    Other methods: annealed importance sampling, ais; for one or two latent dimensions, quadrature;
    for linear-Gaussian models and categorical z, exact; and on data simulated from the model, a
    lower and an upper bound on log p(x), bdmc.
    """
    from pyrovae.evidence import DRAWS, SIMULATED
    from pyrovae.evidence import evaluate as evaluated
    from pyrovae.runs import as_json as in_json
    from pyrovae.runs import destination, write_arrays
    from pyrovae.training import counting

    options = {name: value for name in OPTIONS if (value := given.pop(name)) is not None}
    shared = method == "iw" and options.get("proposal") != "mixture"
    _check(method, options, shared)
    path = None if out is None else destination(out, Path(out), (".npz",))
    opened = opened_run(run, given)
    vae = opened.vae()
    data = None if method == "bdmc" else opened.dataset(data_dir).test
    available = SIMULATED if data is None else len(data)
    total = available if limit is None else limit if data is None else min(limit, available)
    about = f"{options.get('samples', DRAWS):,} samples each" if shared else method
    with (
        opened.unfinished() if shared else nullcontext() as store,
        counting(about, total) as progress,
    ):
        options |= {"store": store} if shared else {}
        result = evaluated(
            vae, data, method=method, limit=limit, seed=seed, progress=progress, **options
        )
    if not processes.is_first():
        return
    if path is not None:
        arrays = result.per_example.arrays()
        write_arrays(path, {name: value.numpy() for name, value in arrays.items()})
    click.echo(in_json(_plain(result, opened.roles())) if as_json else "\n".join(_lines(result)))
    if path is not None and not as_json:
        click.echo(path)


def _check(method: str, options: Mapping[str, Any], shared: bool) -> None:
    for name in options:
        if name not in METHODS[method]:
            owners = [other for other, names in METHODS.items() if name in names]
            raise click.UsageError(
                f"--{name} applies to {' and '.join(owners)}, not to the method {method}"
            )
    fitted = options.get("proposal") == "mixture"
    if fitted and "compile" in options:
        raise click.UsageError(
            "--compile applies to --proposal posterior; draws from a mixture are not compiled"
        )
    if not shared and processes.count() > 1:
        what = "--proposal mixture" if fitted else f"--method {method}"
        raise click.UsageError(
            f"{what} runs in one process; only iw from the posterior shares its work"
        )


def _plain(result: "Result", roles: Mapping[str, str]) -> dict[str, object]:
    """The result with the roles; the weights of a fitted mixture come last."""
    found = result.to_dict()
    last = {"weights": found.pop("weights")} if "method" in found and "weights" in found else {}
    return found | dict(roles) | last


def _lines(result: "Result") -> Iterator[str]:
    from pyrovae.evidence import Evaluation, MeanSandwich
    from pyrovae.runs import in_words

    if isinstance(result, Evaluation):
        yield from in_words(result)
        yield from _lines_of_weights(result.weights, fitted=False)
        return
    units = "nats per example (+- standard error):"
    if isinstance(result, MeanSandwich):
        yield f"{result.examples:,} examples simulated from the model, {units}"
        yield from _lines_of_evidence(result.per_example.lower)
        yield from _lines_of_evidence(result.per_example.upper)
        yield _line("upper - lower", result.gap) + "  (in mean above the error of either)"
        return
    yield f"test, {result.examples:,} examples, {units}"
    yield from _lines_of_evidence(result.per_example)
    yield from _lines_of_weights(result.weights, fitted=True)


def _lines_of_weights(weights: "WeightSummary | None", *, fitted: bool) -> Iterator[str]:
    if weights is None:
        return
    if weights.at_a_tenth is not None:
        yield _line("  from a tenth of them", weights.at_a_tenth)
    yield _line("  jackknife, no bound", weights.bias_corrected)
    yield f"    {'error of the draws':<22} {'':10} +- {weights.sampling_error:.2g}"
    yield (
        f"    {'effective sample size':<22} {weights.median_ess:10,.1f} median, "
        f"{weights.minimum_ess:,.1f} smallest"
    )
    if weights.largest_pareto_k is not None:
        yield (
            f"    {'Pareto k-hat above 0.7':<22} {weights.unreliable:10.1%} of the examples, "
            f"largest {weights.largest_pareto_k:.2f}"
        )
    if weights.unreliable:
        yield (
            "    there errors mean nothing, and log p(x) may be far above: try another --method"
            + ("" if fitted else ",\n    or --proposal mixture")
        )


def _lines_of_evidence(evidence: "Evidence") -> Iterator[str]:
    mean, samples = evidence.mean(), evidence.samples
    if "pareto_k" in evidence.details:
        about = f"({samples:,} samples from a mixture fitted to each example)"
        yield _line("log p(x) is at least", mean) + f"  {about}"
        return
    chains = "" if samples is None else f", {samples:,} chains"
    yield _line("log p(x)", mean) + f"  ({evidence.kind}{chains})"
    if mean.sampling_error:
        name = "error of integration" if samples is None else "error of sampling"
        yield f"    {name:<22} {'':10} +- {mean.sampling_error:.2g}"
    for name, spread in evidence.ranges().items():
        yield f"    {name.replace('_', ' '):<22} {_range(spread)}"


def _range(spread: "Range") -> str:
    median, low, high = (
        f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
        for value in (spread.median, spread.minimum, spread.maximum)
    )
    return f"{median:>10} median, {low} to {high}"


def _line(about: str, mean: "Estimate") -> str:
    error = mean.standard_error
    plus_minus = "" if error is None else f" +- {error:.2f}"
    return f"  {about:<24} {mean.value:10.2f}{plus_minus}"
