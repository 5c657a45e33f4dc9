r"""A run as text: what is trained on which data, and how. Reads and writes TOML, builds objects.

Each setting comes from the first source that has it: the command line, a file, the recipe of the
dataset, the built-in default. The resolved :class:`Config` holds all of them.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from pyro.infer import ELBO
from torch import nn

import pyrovae
from pyrovae._process.isolation import stream
from pyrovae.data import DATASETS, RECIPES, Dataset, Recipe, for_array, prepare, read
from pyrovae.likelihoods import LIKELIHOODS
from pyrovae.networks import Divided, Shape
from pyrovae.runs.settings import (
    DATA_SETTINGS,
    FAMILIES,
    TRAINING_SETTINGS,
    checked,
    read_complete,
    read_settings,
)
from pyrovae.runs.specs import Spec, context_of, failure, find, resolve
from pyrovae.vae import VAE

__all__ = ["Config"]

_MEASURED = 1_000  # training examples used to choose the encoder's unit


@dataclass(frozen=True)
class Config:
    """A run with every setting resolved.

    Attributes:
        data: settings of the dataset: ``name`` (or path), ``data_dir``, ``image_size``,
            ``binarization``, ``scaling``; and what was found in it: ``maximum``, ``event_shape``.
        model: a spec with all its options for each of ``prior``, ``likelihood``, ``posterior``,
            ``encoder`` and ``decoder``; ``latent_dim``; and ``input_divisor``, by which the
            encoder divides x.
        training: keyword arguments of :func:`pyrovae.fit`; the objective as a spec.

    Example:
        >>> config, dataset = pyrovae.Config.resolve({"model": {"prior": "laplace"}})
        >>> config.data["name"], config.model["prior"], len(dataset.test)
        ('digits', 'laplace:scale=1.0', 359)
        >>> config.build().latent_dim
        10
    """

    data: Mapping[str, Any]
    model: Mapping[str, Any]
    training: Mapping[str, Any]

    @classmethod
    def resolve(
        cls,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        trusted: Collection[str] = (),
    ) -> tuple["Config", Dataset]:
        """Fill in the settings that are not given, from the data's recipe and the defaults.

        Args:
            settings: tables ``data``, ``model`` and ``training``, as in :class:`Config`; any part
                may be left out: ``{"data": {"name": "mnist"}, "model": {"prior": "laplace"}}``.
            trusted: ``module:attribute`` names of user-defined code that may be imported.

        Returns:
            The complete configuration, and the dataset it describes.

        Raises:
            ValueError: if a setting or its value is unknown, with the allowed ones.
            FileNotFoundError: if the data are missing.
        """
        tables, dataset = _resolved(settings or {}, trusted)
        return cls(**tables), dataset

    def build(self, *, trusted: Collection[str] = ()) -> VAE:
        """Build the VAE, untrained, with initial weights that depend on the seed alone.

        Args:
            trusted: ``module:attribute`` names of user-defined code that may be imported.

        Raises:
            ValueError: if a component is unknown or not trusted, or an option is invalid.
        """
        event_shape = tuple(self.data["event_shape"])
        return _build_vae(self.model, event_shape, self.training["seed"], trusted)

    def objective(self, *, trusted: Collection[str] = ()) -> ELBO:
        """Build the objective.

        Args:
            trusted: ``module:attribute`` names of user-defined code that may be imported.

        Raises:
            ValueError: as :meth:`build`.
        """
        return _build_objective(self.training["objective"], trusted)

    def to_toml(self) -> str:
        """The text that :meth:`read` reads; ``none`` stands for None."""
        tables = {"data": self.data, "model": self.model, "training": self.training}
        plain = {
            table: {name: _plain(value) for name, value in settings.items()}
            for table, settings in tables.items()
        }
        return tomli_w.dumps({"pyrovae": pyrovae.__version__} | plain)

    @staticmethod
    def read(path: Path) -> dict[str, dict[str, Any]]:
        """Read settings from a TOML file, for :meth:`resolve`.

        Args:
            path: of a file such as :meth:`to_toml` writes, or with a part of its settings.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not TOML, or a key is unknown.
        """
        return read_settings(path)

    @classmethod
    def opened(cls, path: Path) -> "Config":
        """Open a file that :meth:`to_toml` wrote; nothing is looked up or imported.

        Args:
            path: of a run's ``config.toml``.

        Raises:
            FileNotFoundError, ValueError: as :meth:`read`, and if a setting is missing.
        """
        return cls(**read_complete(path))


def _plain(value: Any) -> Any:
    if value is None:
        return "none"
    return list(value) if isinstance(value, tuple) else value


def _resolved(
    settings: Mapping[str, Mapping[str, Any]], trusted: Collection[str]
) -> tuple[dict[str, dict[str, Any]], Dataset]:
    """Fill in every setting, see :meth:`pyrovae.Config.resolve`.

    Args:
        settings: as given.
        trusted: ``module:attribute`` names that may be imported.

    Returns:
        All tables with all settings, and the dataset.
    """
    given = checked(settings)
    data = {name: option.default for name, option in DATA_SETTINGS.items()} | given["data"]
    name = str(data["name"])
    if name not in DATASETS and Path(name).expanduser().exists():
        data["name"] = str(Path(name).expanduser().resolve())
    if data["data_dir"] is not None:
        data["data_dir"] = str(Path(data["data_dir"]).expanduser().resolve())
    source = read(data["name"], data_dir=data["data_dir"], image_size=data["image_size"])
    event_shape = tuple(next(iter(source.parts.values())).x.shape[1:])
    examples = sum(len(part.x) for part in source.parts.values())
    recipe = RECIPES.get(name) or for_array(
        source.maximum, source.unit_interval, event_shape, examples
    )
    model = _model_with_defaults(given["model"], recipe)
    likelihood = find("likelihood", LIKELIHOODS, model["likelihood"], trusted)
    natural = model["likelihood"].name == Spec.parse(recipe.likelihood).name
    if data["binarization"] is None:
        data["binarization"] = recipe.binarization if natural else "none"
    if data["scaling"] is None:
        data["scaling"] = _scaling(likelihood, natural, data, source.maximum, recipe)
    dataset = prepare(source, binarization=data["binarization"], scaling=data["scaling"])
    training = {name: option.default for name, option in TRAINING_SETTINGS.items()}
    training |= dict(recipe.training) | given["training"]
    largest = source.maximum if data["binarization"] == "none" else 1
    specs = _complete_specs(
        model | {"objective": Spec.parse(training["objective"])}, largest, trusted
    )
    training["objective"] = specs.pop("objective")
    divisor = model["input_divisor"]
    written: dict[str, Any] = {
        "latent_dim": model["latent_dim"],
        "input_divisor": _input_divisor(dataset) if divisor is None else divisor,
    }
    data |= {"maximum": source.maximum, "event_shape": event_shape}
    return {"data": data, "model": written | specs, "training": training}, dataset


def _complete_specs(
    specs: Mapping[str, Any], largest: int | None, trusted: Collection[str]
) -> dict[str, str]:
    """The spec of each role with all its options.

    Args:
        specs: by role, among other settings.
        largest: value that x can take; None for no limit.
        trusted: ``module:attribute`` names that may be imported.
    """
    known = {"total_count": largest, "levels": None if largest is None else largest + 1}
    return {
        role: str(resolve(role, find(role, family, specs[role], trusted), specs[role], known)[0])
        for role, family in FAMILIES.items()
    }


def _model_with_defaults(given: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    text: dict[str, Any] = {
        "prior": "normal",
        "posterior": "diagonal",
        "likelihood": recipe.likelihood,
        "encoder": recipe.encoder,
        "decoder": recipe.decoder,
        "latent_dim": recipe.latent_dim,
        "input_divisor": None,
    } | dict(given)
    return {n: Spec.parse(value) if n in FAMILIES else value for n, value in text.items()}


def _scaling(
    likelihood: Callable[..., Any],
    natural: bool,
    data: Mapping[str, Any],
    maximum: int | None,
    recipe: Recipe,
) -> str:
    if data["binarization"] != "none":
        return "none"
    if natural:
        return recipe.scaling
    return str(getattr(likelihood, "scaling", "unit")) if maximum is not None else "none"


def _input_divisor(dataset: Dataset) -> float:
    """A power of two by which the root mean square of levels above 16 becomes about 2.

    The largest level is no measure: of counts without a limit it may be thousands of times what is
    usual. The digits' levels train well as they are.
    """
    treated = dataset.binarization != "none" or dataset.scaling != "none"
    if treated or dataset.maximum is None or dataset.maximum <= 16:
        return 1.0
    count = min(len(dataset.train), _MEASURED)
    rows = np.linspace(0, len(dataset.train) - 1, count).astype(np.int64)
    squares = [float(dataset.train.batch(row[None]).double().square().mean()) for row in rows]
    size = math.sqrt(math.fsum(squares) / count)
    return 2.0 ** round(math.log2(max(size, 2.0) / 2))


def _build_vae(
    model: Mapping[str, Any], event_shape: Shape, seed: int, trusted: Collection[str]
) -> VAE:
    """Build a VAE, see :meth:`pyrovae.Config.build`.

    Args:
        model: settings of the model, with all options.
        event_shape: shape of one example.
        seed: of the weights.
        trusted: ``module:attribute`` names that may be imported.
    """
    latent_dim = model["latent_dim"]
    if latent_dim < 1:
        raise ValueError(f"latent_dim must be at least 1, got {latent_dim}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")

    def make(role: str, **known: Any) -> nn.Module:
        component: nn.Module = _build(role, Spec.parse(model[role]), known, trusted)
        return component

    def network(role: str) -> Callable[..., nn.Module]:
        return lambda in_shape, out_shape: make(role, in_shape=in_shape, out_shape=out_shape)

    def encoder(in_shape: Shape, out_shape: Shape) -> nn.Module:
        divisor = model["input_divisor"]
        if divisor == 1 or tuple(in_shape) != event_shape:  # other inputs than x keep their unit
            return network("encoder")(in_shape, out_shape)
        return Divided(in_shape, out_shape, network=network("encoder"), divisor=divisor)

    known = {"latent_dim": latent_dim, "event_shape": event_shape}
    with torch.random.fork_rng():
        torch.manual_seed(stream(seed, "build"))
        posterior = make("posterior", **known, network=encoder)
        likelihood = make("likelihood", **known, network=network("decoder"))
        prior = make("prior", **known, posterior=posterior)
        vae = VAE(prior, likelihood, posterior)
    if vae.latent_dim != latent_dim:
        raise ValueError(
            f"the prior {model['prior']} is over z of {vae.latent_dim} dimensions, and "
            f"latent_dim is {latent_dim}; set latent_dim to {vae.latent_dim}"
        )
    return vae


def _build_objective(objective: str, trusted: Collection[str]) -> ELBO:
    """Build an objective, see :meth:`pyrovae.Config.objective`.

    Args:
        objective: its spec, with all options.
        trusted: ``module:attribute`` names that may be imported.
    """
    return _build("objective", Spec.parse(objective), {}, trusted)


def _build(role: str, spec: Spec, known: Mapping[str, Any], trusted: Collection[str]) -> Any:
    """Build a component; an error in user-defined code becomes one line."""
    component = find(role, FAMILIES[role], spec, trusted)
    _, options = resolve(role, component, spec, {})
    arguments = context_of(component, known) | options
    try:
        module = component(**arguments)
    except Exception as error:
        if not spec.is_users_own:
            raise
        raise ValueError(f"the {role} {spec} cannot be built: {failure(error)}") from error
    if not callable(module):
        kind = "a Pyro ELBO" if role == "objective" else "an nn.Module that can be called"
        raise TypeError(f"the {role} {spec} makes a {type(module).__name__}; it must make {kind}")
    return module
