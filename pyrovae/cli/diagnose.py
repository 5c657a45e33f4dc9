r"""The command that reports what a run has learned."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from pyrovae.cli import options

if TYPE_CHECKING:
    from pyrovae import diagnostics
    from pyrovae.runs import Run

__all__ = ["diagnose"]

SHOWN = 10  # dimensions that the terminal shows


def _moved(context: click.Context, option: click.Parameter, value: object) -> None:
    if value:
        raise click.UsageError(
            "--sweep is now a comparison of objectives: pyrovae compare --config RUN/config.toml "
            "--objectives beta:beta=0.5,beta:beta=1,beta:beta=2"
        )


@click.command()
@options.on_run
@options.whole_number("--limit", 2_000, "Only the first N examples.", least=2)
@options.count(
    "--draws", metavar="K", type=click.IntRange(2), default=10, help="Draws from each posterior."
)
@click.option("--sweep", is_flag=True, hidden=True, expose_value=False, callback=_moved)
@click.option("--betas", "--epochs", "--seeds", hidden=True, expose_value=False, callback=_moved)
@options.seed
@options.data_dir
@options.quiet
@options.printed
def diagnose(run: "Run", limit: int, draws: int, seed: int, data_dir: str | None) -> options.Found:
    """Report what a run has learned, on the test set.

    The report has the terms of the ELBO, codes against the prior, samples and probes. The numbers
    are written to RUN/diagnosis.json and the figures to RUN/figures/.
    """
    from pyrovae import diagnostics, plots, runs, training
    from pyrovae._process.files import write_text

    options.check_data_dir(run=run)
    vae, dataset = run.vae(), run.dataset(data_dir)
    found = diagnostics.diagnose(
        vae, dataset, draws=draws, limit=limit, seed=seed, counting=training.counting
    )
    pictures = plots.diagnosis_figures(vae, found, dataset)
    report = found.to_dict() | {"sweep": None}  # the key that older files have
    text = runs.as_json(report, indent=2) + "\n"
    path = run.folder / "diagnosis.json"
    saved = runs.written(path, lambda path: write_text(path, text))
    lines = [f"numbers  {path}"] if saved else []
    return report, [*_lines(found, dataset.name), "", *lines, *options.drawn(run, pictures)]


def _lines(found: "diagnostics.Diagnosis", data: str) -> Iterator[str]:
    terms = found.surgery
    each = "" if terms is None else f", {terms.draws} draws of each posterior"
    yield f"{data}: {found.examples:,} of {found.available:,} test examples{each}"
    yield "nats per example, +- standard error over draws for these examples"
    yield ""
    yield "the bound, taken apart"
    if terms is None:
        yield f"  left out: {found.no_surgery}"
    else:
        yield from _terms(terms)
    yield ""
    yield "is the code used?"
    yield f"  {_VERDICTS[found.collapse.verdict]}"
    yield from (f"  {part}" for part in found.collapse.reason.split("; "))
    if terms is not None and terms.dimensions:
        yield from _dimensions(terms.dimensions)
    yield ""
    yield "do the codes fill the prior?"
    yield from _groups(found.population)
    if terms is not None and terms.at_ceiling:
        yield "  these KLs are of sets of islands, see the note: the classifier is the better judge"
    yield ""
    about = "(50 % is: no; +- standard error over these)"
    yield f"can a classifier tell samples from test data? {about}"
    for row in found.samples:
        result = "too few examples" if row.test is None else _test(row.test)
        yield f"  {result:<33} {row.about}"
    yield ""
    yield from _probes(found.probes)


_VERDICTS = {
    "none": "yes, no collapse",
    "partial": "in part, partial collapse",
    "full": "no, full collapse",
}


def _terms(parts: "diagnostics.Surgery") -> Iterator[str]:
    ceiling = f"of at most log {parts.examples:,} = {parts.log_examples:.3f}"
    for name, words, after in (
        ("elbo", "ELBO", f"+- {parts.elbo.over_examples:.2f} over examples"),
        ("reconstruction", "  = reconstruction", "mean of log p(x|z)"),
        ("mutual_information", "  - mutual information", f"of code and example, {ceiling}"),
        ("marginal_kl", "  - KL(q(z) || p(z))", "of the aggregate posterior and the prior"),
        ("total_correlation", "      = total correlation", "of the dimensions of z under q(z)"),
        ("dimension_wise_kl", "      + dimension-wise KL", "sum of KL(q(z_j) || p(z_j))"),
    ):
        if name in parts.terms:
            yield f"  {words:<26}{parts.terms[name]:9.3f}  {after}"
    yield f"  mutual information + KL(q(z) || p(z)) = mean KL(q(z|x) || p(z)) = {parts.kl:.3f}"
    for reason, names in _by_reason(parts.omitted).items():
        words = " and no ".join(_TERMS[name] for name in names)
        yield f"  no {words}: {reason}"
    between = parts.population.mutual_information
    low, high = (f"{end.value:.2f}" for end in (between.lower, between.upper))
    yield f"  for new data the mutual information is on average between {low} and {high}"
    yield from (f"  note: {note}" for note in parts.notes)


def _by_reason(omitted: Mapping[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, reason in omitted.items():
        reasons.setdefault(reason, []).append(name)
    return reasons


_TERMS = {"total_correlation": "total correlation", "dimension_wise_kl": "dimension-wise KL"}


def _dimensions(rows: "Sequence[diagnostics.DimensionTerms]") -> Iterator[str]:
    first = sorted(rows, key=lambda row: -(row.kl or row.mutual_information).value)[:SHOWN]
    which = f", the {len(first)} largest of {len(rows)}" if len(rows) > len(first) else ""
    yield f"  by dimension{which}: {' '.join(str(row.dimension) for row in first)}"
    for name, words in (("kl", "KL"), ("mutual_information", "information")):
        if getattr(rows[0], name) is not None:
            values = " ".join(f"{getattr(row, name).value:.2f}" for row in first)
            most = max(getattr(row, name).standard_error for row in rows)
            yield f"    {words:<19} {values} (+- {most:.2f} at most)"


def _groups(found: "diagnostics.Population") -> Iterator[str]:
    width = max(len(_group_name(group)) for group in found.groups)
    for group in found.groups:
        line = f"  {_group_name(group):<{width}}"
        if group.marginal_kl is not None:
            line += f"  KL to the prior {group.marginal_kl:9.3f}"
        if group.test is not None:
            line += f"  distinguished from draws of the prior: {_test(group.test)}"
        yield line
    if found.class_information is not None:
        yield (
            f"  mean KL of a class = KL of all + {found.class_information:.3f} nats "
            f"of information about the class, of at most {found.class_entropy:.3f}"
        )


def _group_name(group: "diagnostics.Group") -> str:
    name = "all" if group.label is None else f"class {group.label}"
    return f"{name} ({group.examples:,})"


def _probes(probes: "diagnostics.Probes | None") -> Iterator[str]:
    if probes is None:
        yield "what can be read from the codes: left out, the data have no labels"
        return
    yield (
        f"classes read from the codes, {probes.trained_on:,} training and "
        f"{probes.tested_on:,} test examples, +- standard error over these; guessing "
        f"{100 * probes.chance:.0f} %"
    )
    for kind, words in (("linear", "linear probe"), ("neighbors", "5 nearest neighbours")):
        codes, pixels = (_percent(getattr(part, kind)) for part in (probes.codes, probes.pixels))
        difference = getattr(probes.difference, kind)
        yield (
            f"  {words:<21} codes {codes}, pixels {pixels}, difference "
            f"{100 * difference.value:+.1f} +- {100 * difference.standard_error:.1f}"
        )


def _test(test: "diagnostics.TwoSampleTest") -> str:
    p_value = f"= {test.p_value:.3f}" if test.p_value >= 0.001 else "< 0.001"
    return f"{_percent(test.accuracy)} right, p {p_value}"


def _percent(accuracy: "diagnostics.Accuracy") -> str:
    return f"{100 * accuracy.value:.1f} +- {100 * (accuracy.standard_error or 0.0):.1f} %"
