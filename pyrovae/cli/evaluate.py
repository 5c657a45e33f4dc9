r"""The command that evaluates a run: bounds on log p(x), or estimates by other methods."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyrovae._process import processes
from pyrovae.cli import options

if TYPE_CHECKING:
    from pyrovae import evidence
    from pyrovae.runs import Run

    Result = evidence.Evaluation | evidence.MeanEvidence | evidence.MeanSandwich

__all__ = ["evaluate"]

METHODS = {
    "iw": ("samples", "proposal", "compile"),
    "ais": ("samples", "temperatures", "start"),
    "quadrature": (),
    "exact": (),
    "bdmc": ("samples", "temperatures", "start"),
}
"""The keys of :data:`pyrovae.evidence.METHODS`, known without an import, and their options."""

MOST = 0.5  # share of the examples from which on a whole evaluation is in doubt

OPTIONS = ("samples", "temperatures", "start", "proposal", "compile")


@click.command()
@options.on_run
@options.choice("--method", [*METHODS], "How to estimate log p(x).", "iw")
@options.count(
    "--samples", metavar="K", help="Draws (iw, [1000]) or chains (ais, bdmc, [16]) per example."
)
@options.proposal
@options.count("--temperatures", metavar="T", help="Steps from start to p(x,z) (ais, bdmc). [500]")
@options.choice("--start", ["prior", "posterior"], "Where chains start (ais, bdmc). [prior]")
@options.count(
    "--limit", metavar="N", help="Use the first N examples; bdmc simulates N. [all; 100]"
)
@options.seed
@options.text("--compile", metavar="HOW", help="auto, off or inductor (iw). [auto]")
@options.file("--out", metavar="FILE", help="Write the numbers of each example to an .npz file.")
@options.scaled
@options.data_dir
@options.quiet
@options.printed
def evaluate(
    run: "Run",
    method: str,
    limit: int | None,
    seed: int,
    out: str | None,
    scaled: bool,
    data_dir: str | None,
    **given: Any,
) -> options.Found:
    """Estimate the ELBO, its parts and log p(x) on the test set.

    By default log p(x) is bounded by importance weighting. Other methods: annealed importance
    sampling, ais; for one or two latent dimensions, quadrature; for linear-Gaussian models and
    categorical z, exact; and on data simulated from the model, a lower and an upper bound on log
    p(x), bdmc. Densities are per unit of the data. For a table, the reconstruction term is also
    given for each column.
    """
    from pyrovae import evidence, runs, training

    chosen = {name: value for name in OPTIONS if (value := given.pop(name)) is not None}
    shared = method == "iw"
    if shared:
        chosen.setdefault("proposal", "auto")
    _check(method, chosen, shared)
    options.refuse_without("seed", "methods that draw, not to exact", met=method != "exact")
    simulated = method == "bdmc"
    reads = not simulated or not run.is_unscaled
    options.refuse_without("data_dir", "data, and bdmc simulates its own", met=reads)
    options.check_data_dir(run=run)
    path = None if out is None else runs.destination(out, Path(out), (".npz",))
    vae = run.vae()
    data = run.dataset(data_dir).test if reads else None
    available = evidence.SIMULATED if simulated or data is None else len(data)
    total = available if limit is None else limit if simulated else min(limit, available)
    about = f"{chosen.get('samples', evidence.DRAWS):,} samples each" if shared else method
    with (
        run.unfinished() if shared else nullcontext() as store,
        training.counting(about, total) as progress,
    ):
        chosen |= {"store": store} if shared else {}
        result = evidence.evaluate(
            vae,
            data,
            method=method,
            limit=limit,
            seed=seed,
            progress=progress,
            scaled=scaled,
            **chosen,
        )
    plain, lines = result.to_dict() | run.roles(), [*_lines(result)]
    if shared and data is not None and (schema := run.schema) is not None:
        each = evidence.reconstruction_by_element(vae, data, limit=limit, scaled=scaled, seed=seed)
        plain |= {
            "columns": {n: part.to_dict() for n, part in zip(schema.names, each, strict=True)}
        }
        lines += ["", "reconstruction by column, +- standard error over examples:"]
        width = max(24, *map(len, schema.names))
        lines += [
            f"  {name:<{width}} {part:10.2f}" for name, part in zip(schema.names, each, strict=True)
        ]
    if path is not None and processes.is_first():
        arrays = result.per_example.arrays()
        runs.write_arrays(path, {name: value.numpy() for name, value in arrays.items()})
        lines.append(str(path))
    return plain, lines


def _check(method: str, options: Mapping[str, Any], shared: bool) -> None:
    for name in options:
        if name not in METHODS[method]:
            owners = [other for other, names in METHODS.items() if name in names]
            raise click.UsageError(
                f"--{name} applies to {' and '.join(owners)}, not to the method {method}"
            )
    if not shared and processes.count() > 1:
        raise click.UsageError(f"--method {method} runs in one process; only iw shares its work")


def _lines(result: "Result") -> Iterator[str]:
    from pyrovae import evidence, runs

    if isinstance(result, evidence.Evaluation):
        yield from runs.in_words(result)
        yield from _lines_of_weights(result.weights, result.log_evidence.kind)
        return
    units = "nats per example, +- standard error over examples:"
    if isinstance(result, evidence.MeanSandwich):
        yield f"{result.examples:,} examples simulated from the model, {units}"
        yield from _lines_of_evidence(result.per_example.lower)
        yield from _lines_of_evidence(result.per_example.upper)
        yield f"  {'upper - lower':<24} {result.gap:10.2f}  (in mean above the error of either)"
        return
    yield f"test, {result.examples:,} examples, {units}"
    yield from _lines_of_evidence(result.per_example)


def _lines_of_weights(weights: "evidence.WeightSummary | None", kind: str) -> Iterator[str]:
    from pyrovae import runs

    if weights is None:
        return
    if weights.at_a_tenth is not None:
        yield f"  {'  from a tenth of them':<24} {weights.at_a_tenth:10.2f}"
    yield f"  {'  jackknife, no bound':<24} {weights.bias_corrected:10.2f}"
    if weights.sampling_error is not None:
        yield f"    {'error over draws':<22} {'':10} +- {weights.sampling_error:.2g}"
    yield (
        f"    {'effective sample size':<22} {weights.median_ess:10,.1f} median, "
        f"{weights.minimum_ess:,.1f} smallest"
    )
    if weights.largest_pareto_k is not None:
        yield f"{runs.heavy_tails(weights)}, largest {weights.largest_pareto_k:.2f}"
    if weights.unreliable:
        yield "    there errors are lower limits, and log p(x) may be far above; more"
        yield from _advice(mostly=weights.unreliable > MOST, kind=kind)


def _advice(*, mostly: bool, kind: str) -> Iterator[str]:
    """What helps where weights have a heavy tail, and what it costs."""
    from pyrovae import evidence

    if "mixture" not in kind:
        other = "mixture" if "refined" in kind else "refined"
        draws = {"refined": 3_000, "mixture": 16_000}[other]
        yield (
            f"    draws seldom help; --proposal {other} often does, for about {draws:,} more draws"
        )
        yield "    per example"
        return
    reason = ", since most mixtures miss the mass of p(z|x)" if mostly else ""
    yield f"    draws seldom help{reason}; use"
    yield "    --method ais (in many dimensions with --start posterior), by default for"
    yield f"    {evidence.gradients():,} gradients of log p(x,z) per example, and --method bdmc to"
    yield "    see on simulated data how near to log p(x) it comes"


def _lines_of_evidence(found: "evidence.Evidence") -> Iterator[str]:
    mean, samples = found.mean(), found.samples
    chains = "" if samples is None else f", {samples:,} chains"
    yield f"  {'log p(x)':<24} {mean:10.2f}  ({found.kind}{chains})"
    if mean.sampling_error:
        name = "error of integration" if samples is None else "error over chains"
        yield f"    {name:<22} {'':10} +- {mean.sampling_error:.2g}"
    for name, spread in found.ranges().items():
        yield f"    {name.replace('_', ' '):<22} {_range(spread)}"


def _range(spread: "evidence.Range") -> str:
    median, low, high = (
        f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
        for value in (spread.median, spread.minimum, spread.maximum)
    )
    return f"{median:>10} median, {low} to {high}"
