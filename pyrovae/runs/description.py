r"""Runs and components in words: the lines that the command line prints about them."""

import importlib.util
import inspect
import math
import re
import shutil
import subprocess
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyro
import torch

from pyrovae._process.files import write_bytes
from pyrovae._process.isolation import isolated
from pyrovae.data import Dataset
from pyrovae.estimates import Result
from pyrovae.evidence import FITTED, NO_BOUND, NO_ELBO, Evaluation, WeightSummary
from pyrovae.likelihoods import read_columns, write_columns
from pyrovae.runs.config import Config
from pyrovae.runs.records import origin
from pyrovae.runs.results import Summary
from pyrovae.runs.run import Run
from pyrovae.runs.settings import FAMILIES
from pyrovae.runs.specs import Spec, options_of, write
from pyrovae.runs.tables import abbreviated, describe_columns
from pyrovae.vae import VAE

__all__ = [
    "ComponentEntry",
    "OptionEntry",
    "catalogue",
    "describe",
    "draw_programs",
    "headline",
    "heavy_tails",
    "in_words",
    "reliability",
    "text_table",
]

TABLE_WIDTH = 80
REAL = ("normal", "laplace", "student_t")  # likelihoods of columns in any units
CONTINUOUS = (*REAL, "log_normal", "beta")  # likelihoods whose scale a constant column lacks
MOST_LINES = 12  # likelihoods of columns that are named before training


class OptionEntry(Result):
    """An option of a component, in words.

    Attributes:
        default: as it is written in a spec.
        takes: the values it accepts.

    Example:
        >>> from pyrovae.runs import catalogue
        >>> catalogue()["prior"]["mixture"].options["components"]
        OptionEntry(default='10', takes='an integer')
    """

    default: str
    takes: str


class ComponentEntry(Result):
    """A component, in words.

    Attributes:
        about: the first line of its documentation.
        options: its options by name.

    Example:
        >>> from pyrovae.runs import catalogue
        >>> list(catalogue()["prior"]["laplace"].options)
        ['scale']
    """

    about: str
    options: Mapping[str, OptionEntry]


def catalogue() -> dict[str, dict[str, ComponentEntry]]:
    """List every component of every family, with its options.

    Returns:
        Entries by role and name; the roles are prior, posterior, likelihood, network, objective.

    Example:
        >>> from pyrovae.runs import catalogue
        >>> list(catalogue())
        ['prior', 'posterior', 'likelihood', 'network', 'objective']
    """
    families = {role: FAMILIES[role] for role in ("prior", "posterior", "likelihood")}
    families |= {"network": FAMILIES["encoder"], "objective": FAMILIES["objective"]}
    return {
        role: {name: _entry(component) for name, component in family.items()}
        for role, family in families.items()
    }


def _entry(component: Callable[..., Any]) -> ComponentEntry:
    """Describe a component, leaving out the formula in the first line of its documentation."""
    line = (inspect.getdoc(component) or "").partition("\n")[0]
    options = {
        option.name: OptionEntry(write(option.default), option.describe())
        for option in options_of(component).values()
    }
    return ComponentEntry(re.sub(r",? :math:`[^`]*`", "", line), options)


def text_table(families: Mapping[str, Mapping[str, ComponentEntry]]) -> list[str]:
    """Lay out a catalogue as text, followed by how components are written.

    Args:
        families: as :func:`catalogue` returns them.

    Example:
        >>> from pyrovae.runs import catalogue, text_table
        >>> text_table(catalogue())[0]
        'prior'
    """
    lines = []
    for role, family in families.items():
        lines.append(role)
        for name, entry in family.items():
            about = textwrap.wrap(entry.about, TABLE_WIDTH - 26) or [""]
            lines.append(f"  {name:<24}{about[0]}")
            lines += [" " * 26 + line for line in about[1:]]
            for key, option in entry.options.items():
                takes = textwrap.wrap(option.takes, TABLE_WIDTH - 26) or [""]
                written = f"{key}={option.default}"
                lines.append(f"    {written:<21} {takes[0]}")
                lines += [" " * 26 + line for line in takes[1:]]
        lines.append("")
    return [
        *lines,
        "Options are shown with their defaults; join several with commas. Code of your",
        "own is module:Class, looked for in the working folder:",
        "  pyrovae fit --prior mixture:components=20",
        "  pyrovae fit --encoder mlp:hidden_dims=500-500,dropout=0.1",
        "  pyrovae fit --prior my_module:MyPrior:rate=2.0",
    ]


def headline(config: Config, dataset: Dataset) -> str:
    """Describe a run before it is trained: a line about its data and its model.

    Further lines say the kind and the likelihood of the columns of a table and how many values are
    missing, and warn of columns that keep their units or hold a single number.

    Args:
        config: of the run.
        dataset: the dataset that ``config`` was resolved with.

    Example:
        >>> from pyrovae.runs import headline
        >>> print(headline(*pyrovae.Config.resolve())[:58])
        digits: 1,258 train, 180 validation, 359 test; prior norma
    """
    model = config.model
    spec = Spec.parse(model["likelihood"])
    likelihood = spec.name if spec.name == "columns" else model["likelihood"]
    line = (
        f"{dataset.name}: {len(dataset.train):,} train, {len(dataset.validation):,} validation, "
        f"{len(dataset.test):,} test; prior {model['prior']}, likelihood {likelihood}, "
        f"posterior {model['posterior']}, {model['latent_dim']} latent dimensions"
    )
    objective = Spec.parse(config.training["objective"]).name
    line += "" if objective == "elbo" else f", objective {objective}"
    lines = [line, *_columns(spec, dataset)]
    in_units = config.data["scaling"] != "standardize" and len(dataset.event_shape) == 1
    if spec.name in REAL and in_units:
        lines.append("the columns are not standardized: --scaling standardize does that")
    return "\n".join(lines)


def _columns(spec: Spec, dataset: Dataset) -> Iterator[str]:
    """Lines about the columns of a table, its missing values, and columns without a scale."""
    count = dataset.event_shape[0]
    described: list[tuple[str, dict[str, str]]] = [(spec.name, {})] * count
    if spec.name == "columns":
        described = read_columns(str(spec.options["columns"]))
        named = describe_columns(dataset.schema, write_columns(described), width=TABLE_WIDTH - 2)
        yield from (f"  {line}" for line in named[:MOST_LINES])
        if len(named) > MOST_LINES:
            yield f"  and {len(named) - MOST_LINES:,} more likelihoods"
    parts = (dataset.train, dataset.validation, dataset.test)
    if missing := sum(part.missing() for part in parts):
        values = sum(map(len, parts)) * math.prod(dataset.event_shape)
        yield f"{missing:,} of {values:,} values are missing ({missing / values:.1%})"
    flat = [d for d in dataset.flat if described[d][0] in CONTINUOUS]
    if flat:
        names = [f"x{d + 1}" if dataset.schema is None else dataset.schema.names[d] for d in flat]
        yield (
            f"in the training rows one number, up to rounding, fills {abbreviated(names, 60)}: "
            "densities there are of rounding errors; drop such columns, or subtract the number"
        )


def in_words(found: Evaluation | Summary) -> list[str]:
    """Lay out test bounds as text.

    Args:
        found: bounds, as :func:`pyrovae.evaluate` returns them or a summary holds them.

    Example:
        >>> from pyrovae.runs import in_words
        >>> print(in_words(pyrovae.evaluate(vae, data, samples=10))[0])
        test, 64 examples, nats per example, +- standard error over examples:
    """
    evidence = found.log_evidence
    count = f"{found.examples:,} examples"
    header = f"test, {count}, nats per example, +- standard error over examples:"
    named = ("ELBO", "  reconstruction", "  - KL(q(z|x) || p(z))")
    if evidence.kind == NO_BOUND or evidence.kind.endswith(NO_ELBO):
        named = ("log p(x, z) at q's point", "  reconstruction", "  - (-log p(z))")
    last = [f"  {evidence.kind}"]
    if evidence.kind != NO_BOUND:
        fitted = next((f" {words}" for words in FITTED.values() if words in evidence.kind), "")
        last = [f"  {'log p(x) is at least':<24} {evidence:10.2f}"]
        last.append(f"    by {evidence.samples:,} samples{fitted or ' from q'}")
    parts = zip(named, (found.elbo, found.reconstruction, found.kl), strict=True)
    return [header, *(f"  {name:<24} {part:10.2f}" for name, part in parts), *last]


def reliability(weights: WeightSummary | None) -> list[str]:
    """Warn of a bound on log p(x) whose weights have a heavy tail; otherwise return no line.

    Args:
        weights: diagnostics of the weights, if there are any.

    Example:
        >>> from pyrovae.runs import reliability
        >>> reliability(None)
        []
    """
    if weights is None or not weights.unreliable:
        return []
    return [f"{heavy_tails(weights)},", "    where log p(x) may be far above the bound"]


def heavy_tails(weights: WeightSummary) -> str:
    """Say how many examples have weights with a heavy tail, with the error of their share.

    Args:
        weights: diagnostics of the weights.

    Example:
        >>> from pyrovae.runs import heavy_tails
        >>> weights = pyrovae.evaluate(vae, data, samples=100).weights
        >>> heavy_tails(weights).split("above ")[1].split()[0]
        '0.5'
    """
    name, error = f"Pareto k-hat above {weights.reliable_below:.2g}", weights.unreliable_error
    about = "" if error is None else f" +- {error:.1%}"
    return f"    {name:<23}{weights.unreliable:10.1%}{about} of the examples"


@torch.no_grad()
def describe(run: Run, vae: VAE) -> list[str]:
    """Describe a run's model: its data, distributions, networks and parameters, line by line.

    Args:
        run: opened.
        vae: its VAE.

    Example:
        >>> from pyrovae.runs import Run, describe, start
        >>> network = "mlp:hidden_dims=4"
        >>> model = {"encoder": network, "decoder": network}
        >>> config, data = pyrovae.Config.resolve({"model": model, "training": {"epochs": 1}})
        >>> run = Run.open(start(config, data, None)[0])
        >>> describe(run, run.vae())[1]
        'data        digits, x (1, 8, 8)'
    """
    config = run.config
    event_shape, latent_dim = tuple(config.data["event_shape"]), config.model["latent_dim"]
    with isolated():
        prior = vae.prior()
        likelihood = vae.likelihood(prior.sample())
        posterior = vae.posterior(likelihood.mean)
    lines = [
        f"run         {run.folder}",
        f"data        {config.data['name']}, x {event_shape}",
        "treatment   binarization {binarization}, scaling {scaling}".format(**config.data),
        f"latent      z ({latent_dim},)",
    ]
    for role, symbol, distribution, network in (
        ("prior", "p(z)", prior, None),
        ("likelihood", "p(x|z)", likelihood, "decoder"),
        ("posterior", "q(z|x)", posterior, "encoder"),
    ):
        module = getattr(vae, role)
        body = "" if network is None else f", {network} {config.model[network]}"
        if network == "encoder" and config.model["input_divisor"] != 1:
            body += f" of x / {config.model['input_divisor']:g}"
        lines.append(
            f"{role:<11} {symbol:<7} {_name(distribution)} {tuple(distribution.event_shape)}, "
            f"{config.model[role]}{body}; "
            f"{sum(p.numel() for p in module.parameters()):,} parameters"
        )
    lines.append(f"parameters  {sum(p.numel() for p in vae.parameters()):,} in all")
    if origin(run.folder) is None:
        lines.append("format      1, without digests: damage to its files may not be noticed")
    history = run.history
    if len(history):
        lines.append(
            f"trained     {history.epoch[-1]} of {config.training['epochs']} epochs, "
            f"{history.seconds[-1]:.0f} s; training ELBO {history.elbo[-1]:.2f} nats per example"
        )
    return lines


def draw_programs(vae: VAE, event_shape: tuple[int, ...], folder: Path) -> str:
    """Draw the model and the guide with ``pyro.render_model``, if graphviz is installed.

    Args:
        vae: the VAE whose programs to draw.
        event_shape: shape of one example.
        folder: for ``model.png`` and ``guide.png``.

    Returns:
        A line that names the files, or what is missing.

    Example:
        >>> from pathlib import Path
        >>> from pyrovae.runs import draw_programs
        >>> draw_programs(vae, (1, 8, 8), Path("figures")).split()[0]
        'programs'
    """
    if importlib.util.find_spec("graphviz") is None or shutil.which("dot") is None:
        return (
            "programs    not drawn: install graphviz (the program dot, and pip install "
            "'pyrovae[graph]')"
        )
    with isolated():
        x = vae.likelihood(vae.prior().sample((2,))).sample().reshape(2, *event_shape)
        paths = []
        try:
            if folder.is_symlink():
                return f"programs    not drawn: {folder} is a link, which is not followed"
            folder.mkdir(exist_ok=True)
            for name in ("model", "guide"):
                program = getattr(vae, name)
                graph = pyro.render_model(program, model_args=(x,), render_distributions=True)
                paths.append(folder / f"{name}.png")
                write_bytes(paths[-1], graph.pipe(format="png"))
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "strerror", None) or error
            return f"programs    not drawn into {folder}: {reason}"
    return "programs    " + ", ".join(str(path) for path in paths)


def _name(distribution: Any) -> str:
    names = []
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    names.append(type(distribution).__name__)
    if isinstance(distribution, torch.distributions.MixtureSameFamily):
        names.append(f"of {_name(distribution.component_distribution)}")
    return " ".join(names)
