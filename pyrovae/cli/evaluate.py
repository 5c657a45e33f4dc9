r"""The command that evaluates a run: bounds on log p(x), or what other methods know of it."""

from collections.abc import Iterator, Mapping
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
    from torch import Tensor

    from pyrovae.evidence import Evidence

__all__ = ["evaluate"]

OWN = {"compile": ("iw",), "temperatures": ("ais", "bdmc"), "start": ("ais", "bdmc")}
OWN |= {"samples": ("iw", "ais", "bdmc"), "proposal": ("iw",)}
SIMULATED = 100  # examples, where no limit is given


@click.command()
@run_options
@click.option(
    "--method",
    type=click.Choice(["iw", "ais", "quadrature", "exact", "bdmc"]),
    default="iw",
    show_default=True,
    help="How log p(x) is had.",
)
@count("--samples", metavar="K", help="Draws (iw, [1000]) or chains (ais, bdmc, [16]) per example.")
@click.option(
    "--proposal",
    type=click.Choice(["posterior", "mixture"]),
    help="What z is drawn from (iw): q(z|x), or a mixture fitted to each example. [posterior]",
)
@count("--temperatures", metavar="T", help="Steps from start to p(x,z) (ais, bdmc). [500]")
@click.option(
    "--start", type=click.Choice(["prior", "posterior"]), help="Of chains (ais, bdmc). [prior]"
)
@count("--limit", metavar="N", help="Only the first N examples; of bdmc, N simulated. [all; 100]")
@seed_option
@text("--compile", metavar="HOW", help="auto, off or inductor (iw). [auto]")
@text("--out", metavar="FILE", help=".npz with a number for each example.")
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
    samples: int | None,
    temperatures: int | None,
    start: str | None,
    proposal: str | None,
    compile: str | None,
    **own: str | None,
) -> None:
    """The ELBO, its parts, and the importance-weighted bound on log p(x), on the test set.

    Other methods: annealed importance sampling, ais; for one or two latent dimensions, quadrature;
    for linear-Gaussian models and categorical z, exact; and on data simulated from the model, two
    bounds that hold log p(x) between them, bdmc.
    """
    from pyrovae.runs import as_json as in_json
    from pyrovae.runs import destination, write_arrays

    given = {"samples": samples, "temperatures": temperatures, "start": start}
    given |= {"proposal": proposal, "compile": compile}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if method not in OWN[name]:
            raise click.UsageError(
                f"--{name} is of the methods {', '.join(OWN[name])}, and not of {method}"
            )
    fitted = proposal == "mixture"
    if fitted and compile is not None:
        raise click.UsageError("--compile is of --proposal posterior; a mixture runs as written")
    if (method != "iw" or fitted) and processes.count() > 1:
        what = "--proposal mixture" if fitted else f"--method {method}"
        raise click.UsageError(
            f"{what} is for one process; only iw from the posterior shares its work"
        )
    path = None if out is None else destination(out, Path(out), (".npz",))
    opened = opened_run(run, own)
    if method == "iw" and not fitted:
        given.pop("proposal", None)
        result, lines, arrays = _weighted(opened, limit, seed, data_dir, given)
    elif method == "bdmc":
        result, lines, arrays = _bracketed(opened, limit, seed, given)
    else:
        result, lines, arrays = _by_method(opened, method, limit, seed, data_dir, given)
    if not processes.is_first():
        return
    if path is not None:
        write_arrays(path, {name: value.numpy() for name, value in arrays.items()})
    click.echo(in_json(result) if as_json else "\n".join(lines))
    if path is not None and not as_json:
        click.echo(path)


_Answer = tuple[dict[str, Any], list[str], "dict[str, Tensor]"]


def _weighted(
    opened: Any,
    limit: int | None,
    seed: int,
    data_dir: str | None,
    given: Mapping[str, Any],
) -> _Answer:
    from pyrovae.evidence import DRAWS, in_short, kind, per_example
    from pyrovae.runs import in_words
    from pyrovae.training import counting

    vae, dataset = opened.vae(), opened.dataset(data_dir)
    samples = given.get("samples", DRAWS)
    total = len(dataset.test) if limit is None else min(limit, len(dataset.test))
    with (
        opened.unfinished() as store,
        counting(f"{samples:,} samples each", total) as advance,
    ):
        every = per_example(
            vae,
            dataset.test,
            samples=samples,
            limit=limit,
            seed=seed,
            compile=given.get("compile", "auto"),
            store=store,
            advance=advance,
        )
    result = in_short(every, samples, kind(vae, dataset.test, samples)) | opened.roles()
    return result, [*in_words(result), *_lines_of_weights(result, fitted=False)], vars(every)


def _lines_of_weights(result: Mapping[str, Any], *, fitted: bool) -> Iterator[str]:
    weights = result["weights"]
    if weights is None:
        return
    if weights["at_a_tenth"] is not None:
        yield _line("  from a tenth of them", weights["at_a_tenth"])
    yield _line("  jackknife, no bound", weights["bias_corrected"])
    yield f"    {'error of the draws':<22} {'':10} +- {weights['sampling_error']:.2g}"
    ess = weights["ess"]
    yield (
        f"    {'effective sample size':<22} {ess['median']:10,.1f} median, "
        f"{ess['minimum']:,.1f} smallest"
    )
    if weights["largest_pareto_k"] is not None:
        yield (
            f"    {'Pareto k-hat above 0.7':<22} {weights['unreliable']:10.1%} of the examples, "
            f"largest {weights['largest_pareto_k']:.2f}"
        )
    if weights["unreliable"]:
        yield (
            "    there errors mean nothing, and log p(x) may be far above: try another --method"
            + ("" if fitted else ",\n    or --proposal mixture")
        )


def _by_method(
    opened: Any,
    method: str,
    limit: int | None,
    seed: int,
    data_dir: str | None,
    given: Mapping[str, Any],
) -> _Answer:
    import torch

    from pyrovae.evidence import METHODS, Weights, of_weights, summary
    from pyrovae.training import counting

    vae, test = opened.vae(), opened.dataset(data_dir).test
    x = torch.cat(list(test.batches(1_000))) if limit is None else next(iter(test.batches(limit)))
    with counting(method, len(x)) as advance:
        evidence = METHODS[method](vae, x, seed=seed, advance=advance, **given)
    result: dict[str, Any] = {
        "method": method,
        "log_evidence": summary(evidence),
        "details": {} if method == "iw" else _ranges(evidence),
        "images": len(x),
    }
    result |= opened.roles()
    lines = [
        f"test, {len(x):,} examples, nats per example (+- standard error):",
        *_lines(evidence, result["log_evidence"], result["details"]),
    ]
    if method == "iw":
        weights = Weights(standard_error=evidence.standard_error, **evidence.details)
        result["weights"] = of_weights(weights)
        lines += _lines_of_weights(result, fitted=True)
    return result, lines, _arrays(evidence)


def _bracketed(
    opened: Any,
    limit: int | None,
    seed: int,
    given: Mapping[str, Any],
) -> _Answer:

    from pyrovae.estimates import Estimate
    from pyrovae.evidence import sandwich, summary
    from pyrovae.training import counting

    examples = SIMULATED if limit is None else limit
    with counting("bdmc", examples) as advance:
        both = sandwich(opened.vae(), examples, seed=seed, advance=advance, **given)
    sides = {"lower": both.lower, "upper": both.upper}
    gap = Estimate.of(both.upper.log_evidence - both.lower.log_evidence).to_dict()
    result: dict[str, Any] = {"method": "bdmc"}
    result |= {name: summary(side) for name, side in sides.items()}
    result |= {"gap": gap, "images": examples} | opened.roles()
    lines = [
        f"{examples:,} examples simulated from the model, nats per example (+- standard error):"
    ]
    for side, name in ((both.lower, "lower"), (both.upper, "upper")):
        lines += _lines(side, result[name], _ranges(side))
    lines.append(_line("upper - lower", gap) + "  (in mean above the error of either)")
    arrays = {
        f"{name}_{key}": a for name, side in sides.items() for key, a in _arrays(side).items()
    }
    return result, lines, arrays | {"x": both.x}


def _arrays(evidence: "Evidence") -> "dict[str, Tensor]":
    values = {"log_evidence": evidence.log_evidence, "standard_error": evidence.standard_error}
    return values | evidence.details


def _ranges(evidence: "Evidence") -> dict[str, Any]:
    """Median and extremes of what there is one number of for each example."""
    return {
        name: {
            "median": value.double().median().item(),
            "minimum": value.min().item(),
            "maximum": value.max().item(),
        }
        for name, value in evidence.details.items()
        if value.dim() == 1
    }


def _lines(
    evidence: "Evidence", mean: Mapping[str, Any], ranges: Mapping[str, Any]
) -> Iterator[str]:
    if "pareto_k" in evidence.details:
        about = f"({evidence.samples:,} samples from a mixture fitted to each example)"
        yield _line("log p(x) is at least", mean) + f"  {about}"
        return
    samples = "" if evidence.samples is None else f", {evidence.samples:,} chains"
    yield _line("log p(x)", mean) + f"  ({evidence.kind}{samples})"
    if mean["sampling_error"]:
        name = "error of integration" if evidence.samples is None else "error of sampling"
        yield f"    {name:<22} {'':10} +- {mean['sampling_error']:.2g}"
    for name, value in ranges.items():
        median, low, high = (_number(value[key]) for key in ("median", "minimum", "maximum"))
        yield f"    {name.replace('_', ' '):<22} {median:>10} median, {low} to {high}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def _line(about: str, mean: Mapping[str, Any]) -> str:
    error = mean["standard_error"]
    plus_minus = "" if error is None else f" +- {error:.2f}"
    return f"  {about:<24} {mean['estimate']:10.2f}{plus_minus}"
