r"""The page of one run: its model, bounds, pictures, KL term and limits, in sections."""

import inspect
import math
import shlex
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

import pyrovae
from pyrovae import plots
from pyrovae._process.files import write_text
from pyrovae._process.isolation import evaluating, isolated
from pyrovae.data import Dataset
from pyrovae.estimates import batches
from pyrovae.report.exploring import explorer
from pyrovae.report.findings import LIMIT, Findings, find
from pyrovae.report.page import (
    Section,
    document,
    picture,
    plain,
    preformatted,
    table,
    term,
    value,
)
from pyrovae.runs import Run, beginning_of, headline
from pyrovae.vae import VAE

__all__ = ["FILE", "run_page", "write_report"]

PICKED = 10  # best, middle and worst reconstructions
COLUMNS = 12  # columns of a table that are shown
FILE = "report.html"
"""The name of a run's page in its folder."""


def write_report(
    run: Run,
    vae: VAE | None = None,
    dataset: Dataset | None = None,
    out: Path | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write the page of a finished run, one HTML file that needs no network.

    Args:
        run: finished.
        vae: its VAE; None loads it.
        dataset: its data; None reads them.
        out: the file; None for ``report.html`` in the run's folder.
        seed: of all draws.
        progress: as for :func:`pyrovae.report.find`.

    Returns:
        The file.

    Raises:
        ValueError: if the run is not finished.
        OSError: if the file cannot be written; nothing is left then.

    Example:
        >>> from pyrovae.report import write_report
        >>> from pyrovae.runs import Run, start
        >>> network = "mlp:hidden_dims=4"
        >>> model = {"encoder": network, "decoder": network, "latent_dim": 2}
        >>> config, digits = pyrovae.Config.resolve({"model": model, "training": {"epochs": 1}})
        >>> folder, trained, fitted = start(config, digits, None)
        >>> run = Run.open(folder)
        >>> summary = run.finish(trained, digits, fitted, samples=2)
        >>> write_report(run, trained, digits).name
        'report.html'
    """
    run.summary()  # refuses a run that is not finished, before anything is read
    vae = run.vae() if vae is None else vae
    dataset = run.dataset() if dataset is None else dataset
    found = find(run, vae, dataset, seed=seed, progress=progress)
    path = run.folder / FILE if out is None else out
    write_text(path, run_page(run, vae, dataset, found, seed=seed))
    return path


def run_page(run: Run, vae: VAE, dataset: Dataset, found: Findings, *, seed: int = 0) -> str:
    """Put a run into one page.

    Args:
        run: finished.
        vae: its VAE.
        dataset: its data.
        found: as :func:`pyrovae.report.find` returns it.
        seed: of the draws in the pictures.

    Returns:
        HTML.

    Example:
        >>> from pyrovae.report import find, run_page
        >>> from pyrovae.runs import Run, start
        >>> network = "mlp:hidden_dims=4"
        >>> model = {"encoder": network, "decoder": network, "latent_dim": 2}
        >>> config, digits = pyrovae.Config.resolve({"model": model, "training": {"epochs": 1}})
        >>> run = Run.open(start(config, digits, None)[0])
        >>> summary = run.finish(run.vae(), digits, pyrovae.fit(vae, x, epochs=1), samples=2)
        >>> "In short" in run_page(run, run.vae(), digits, find(run, run.vae(), digits))
        True
    """
    pictures = _pictures(vae, dataset, found, seed)
    sections = [
        Section("short", "In short", _short(found)),
        Section("roles", "The model in three roles", _roles(run, vae)),
        Section("training", "Training", _training(run, found, pictures)),
        Section("samples", "Samples", _samples(pictures, len(dataset.event_shape) == 3)),
        Section("reconstructions", "Reconstructions", pictures["reconstructions"]),
        Section("codes", "Where the codes lie", pictures["latent"] + pictures.get("grid", "")),
        Section("explore", "Move z yourself", explorer(vae, dataset, found, seed=seed)),
        Section("kl", "The KL term", _kl(found, vae.latent_dim)),
        Section("terms", "The ELBO taken apart", _terms(found)),
        Section("population", "All codes together against the prior", _population(found)),
        Section("limits", "What this run does not show", _limits(run, found)),
        Section("again", "Repeat it", _again(run)),
    ]
    about = f"<p>{plain(headline(run.config, dataset).splitlines()[0])}</p>"
    return document(f"{dataset.name}: {run.folder.name}", about, [s for s in sections if s.body])


def _short(found: Findings) -> str:
    summary, evidence = found.summary, found.summary.log_evidence
    rows = [
        [term("elbo"), value(summary.elbo)],
        [term("reconstruction"), value(summary.reconstruction)],
        [f"&minus; {term('kl')}", value(summary.kl)],
        [f"{term('evidence')} is at least", value(evidence)],
    ]
    lines = [
        table(
            ["nats per example", f"mean {term('error')} standard error"],
            rows,
            f"{summary.examples:,} test examples",
        ),
        (
            f"<p>The last row is the {plain(evidence.kind)}, with {evidence.samples:,} draws of z "
            "for each example. On average over draws, log p(x) is at least that. It is above the "
            "ELBO where q(z|x) is not the exact posterior p(z|x).</p>"
        ),
    ]
    weights = summary.weights
    if weights is not None:
        share = f"{weights.unreliable:.1%}"
        of = f"{term('k-hat')} is above {weights.reliable_below:.2g} for {share} of the examples"
        judged = (
            "so the bound can be read as an estimate of log p(x)"
            if weights.unreliable < 0.05
            else "where log p(x) may be far above the bound"
        )
        kind = "key" if weights.unreliable < 0.05 else "key warning"
        lines.append(f'<p class="{kind}">{of}, {judged}.</p>')
    return "".join(lines)


def _roles(run: Run, vae: VAE) -> str:
    model = run.config.model
    rows = [
        [
            "prior",
            "p(z)",
            f"<code>{plain(model['prior'])}</code>",
            f"z has {model['latent_dim']} dimensions",
        ],
        [
            "likelihood",
            "p(x|z)",
            f"<code>{plain(model['likelihood'])}</code>",
            f"its parameters are the output of the decoder, <code>{plain(model['decoder'])}</code>",
        ],
        [
            "approximate posterior",
            "q(z|x)",
            f"<code>{plain(model['posterior'])}</code>",
            f"its parameters are the output of the encoder, <code>{plain(model['encoder'])}</code>",
        ],
    ]
    programs = "\n\n".join(
        textwrap.dedent(inspect.getsource(getattr(type(vae), name))) for name in ("model", "guide")
    )
    count = sum(parameter.numel() for parameter in vae.parameters())
    return (
        table(["role", "", "distribution", ""], rows)
        + f"<p>{count:,} parameters in all. The exact posterior p(z|x) and the evidence p(x) have "
        "no row: they follow from prior and likelihood by Bayes' theorem, and no network computes "
        "them.</p>"
        + "<details><summary>The two Pyro programs</summary>"
        + preformatted(programs)
        + "</details>"
    )


def _training(run: Run, found: Findings, pictures: dict[str, str]) -> str:
    summary = found.summary
    bound = summary.best_validation_elbo
    kept = f"The weights are those of epoch {summary.best_epoch}"
    if bound is not None:
        kept += f", which has the best validation ELBO, {value(bound)}"
    objective = run.config.training["objective"]
    return (
        f"<p>{summary.epochs} epochs with the objective "
        f"<code>{plain(objective)}</code>. {kept}.</p>{pictures.get('bound', '')}"
    )


def _samples(pictures: dict[str, str], images: bool) -> str:
    shown = "Here the second step is left out and the mean of p(x|z) shown" if images else ""
    grain = ", which is smoother than a sample" if images else ""
    return (
        "<p>A sample is drawn in two steps: a z from p(z), then an x from p(x|z). "
        f"{shown}{grain}{'. ' if images else ''}Test data stand beside them.</p>"
        + pictures["samples"]
    )


def _pictures(vae: VAE, dataset: Dataset, found: Findings, seed: int) -> dict[str, str]:
    """The pictures of a run as HTML, the reconstructions by how good they are."""
    test = dataset.test
    x = torch.cat(list(batches(test, LIMIT, limit=found.examples)))
    labels = None if test.labels is None else test.labels[: len(x)]
    metrics = [
        {name: None if at != at else at for name, at in zip(vars(found.history), row, strict=True)}
        for row in zip(*(column.tolist() for column in vars(found.history).values()), strict=True)
    ]
    figures = plots.vae_figures(
        vae, x, labels, metrics, seed=seed, schema=dataset.schema, units=test.original
    )
    shown = {
        name: picture(plots.as_png(figure), ALT[name], CAPTIONS.get(name, ""))
        for name, figure in figures.items()
        if name != "reconstructions"
    }
    return shown | {"reconstructions": _reconstructions(vae, dataset, found, x, labels, seed)}


ALT = {
    "bound": "The bound, its two parts and the validation bound against the epoch",
    "samples": "Test data and samples of the model, side by side",
    "latent": "Means and ellipses of q(z|x) of test examples over contours of the prior",
    "grid": "Means of p(x|z) on a grid of quantiles of the prior",
}
CAPTIONS = {
    "latent": "Each dot is the mean of one q(z|x), and its ellipse one standard deviation. The "
    "contours hold 50, 80 and 95 % of the prior. With more than two dimensions, those with the "
    "largest KL are shown.",
    "grid": "The mean of p(x|z) on a grid of quantiles of the prior.",
}


def _reconstructions(
    vae: VAE,
    dataset: Dataset,
    found: Findings,
    x: "torch.Tensor",
    labels: np.ndarray | None,
    seed: int,
) -> str:
    order = found.ordered
    middle = len(order) // 2
    if x.ndim == 4:
        few = min(PICKED, len(order) // 3)
        start = middle - few // 2
        chosen = torch.cat([order[:few], order[start : start + few], order[len(order) - few :]])
    else:
        chosen = order[[0, middle, len(order) - 1]]
    with torch.no_grad(), isolated(), evaluating(vae):
        torch.manual_seed(seed)
        means = vae.reconstruct(vae.place(x[chosen])).cpu()
    terms = found.bounds.reconstruction[order[[0, middle, len(order) - 1]]].tolist()
    numbers = ", ".join(
        f"{word} {value(at)}" for word, at in zip(("best", "middle", "worst"), terms, strict=True)
    )
    about = (
        "<p>A reconstruction is the mean of p(x|z) at a draw of z from q(z|x). The "
        f"{term('reconstruction')} term, log p(x|z) on average over draws, orders the test "
        f"examples: {numbers} nats.</p>"
    )
    if x.ndim == 4:
        seen = None if labels is None else labels[chosen.numpy()]
        figure = plots.reconstructions(x[chosen].numpy(), means.numpy(), seen)
        rows = "one third each from the best, the middle and the worst reconstructions"
        return about + picture(plots.as_png(figure), "Images and their reconstructions", rows)
    known, back = (np.asarray(dataset.test.original(part)) for part in (x[chosen], means))
    names = [f"x{d + 1}" for d in range(known.shape[1])]
    names = names if dataset.schema is None else list(dataset.schema.names)
    rows_of = [
        [plain(name), *(f"{known[i, d]:.4g} → {back[i, d]:.4g}" for i in range(3))]
        for d, name in enumerate(names[:COLUMNS])
    ]
    more = len(names) - COLUMNS
    rest = f"<p>{more} more columns are not shown.</p>" if more > 0 else ""
    return about + table(["column: x → mean", "best", "middle", "worst"], rows_of) + rest


def _kl(found: Findings, latent_dim: int) -> str:
    ledger = found.ledger
    if ledger is None:
        return "<p>q(z|x) is a point here. A point has no density, so there is no KL term.</p>"
    rows = []
    if ledger.closed_form is not None:
        closed = ledger.closed_form
        rows.append(["by formula", value(closed.value, 4), plain(closed.formula)])
    if ledger.quadrature is not None:
        integrated = ledger.quadrature
        rows.append(["by quadrature", value(integrated.value, 4), plain(integrated.formula)])
    rows += [
        [
            f"by sampling, {row.samples} draws",
            value(row.estimate, 4),
            "mean of log q(z|x) &minus; log p(z)",
        ]
        for row in ledger.monte_carlo
    ]
    used = f"<p>{found.active} of {latent_dim} dimensions are {term('active', 'active')}.</p>"
    parts = ""
    if ledger.per_dimension:
        sizes = sorted((part.value for part in ledger.per_dimension), reverse=True)
        shown = " ".join(value(size) for size in sizes[:20]) + (" …" if len(sizes) > 20 else "")
        parts = f"<p>By dimension, the largest first: {shown} nats.</p>"
    return (
        "<p>The term compares q(z|x) of one example with the prior p(z), and nothing else; here is "
        f"its mean over {ledger.examples:,} test examples. A formula and a sample compute the same "
        "number; ± is over the draws.</p>"
        + table(["KL(q(z|x) || p(z))", "nats", "how"], rows)
        + parts
        + (used if found.active is not None else "")
    )


def _terms(found: Findings) -> str:
    terms = found.surgery
    if terms is None:
        return ""
    rows = [
        [term("reconstruction"), value(terms.reconstruction)],
        [f"&minus; {term('information')}", value(terms.mutual_information)],
        [f"&minus; {term('misfit')}", value(terms.marginal_kl)],
        [f"= {term('elbo')}", value(terms.elbo)],
    ]
    reached = "reached that: more examples would raise it" if terms.at_ceiling else "room left"
    most = f"log {terms.examples:,} = {terms.log_examples:.2f}"
    return (
        "<p>The mean KL term is a sum of two parts: what the code says about its example, and how "
        "far all codes together are from the prior. Only the second could vanish at no cost to the "
        "reconstruction.</p>"
        + table(["nats per example", "mean ± standard error over draws"], rows)
        + f"<p>The mutual information is at most {most}, and has {reached}.</p>"
    )


def _population(found: Findings) -> str:
    if found.surgery is None:
        return ""
    rows = [["all", f"{found.examples:,}", value(found.surgery.marginal_kl)]]
    rows += [
        [f"class {group.label}", f"{group.examples:,}", value(group.marginal_kl)]
        for group in found.classes
    ]
    classes = (
        " A class alone is further from the prior than all together, and should be: the difference "
        "is what z says about the class."
        if found.classes
        else ""
    )
    return (
        "<p>Single posteriors are narrow and lie apart; it is their average q(z) that should look "
        f"like the prior.{classes}</p>"
        + table(["codes of", "examples", f"{term('misfit')}, ± over draws"], rows)
    )


def _limits(run: Run, found: Findings) -> str:
    return "<ul>" + "".join(f"<li>{line}</li>" for line in _limitations(run, found)) + "</ul>"


def _limitations(run: Run, found: Findings) -> Iterator[str]:
    seed = run.config.training["seed"]
    yield (
        f"How much another training would differ: this is one seed ({seed}), and ± is over test "
        "examples only. <code>pyrovae compare --seeds 3</code> measures it."
    )
    yield (
        "How far log p(x) is above the bound: <code>pyrovae gap</code> and <code>pyrovae evaluate "
        "--method ais</code> estimate it."
    )
    if math.isfinite(found.summary.kl.value) and found.ledger is not None:
        yield (
            "Whether q(z|x) is the posterior of its own model: <code>pyrovae calibrate</code> "
            "tests it."
        )
    yield (
        "Whether another prior, likelihood or posterior is better: <code>pyrovae compare --priors "
        "normal,mixture:components=20,flow</code> trains them alike."
    )
    yield "That a high log p(x) means good samples, or the other way round: neither follows."


def _again(run: Run) -> str:
    folder = shlex.quote(str(run.folder))
    beginning = beginning_of(run.folder)
    begin = f" --from {shlex.quote(beginning['run'])}" if beginning else ""
    return (
        "<p>With the configuration below, saved as config.toml:</p>"
        + preformatted(f"pyrovae fit{begin} --config {folder}/config.toml --out again")
        + f"<p>pyrovae {plain(pyrovae.__version__)}, torch {plain(torch.__version__)}. On one "
        "machine the result is the same to the bit.</p>"
        + "<details><summary>config.toml</summary>"
        + preformatted(run.config.to_toml())
        + "</details>"
    )
