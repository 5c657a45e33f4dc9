r"""A run in text: what is trained on what, and how. TOML in and out, and the objects it stands for.

Each setting comes from the first of these that names it: the command line, a file, the recipe of
the dataset, the built-in default. The resolved :class:`Config` names all of them.
"""

import inspect
import math
import tomllib
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
from pyrovae.networks import NETWORKS, Divided, Shape
from pyrovae.objectives import OBJECTIVES
from pyrovae.posteriors import POSTERIORS
from pyrovae.priors import PRIORS
from pyrovae.runs.specs import Option, Spec, context_of, failure, find, nearest, resolve
from pyrovae.training import fit
from pyrovae.vae import VAE

__all__ = ["DATA_SETTINGS", "FAMILIES", "MODEL_SETTINGS", "TRAINING_SETTINGS", "Config"]

FAMILIES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    "posterior": POSTERIORS,
    "encoder": NETWORKS,
    "decoder": NETWORKS,
    "objective": OBJECTIVES,
}
"""The components that can be named for each role: of the model, and the objective."""

DATA_SETTINGS: dict[str, Option] = {
    "name": Option("name", str, "digits"),
    "data_dir": Option("data_dir", str | None, None),
    "image_size": Option("image_size", int | None, None),
    "binarization": Option("binarization", str, None),
    "scaling": Option("scaling", str, None),
}
"""The settings of the table ``[data]``."""

MODEL_SETTINGS: dict[str, Option] = {
    **{role: Option(role, str, None) for role in FAMILIES if role != "objective"},
    "latent_dim": Option("latent_dim", int, None),
    "input_divisor": Option("input_divisor", float, None),
}
"""The settings of the table ``[model]``."""

_NOT_SETTINGS = ("objective", "out", "files", "initialize", "resume", "report")

TRAINING_SETTINGS: dict[str, Option] = {"objective": Option("objective", str, "elbo")} | {
    name: Option(name, parameter.annotation, parameter.default)
    for name, parameter in inspect.signature(fit).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name not in _NOT_SETTINGS
}
"""The keyword arguments of :func:`pyrovae.fit` that are numbers and words, and the objective."""

_FOUND: dict[str, Option] = {
    "maximum": Option("maximum", int | None, None),
    "event_shape": Option("event_shape", tuple[int, ...], None),
}
"""Found in the data, written into a run's file, and never set."""

_MEASURED = 1_000  # training rows by which the encoder's unit is chosen

_SETTINGS = {"data": DATA_SETTINGS, "model": MODEL_SETTINGS, "training": TRAINING_SETTINGS}


@dataclass(frozen=True)
class Config:
    """A run with every setting resolved.

    Attributes:
        data: settings of the dataset: ``name`` (or path), ``data_dir``, ``image_size``,
            ``binarization``, ``scaling``; and what was found in it: ``maximum``, ``event_shape``.
        model: a spec for each of ``prior``, ``likelihood``, ``posterior``, ``encoder`` and
            ``decoder``, with all options written out, ``latent_dim``, and ``input_divisor``, by
            which the encoder divides x.
        training: keyword arguments of :func:`pyrovae.fit`; the objective as a spec.
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
        """Fill in what is not set, from the data's recipe and the defaults.

        Args:
            settings: tables ``data``, ``model`` and ``training``, as in :class:`Config`, with any
                part left out; ``{"data": {"name": "mnist"}, "model": {"prior": "laplace"}}``.
            trusted: ``module:attribute`` names of the user's own that may be imported.

        Returns:
            The whole configuration, and the dataset that it describes.

        Raises:
            ValueError: if a setting is unknown or has no meaning, with the ones that do.
            FileNotFoundError: if the data are not there.
        """
        settings = _checked(settings or {})
        data = {name: option.default for name, option in DATA_SETTINGS.items()} | settings["data"]
        name = str(data["name"])
        if name not in DATASETS and Path(name).expanduser().exists():
            data["name"] = str(Path(name).expanduser().resolve())
        if data["data_dir"] is not None:
            data["data_dir"] = str(Path(data["data_dir"]).expanduser().resolve())
        source = read(data["name"], data_dir=data["data_dir"], image_size=data["image_size"])
        event_shape = tuple(next(iter(source.parts.values())).x.shape[1:])
        rows = sum(len(part.x) for part in source.parts.values())
        recipe = RECIPES.get(name) or for_array(
            source.maximum, source.unit_interval, event_shape, rows
        )

        model = _model_with_defaults(settings["model"], recipe)
        chosen = find("likelihood", LIKELIHOODS, model["likelihood"], trusted)
        natural = model["likelihood"].name == Spec.parse(recipe.likelihood).name
        if data["binarization"] is None:
            data["binarization"] = recipe.binarization if natural else "none"
        if data["scaling"] is None:
            data["scaling"] = _scaling(chosen, natural, data, source.maximum, recipe)
        dataset = prepare(source, binarization=data["binarization"], scaling=data["scaling"])

        largest = source.maximum if data["binarization"] == "none" else 1
        known = {"total_count": largest, "levels": None if largest is None else largest + 1}
        training = {name: option.default for name, option in TRAINING_SETTINGS.items()}
        training |= dict(recipe.training) | settings["training"]
        chosen_specs = model | {"objective": Spec.parse(training["objective"])}
        divisor = model["input_divisor"]
        if divisor is None:
            divisor = _input_divisor(dataset)
        written: dict[str, Any] = {"latent_dim": model["latent_dim"], "input_divisor": divisor}
        for role, family in FAMILIES.items():
            component = find(role, family, chosen_specs[role], trusted)
            written[role] = str(resolve(role, component, chosen_specs[role], known)[0])
        training["objective"] = written.pop("objective")
        data |= {"maximum": source.maximum, "event_shape": event_shape}
        return cls(data=data, model=written, training=training), dataset

    def build(self, *, trusted: Collection[str] = ()) -> VAE:
        """Make the VAE, with starting weights that depend on the seed alone.

        Args:
            trusted: ``module:attribute`` names of the user's own that may be imported.

        Returns:
            The VAE, untrained.

        Raises:
            ValueError: if a component is unknown, not trusted, or its options have no meaning.
        """
        latent_dim, event_shape = self.model["latent_dim"], tuple(self.data["event_shape"])
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}")
        if self.training["seed"] < 0:
            raise ValueError(f"seed must not be negative, got {self.training['seed']}")

        def make(role: str, **known: Any) -> nn.Module:
            spec = Spec.parse(self.model[role])
            component = find(role, FAMILIES[role], spec, trusted)
            _, options = resolve(role, component, spec, {})
            return _construct(role, spec, component, context_of(component, known) | options)

        def network(role: str) -> Callable[..., nn.Module]:
            return lambda in_shape, out_shape: make(role, in_shape=in_shape, out_shape=out_shape)

        def encoder(in_shape: Shape, out_shape: Shape) -> nn.Module:
            divisor = self.model["input_divisor"]
            if divisor == 1 or tuple(in_shape) != event_shape:  # of what is not x, leave the unit
                return network("encoder")(in_shape, out_shape)
            return Divided(in_shape, out_shape, network=network("encoder"), divisor=divisor)

        known = {"latent_dim": latent_dim, "event_shape": event_shape}
        with torch.random.fork_rng():
            torch.manual_seed(stream(self.training["seed"], "build"))
            posterior = make("posterior", **known, network=encoder)
            likelihood = make("likelihood", **known, network=network("decoder"))
            prior = make("prior", **known, posterior=posterior)
            vae = VAE(prior, likelihood, posterior)
        if vae.latent_dim != latent_dim:
            raise ValueError(
                f"the prior {self.model['prior']} is over z of {vae.latent_dim} dimensions, and "
                f"latent_dim is {latent_dim}; set latent_dim to {vae.latent_dim}"
            )
        return vae

    def objective(self, *, trusted: Collection[str] = ()) -> ELBO:
        """Make the objective.

        Args:
            trusted: ``module:attribute`` names of the user's own that may be imported.

        Raises:
            ValueError: as :meth:`build`.
        """
        spec = Spec.parse(self.training["objective"])
        component = find("objective", OBJECTIVES, spec, trusted)
        options = resolve("objective", component, spec, {})[1]
        return _construct("objective", spec, component, options)

    def to_toml(self) -> str:
        """The text that :meth:`read` takes; ``none`` stands for None."""
        tables = {"data": self.data, "model": self.model, "training": self.training}
        plain = {
            table: {name: _plain(value) for name, value in settings.items()}
            for table, settings in tables.items()
        }
        return tomli_w.dumps({"pyrovae": pyrovae.__version__} | plain)

    @classmethod
    def read(cls, path: Path) -> dict[str, dict[str, Any]]:
        """Read settings from a TOML file, for :meth:`resolve`.

        Args:
            path: of a file such as :meth:`to_toml` writes, or of a part of one.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no TOML, or a key is unknown.
        """
        try:
            tables = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no file {path}") from None
        except IsADirectoryError:
            raise ValueError(
                f"{path} is a folder, not a TOML file; give {path}/config.toml"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a TOML file: {error}") from error
        whole = tables.pop("pyrovae", None) is not None
        try:
            settings = _checked(tables)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if whole:  # of a run, which may be older than these settings
            settings["model"].setdefault("input_divisor", 1.0)
            settings["training"].setdefault("precision", "float32")
        return settings

    @classmethod
    def opened(cls, path: Path) -> "Config":
        """Take up a file that :meth:`to_toml` wrote, with nothing looked up or imported.

        Args:
            path: of a run's ``config.toml``.

        Raises:
            FileNotFoundError, ValueError: as :meth:`read`, and if a setting is missing.
        """
        settings = cls.read(path)
        found = tomllib.loads(path.read_text()).get("data", {})
        for table, options in _SETTINGS.items():
            present = settings[table] | (found if table == "data" else {})
            needed = [*options, *(_FOUND if table == "data" else ())]
            missing = [name for name in needed if name not in present]
            if missing:
                raise ValueError(
                    f"{path} is not the whole configuration of a run: [{table}] has no "
                    f"{', '.join(missing)}"
                )
        try:
            settings["data"] |= _read_table("data", _FOUND, found, ignored=DATA_SETTINGS)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return cls(data=settings["data"], model=settings["model"], training=settings["training"])


def _checked(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    for table in settings:
        if table not in _SETTINGS:
            raise ValueError(
                f"unknown table [{table}]{nearest(table, _SETTINGS)}; allowed: "
                + ", ".join(f"[{name}]" for name in _SETTINGS)
            )
    return {
        table: _read_table(
            table, options, settings.get(table, {}), ignored=_FOUND if table == "data" else ()
        )
        for table, options in _SETTINGS.items()
    }


def _read_table(
    table: str, options: Mapping[str, Option], values: Any, *, ignored: Collection[str]
) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(f"[{table}] is a table of settings, got {table} = {values!r}")
    for name in values:
        if name not in options and name not in ignored:
            raise ValueError(
                f"unknown key {name!r} in [{table}]{nearest(name, options)}; allowed: "
                + ", ".join(options)
            )
    try:
        return {
            name: None if values[name] is None else option.take(values[name])
            for name, option in options.items()
            if name in values
        }
    except ValueError as error:
        raise ValueError(f"[{table}] {error}") from error


def _construct(
    role: str, spec: Spec, component: Callable[..., Any], arguments: Mapping[str, Any]
) -> Any:
    """Make a component; what fails in code of the user's own is said in one line."""
    try:
        module = component(**arguments)
    except Exception as error:
        if not spec.is_users_own:
            raise
        raise ValueError(f"the {role} {spec} cannot be made: {failure(error)}") from error
    if not callable(module):
        kind = "a Pyro ELBO" if role == "objective" else "an nn.Module that is called"
        raise TypeError(f"the {role} {spec} makes a {type(module).__name__}; it must make {kind}")
    return module


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


def _plain(value: Any) -> Any:
    if value is None:
        return "none"
    return list(value) if isinstance(value, tuple) else value
