r"""What a model is and what it could be made of, in words."""

import importlib.util
import inspect
import re
import shutil
import subprocess
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyro
import torch

from pyrovae._process.files import write_bytes
from pyrovae.data import Dataset
from pyrovae.evidence import RELIABLE
from pyrovae.runs.config import FAMILIES, Config
from pyrovae.runs.run import Run
from pyrovae.runs.specs import Spec, options_of, write
from pyrovae.vae import VAE

__all__ = [
    "catalogue",
    "describe",
    "draw_programs",
    "headline",
    "in_words",
    "reliability",
    "text_table",
]

TABLE_WIDTH = 96
REAL = ("normal", "laplace", "student_t")  # likelihoods of columns in any units


def catalogue() -> dict[str, dict[str, Any]]:
    """Every component of every family: its first line of documentation and its options.

    Returns:
        ``{role: {name: {"about", "options": {key: {"default", "takes"}}}}}``.
    """
    families = {role: FAMILIES[role] for role in ("prior", "posterior", "likelihood")}
    families |= {"network": FAMILIES["encoder"], "objective": FAMILIES["objective"]}
    return {
        role: {
            name: {
                "about": _first_line(component),
                "options": {
                    option.name: {"default": write(option.default), "takes": option.describe()}
                    for option in options_of(component).values()
                },
            }
            for name, component in family.items()
        }
        for role, family in families.items()
    }


def text_table(families: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines for a catalogue, and how components are written.

    Args:
        families: as :func:`catalogue` gives them.
    """
    lines = []
    for role, family in families.items():
        lines.append(role)
        for name, entry in family.items():
            about = textwrap.wrap(entry["about"], TABLE_WIDTH - 26) or [""]
            lines.append(f"  {name:<24}{about[0]}")
            lines += [" " * 26 + line for line in about[1:]]
            for key, option in entry["options"].items():
                written = f"{key}={option['default']}"
                lines.append(f"    {written:<22}{option['takes']}")
        lines.append("")
    return [
        *lines,
        "Options are shown with their defaults. Several are joined by commas, and code of your own",
        "is module:Class, looked for in the working folder:",
        "  pyrovae fit --prior mixture:components=20 --encoder mlp:hidden_dims=500-500,dropout=0.1",
        "  pyrovae fit --prior my_module:MyPrior:rate=2.0",
    ]


def headline(config: Config, dataset: Dataset) -> str:
    """What is trained on what, in one line; in another, that columns keep their units.

    Args:
        config: of the run.
        dataset: that it was resolved with.
    """
    model = config.model
    line = (
        f"{dataset.name}: {len(dataset.train):,} train, {len(dataset.validation):,} validation, "
        f"{len(dataset.test):,} test; prior {model['prior']}, likelihood {model['likelihood']}, "
        f"posterior {model['posterior']}, {model['latent_dim']} latent dimensions"
    )
    likelihood = Spec.parse(model["likelihood"]).name
    in_units = config.data["scaling"] != "standardize" and len(dataset.event_shape) == 1
    if likelihood in REAL and in_units:
        line += "\nthe columns are not standardised: --scaling standardize does that"
    return line


def in_words(result: Mapping[str, Any]) -> list[str]:
    """Lines for what :meth:`pyrovae.runs.Run.evaluate` gives.

    Args:
        result: of it.
    """

    def line(name: str, about: str) -> str:
        value, error = result[name]["estimate"], result[name]["standard_error"]
        plus_minus = "" if error is None else f" +- {error:.2f}"
        return f"  {about:<24} {value:10.2f}{plus_minus}"

    evidence = result["log_evidence"]
    if "no bound" in evidence["kind"]:
        return [
            f"test, {result['images']:,} examples, nats per example (+- standard error):",
            line("elbo", "log p(x, z) at q's point"),
            line("reconstruction", "  reconstruction"),
            line("kl", "  - (-log p(z))"),
            f"  {evidence['kind']}",
        ]
    return [
        f"test, {result['images']:,} examples, nats per example (+- standard error):",
        line("elbo", "ELBO"),
        line("reconstruction", "  reconstruction"),
        line("kl", "  - KL(q(z|x) || p(z))"),
        line("log_evidence", "log p(x) is at least") + f"  ({evidence['samples']:,} samples)",
    ]


def reliability(result: Mapping[str, Any]) -> list[str]:
    """A line on the bound of log p(x), where the tail of its weights is heavy; else nothing.

    Args:
        result: as for :func:`in_words`.
    """
    weights = result["weights"]
    if weights is None or not weights["unreliable"]:
        return []
    share = f"{weights['unreliable']:10.1%} of the examples: log p(x) may be far above there"
    return [f"    {f'Pareto k-hat above {RELIABLE}':<22} {share}"]


@torch.no_grad()
def describe(run: Run, vae: VAE) -> list[str]:
    """Lines that say what a run's model is.

    Args:
        run: opened.
        vae: of the run.
    """
    config = run.config
    event_shape, latent_dim = tuple(config.data["event_shape"]), config.model["latent_dim"]
    with torch.random.fork_rng():
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
    metrics = run.metrics()
    if metrics:
        last = metrics[-1]
        lines.append(
            f"trained     {last['epoch']} of {config.training['epochs']} epochs, "
            f"{last['seconds']:.0f} s; training ELBO {last['elbo']:.2f} nats per example"
        )
    return lines


def draw_programs(vae: VAE, event_shape: tuple[int, ...], folder: Path) -> str:
    """Draw model and guide with ``pyro.render_model``, where graphviz is there to do it.

    Args:
        vae: whose programs to draw.
        event_shape: shape of one observation.
        folder: for ``model.png`` and ``guide.png``.

    Returns:
        What was written, or what is missing.
    """
    if importlib.util.find_spec("graphviz") is None or shutil.which("dot") is None:
        return (
            "programs    not drawn: install graphviz (the program dot, and pip install "
            "'pyrovae[graph]')"
        )
    with torch.random.fork_rng(), pyro.get_param_store().scope():
        x = vae.likelihood(vae.prior().sample((2,))).sample().reshape(2, *event_shape)
        paths = []
        try:
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


def _first_line(component: Callable[..., Any]) -> str:
    """The first line of its documentation, less the formula in it."""
    line = (inspect.getdoc(component) or "").partition("\n")[0]
    return re.sub(r",? :math:`[^`]*`", "", line)


def _name(distribution: Any) -> str:
    names = []
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    names.append(type(distribution).__name__)
    if isinstance(distribution, torch.distributions.MixtureSameFamily):
        names.append(f"of {_name(distribution.component_distribution)}")
    return " ".join(names)
