r"""The command that says what a run has learnt."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from pyrovae.cli.options import (
    data_dir_option,
    json_option,
    opened_run,
    run_options,
    seed_option,
)

__all__ = ["diagnose"]

SHOWN = 10  # dimensions on the terminal


def _moved(context: click.Context, option: click.Parameter, value: object) -> None:
    if value:
        raise click.UsageError(
            "--sweep is now a comparison of objectives: pyrovae compare --config RUN/config.toml "
            "--objectives beta:beta=0.5,beta:beta=1,beta:beta=2"
        )


@click.command()
@run_options
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(2),
    default=2_000,
    show_default=True,
    help="Only the first N examples.",
)
@click.option(
    "--draws",
    metavar="K",
    type=click.IntRange(2),
    default=10,
    show_default=True,
    help="Draws of each posterior.",
)
@click.option("--sweep", is_flag=True, hidden=True, expose_value=False, callback=_moved)
@click.option("--betas", "--epochs", "--seeds", hidden=True, expose_value=False, callback=_moved)
@seed_option
@data_dir_option
@json_option
def diagnose(
    run: str,
    limit: int,
    draws: int,
    seed: int,
    data_dir: str | None,
    as_json: bool,
    **own: str | None,
) -> None:
    """What a run has learnt: the ELBO taken apart, the codes against the prior, samples, probes.

    On the test set. All numbers go to RUN/diagnosis.json, pictures to RUN/figures/.
    """
    from pyrovae import plots
    from pyrovae._process.files import write_text
    from pyrovae.diagnostics import diagnose as examine
    from pyrovae.runs import as_json as in_json
    from pyrovae.runs import destination
    from pyrovae.training import counting

    opened = opened_run(run, own)
    path = destination(None, opened.folder / "diagnosis.json", (".json",))
    folder = destination(None, opened.folder / "figures/surgery.png", (".png",)).parent
    vae, dataset = opened.vae(), opened.dataset(data_dir)
    found = examine(vae, dataset, draws=draws, limit=limit, seed=seed, counting=counting)
    pictures = plots.diagnosis_figures(vae, found)
    report = dict(found.report) | {"sweep": None}  # the key that files of older versions have
    lines = list(_lines(report, dataset.name))
    for name, picture in pictures.items():
        plots.save(picture, folder / f"{name}.png")
    write_text(path, in_json(report, indent=2) + "\n")
    if as_json:
        click.echo(in_json(report))
        return
    click.echo("\n".join(lines))
    click.echo(f"\nnumbers  {path}\nfigures  {', '.join(f'{folder / n}.png' for n in pictures)}")


def _lines(report: Mapping[str, Any], data: str) -> Iterator[str]:
    parts = report["surgery"]
    each = "" if parts is None else f", {parts['draws']} draws of each posterior"
    yield f"{data}: {report['images']:,} of {report['available']:,} test examples{each}"
    yield "nats per example, +- standard error of the draws for these examples"
    yield ""
    yield "the bound, taken apart"
    if parts is None:
        yield f"  left out: {report['no_surgery']}"
    else:
        yield from _terms(parts)
    yield ""
    yield "is the code used?"
    yield f"  {_VERDICTS[report['collapse']['verdict']]}"
    yield from (f"  {part}" for part in report["collapse"]["reason"].split("; "))
    if parts is not None and parts["dimensions"]:
        yield from _dimensions(parts["dimensions"])
    yield ""
    yield "do the codes fill the prior?"
    yield from _groups(report["population"])
    if parts is not None and parts["at_ceiling"]:
        yield "  these KLs are of sets of islands, see the note: the classifier is the better judge"
    yield ""
    yield "can a classifier tell samples from test data? (50 % is: no)"
    for row in report["samples"]:
        found = "too few examples" if row["accuracy"] is None else _test(row)
        yield f"  {found:<33} {row['what']}"
    yield ""
    yield from _probes(report["probes"])


_VERDICTS = {
    "none": "yes, no collapse",
    "partial": "in part, partial collapse",
    "full": "no, full collapse",
}


def _terms(parts: Mapping[str, Any]) -> Iterator[str]:
    terms = parts["terms"]
    over = terms["elbo"]["over_images"]
    ceiling = f"of at most log {parts['images']:,} = {parts['log_images']:.3f}"
    for name, words, after in (
        ("elbo", "ELBO", f"+- {over:.2f} over the choice of examples"),
        ("reconstruction", "  = reconstruction", "mean of log p(x|z)"),
        ("mutual_information", "  - mutual information", f"of code and example, {ceiling}"),
        ("marginal_kl", "  - KL(q(z) || p(z))", "of the aggregate posterior and the prior"),
        ("total_correlation", "      = total correlation", "of the dimensions of z under q(z)"),
        ("dimension_wise_kl", "      + dimension-wise KL", "sum of KL(q(z_j) || p(z_j))"),
    ):
        if name in terms:
            yield f"  {words:<26}{_number(terms[name])}  {after}"
    kl = _number(terms["kl"]).strip()
    yield f"  mutual information + KL(q(z) || p(z)) = mean KL(q(z|x) || p(z)) = {kl}"
    for reason, names in _by_reason(parts["omitted"]).items():
        words = " and no ".join(_TERMS[name] for name in names)
        yield f"  no {words}: {reason}"
    between = parts["population"]["mutual_information"]
    low, high = (f"{between[end]['estimate']:.2f}" for end in ("lower", "upper"))
    yield f"  for new data the mutual information is in the mean between {low} and {high}"
    yield from (f"  note: {note}" for note in parts["notes"])


def _by_reason(omitted: Mapping[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, reason in omitted.items():
        reasons.setdefault(reason, []).append(name)
    return reasons


_TERMS = {"total_correlation": "total correlation", "dimension_wise_kl": "dimension-wise KL"}


def _dimensions(rows: list[dict[str, Any]]) -> Iterator[str]:
    measure = "kl" if rows[0]["kl"] is not None else "mutual_information"
    first = sorted(rows, key=lambda row: -row[measure]["estimate"])[:SHOWN]
    which = f", the {len(first)} largest of {len(rows)}" if len(rows) > len(first) else ""
    yield f"  by dimension{which}: {' '.join(str(row['dimension']) for row in first)}"
    for name, words in (("kl", "KL"), ("mutual_information", "told of the example")):
        if rows[0][name] is not None:
            values = " ".join(f"{row[name]['estimate']:.2f}" for row in first)
            most = max(row[name]["standard_error"] for row in rows)
            yield f"    {words:<19} {values} (+- {most:.2f} at most)"


def _groups(found: Mapping[str, Any]) -> Iterator[str]:
    width = max(len(_group_name(group)) for group in found["groups"])
    for group in found["groups"]:
        kl, test = group["marginal_kl"], group["test"]
        line = f"  {_group_name(group):<{width}}"
        if kl is not None:
            line += f"  KL to the prior {_number(kl)}"
        if test is not None:
            line += f"  told from draws of the prior: {_test(test)}"
        yield line
    information = found["class_information"]
    if information is not None:
        yield (
            f"  mean KL of a class = KL of all + {_number(information).strip()} nats told of the "
            f"class, of at most {found['class_entropy']:.3f}"
        )


def _group_name(group: Mapping[str, Any]) -> str:
    name = "all" if group["class"] is None else f"class {group['class']}"
    return f"{name} ({group['images']:,})"


def _probes(probes: Mapping[str, Any] | None) -> Iterator[str]:
    if probes is None:
        yield "what can be read from the codes: left out, the data have no labels"
        return
    yield (
        f"classes read from the codes, {probes['trained_on']:,} training and "
        f"{probes['tested_on']:,} test examples; chance {100 * probes['chance']:.0f} %"
    )
    for kind, words in (("linear", "linear probe"), ("neighbours", "5 nearest neighbours")):
        codes, pixels = (_percent(probes[source][kind]) for source in ("codes", "pixels"))
        difference = probes["difference"][kind]
        yield (
            f"  {words:<21} codes {codes}, pixels {pixels}, difference "
            f"{100 * difference['estimate']:+.1f} +- {100 * difference['standard_error']:.1f}"
        )


def _test(row: Mapping[str, Any]) -> str:
    p_value = row["p_value"]
    return f"{_percent(row)} right, p " + (f"= {p_value:.3f}" if p_value >= 0.001 else "< 0.001")


def _percent(row: Mapping[str, Any]) -> str:
    return f"{100 * row['accuracy']:.1f} +- {100 * row['standard_error']:.1f} %"


def _number(term: Mapping[str, Any]) -> str:
    return f"{term['estimate']:>9.3f} +- {term['standard_error']:.3f}"
