r"""A run as text: what is trained on which data, and how. Reads and writes TOML, builds objects.

Each setting comes from the first source that has it: the command line, a file, the recipe of the
dataset, the built-in default. The resolved :class:`Config` holds all of them, in three tables.
"""

import math
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from pyro.infer import ELBO
from torch import nn

import pyrovae
from pyrovae._process.files import FORMAT, expanded
from pyrovae._process.isolation import isolated, stream
from pyrovae.data import (
    DATASETS,
    RECIPES,
    Dataset,
    Recipe,
    Schema,
    Source,
    TorchvisionSet,
    default_data_dir,
    for_array,
    named_recipe,
    prepare,
    read,
)
from pyrovae.distributions import vector_size
from pyrovae.likelihoods import LIKELIHOODS
from pyrovae.networks import Divided, Filled, Shape, TableInput
from pyrovae.runs.settings import (
    DATA_SETTINGS,
    FAMILIES,
    SETTINGS,
    TRAINING_SETTINGS,
    WRITTEN,
    Settings,
    checked,
    read_settings,
)
from pyrovae.runs.specs import Spec, context_of, failure, find, resolve
from pyrovae.runs.tables import (
    column_levels,
    column_scalings,
    likelihood_by_column,
    scaling_of,
)
from pyrovae.vae import VAE

__all__ = ["Config"]

_MEASURED = 1_000  # training examples used to choose the encoder's unit


@dataclass(frozen=True)
class Config:
    """A run with every setting resolved.

    Attributes:
        data: settings of the dataset: ``name`` (or path), ``data_dir``, ``image_size`` (a number
            or ``HxW``), ``id_column``, ``binarization``, ``scaling``; and what was found in it:
            ``maximum``, ``event_shape``, and ``gaps``, whether values are missing.
        model: a spec with all its options for each of ``prior``, ``likelihood``, ``posterior``,
            ``encoder`` and ``decoder``; ``latent_dim``; ``input_divisor``, by which the encoder
            divides x; and ``columns``, likelihoods of single columns of a table, such as
            ``"age=poisson; income=student_t:df=3"``, which the likelihood ``columns`` takes up.
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
        settings: Settings | None = None,
        *,
        recipe: str | None = None,
        trusted: Collection[str] = (),
        schema: Schema | None = None,
        download: bool = True,
    ) -> tuple["Config", Dataset]:
        """Fill in the settings that are not given, from the data's recipe and the defaults.

        Args:
            settings: tables ``data``, ``model`` and ``training``, as in :class:`Config`; any part
                may be left out: ``{"data": {"name": "mnist"}, "model": {"prior": "laplace"}}``.
            recipe: name of one of :data:`pyrovae.data.NAMED_RECIPES`; None for the default.
            trusted: ``module:attribute`` names of user-defined code that may be imported.
            schema: of a table that was read before, whose columns are taken by their names.
            download: whether a missing named dataset may be downloaded.

        Returns:
            The complete configuration, and the dataset it describes.

        Raises:
            ValueError: if a setting or its value is unknown, with the allowed ones.
            FileNotFoundError: if the data are missing.
        """
        given = checked(settings or {})
        data = {name: option.default for name, option in DATA_SETTINGS.items()} | given["data"]
        name = str(data["name"])
        base = None if recipe is None else named_recipe(recipe, name)
        if name not in DATASETS and expanded(name).exists():
            data["name"] = str(expanded(name).resolve())
        if data["data_dir"] is not None:
            data["data_dir"] = str(expanded(data["data_dir"]).resolve())
        source = read(
            data["name"],
            data_dir=data["data_dir"],
            image_size=data["image_size"],
            download=download,
            id_column=data["id_column"],
            schema=schema,
        )
        event_shape = tuple(next(iter(source.parts.values())).x.shape[1:])
        base = base or RECIPES.get(name) or _recipe(source)
        training = {name: option.default for name, option in TRAINING_SETTINGS.items()}
        training |= dict(base.training) | given["training"]
        chosen = _chosen(given, base, training)
        specs = {role: Spec.parse(chosen[role]) for role in FAMILIES}
        natural = specs["likelihood"].name == Spec.parse(base.likelihood).name
        likelihood = find("likelihood", LIKELIHOODS, specs["likelihood"], trusted)
        if data["binarization"] is None:
            data["binarization"] = base.binarization if natural else "none"
        if data["scaling"] is None:
            data["scaling"] = scaling_of(likelihood, natural, data, source.maximum, base)
        specs["likelihood"] = likelihood_by_column(
            specs["likelihood"], source.schema, chosen["columns"]
        )
        by_column = str(specs["likelihood"].options.get("columns", ""))
        columns = column_scalings(by_column, event_shape) or None
        treatment = {name: data[name] for name in ("binarization", "scaling")}
        dataset = prepare(source, columns=columns, **treatment)
        largest = source.maximum if data["binarization"] == "none" else 1
        known = {"total_count": largest, "levels": None if largest is None else largest + 1}
        divisor = chosen["input_divisor"]
        model = {
            "latent_dim": chosen["latent_dim"],
            "input_divisor": _input_divisor(dataset) if divisor is None else divisor,
            "columns": None,  # the likelihood has them all
        }
        for role, family in FAMILIES.items():
            component = find(role, family, specs[role], trusted)
            model[role] = str(resolve(role, component, specs[role], known)[0])
        training["objective"] = model.pop("objective")
        data |= {"maximum": source.maximum, "event_shape": event_shape, "gaps": source.gaps}
        return cls(data, model, training), dataset

    def build(self, *, trusted: Collection[str] = ()) -> VAE:
        """Build the VAE, untrained, with initial weights that depend on the seed alone.

        Args:
            trusted: ``module:attribute`` names of user-defined code that may be imported.

        Raises:
            ValueError: if a component is unknown or not trusted, or an option is invalid.
        """
        model, seed, latent_dim = self.model, self.training["seed"], self.model["latent_dim"]
        event_shape = tuple(self.data["event_shape"])
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")

        def make(role: str, **known: Any) -> nn.Module:
            return build_component(role, model[role], known, trusted)

        def network(role: str) -> Callable[..., nn.Module]:
            return lambda in_shape, out_shape: make(role, in_shape=in_shape, out_shape=out_shape)

        def encoder(in_shape: Shape, out_shape: Shape) -> nn.Module:
            inner = network("encoder")
            if tuple(in_shape) != event_shape:  # other inputs than x are read as they are
                return inner(in_shape, out_shape)
            if likelihood_spec.name == "columns":
                levels = column_levels(str(likelihood_spec.options["columns"]))
                start = {"loc": [0.0] * len(levels), "scale": [1.0] * len(levels)}
                gaps = self.data["gaps"]
                return TableInput(
                    in_shape, out_shape, network=inner, levels=levels, gaps=gaps, **start
                )
            if self.data["gaps"]:
                inner = partial(Filled, network=inner)
            divisor = model["input_divisor"]
            if divisor == 1:
                return inner(in_shape, out_shape)
            return Divided(in_shape, out_shape, network=inner, divisor=divisor)

        likelihood_spec = Spec.parse(model["likelihood"])
        known = {"latent_dim": latent_dim, "event_shape": event_shape}
        with isolated():
            torch.manual_seed(stream(seed, "build"))
            posterior = make("posterior", **known, network=encoder)
            likelihood = make("likelihood", **known, network=network("decoder"))
            prior = make("prior", **known, posterior=posterior)
            dimensions = vector_size(prior)
            if dimensions != latent_dim:
                raise ValueError(
                    f"the prior {model['prior']} is over z of {dimensions} dimensions, and "
                    f"latent_dim is {latent_dim}; set latent_dim to {dimensions}"
                )
            return VAE(prior, likelihood, posterior)

    def objective(self, *, trusted: Collection[str] = ()) -> ELBO:
        """Build the objective.

        Args:
            trusted: ``module:attribute`` names of user-defined code that may be imported.

        Raises:
            ValueError: as :meth:`build`.
        """
        return build_component("objective", self.training["objective"], {}, trusted)

    def to_toml(self) -> str:
        """The text that :meth:`read` reads; ``none`` stands for None."""
        plain = {
            table: {name: _plain(value) for name, value in getattr(self, table).items()}
            for table in SETTINGS
        }
        return tomli_w.dumps({"pyrovae": pyrovae.__version__, "format": FORMAT} | plain)

    @staticmethod
    def read(path: Path) -> Settings:
        """Read settings from a TOML file, for :meth:`resolve`.

        A run, which may be from elsewhere, does not decide where its data are downloaded to: the
        folder that it names is left out with a warning, unless it holds the data.

        Args:
            path: of a file such as :meth:`to_toml` writes, or with a part of its settings.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not TOML, or a key is unknown.
        """
        settings, is_of_run = read_settings(expanded(path), SETTINGS)
        data = settings["data"]
        named, folder = DATASETS.get(str(data.get("name"))), data.get("data_dir")
        if is_of_run and folder is not None and isinstance(named, TorchvisionSet):
            if named.present(expanded(folder)):
                return settings
            del data["data_dir"]
            warnings.warn(
                f"{path} names the folder {folder}, which does not hold {data['name']}: it is "
                f"looked for in {default_data_dir()}; name another folder with --data-dir",
                stacklevel=2,
            )
        return settings

    @classmethod
    def opened(cls, path: Path) -> "Config":
        """Open a file that :meth:`to_toml` wrote; nothing is looked up or imported.

        Args:
            path: of a run's ``config.toml``.

        Raises:
            FileNotFoundError, ValueError: as :meth:`read`, and if a setting is missing.
        """
        settings, _ = read_settings(path, WRITTEN)
        for table, options in WRITTEN.items():
            missing = [name for name in options if name not in settings[table]]
            if missing:
                raise ValueError(
                    f"{path} is not the whole configuration of a run: [{table}] has no "
                    f"{', '.join(missing)}"
                )
        return cls(**settings)


def _plain(value: Any) -> Any:
    if value is None:
        return "none"
    return list(value) if isinstance(value, tuple) else value


def _chosen(
    given: Mapping[str, Mapping[str, Any]], recipe: Recipe, training: Mapping[str, Any]
) -> dict[str, Any]:
    """The components as they are named, by a person or by the recipe, and the latent space."""
    chosen: dict[str, Any] = {
        "prior": recipe.prior,
        "posterior": recipe.posterior,
        "likelihood": recipe.likelihood,
        "encoder": recipe.encoder,
        "decoder": recipe.decoder,
        "latent_dim": recipe.latent_dim,
        "input_divisor": None,
        "columns": None,
        "objective": training["objective"],
    } | dict(given["model"])
    if chosen["columns"] is not None and "likelihood" not in given["model"]:
        chosen["likelihood"] = "columns"
    if Spec.parse(chosen["posterior"]).name == "point" and "objective" not in given["training"]:
        chosen["objective"] = TRAINING_SETTINGS["objective"].default  # a point has no weights
    return chosen


def _recipe(source: Source) -> Recipe:
    first = next(iter(source.parts.values()))
    return for_array(
        source.maximum,
        source.unit_interval,
        tuple(first.x.shape[1:]),
        sum(len(part.x) for part in source.parts.values()),
        source.schema,
        source.black_and_white,
        source.missing(),
    )


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


def build_component(
    role: str, text: str, known: Mapping[str, Any], trusted: Collection[str] = ()
) -> Any:
    """Build a component from its spec; an error in user-defined code becomes one line."""
    spec = Spec.parse(text)
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
