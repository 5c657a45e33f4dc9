r"""The settings that are not given: from the recipe of the data, the data, and the defaults."""

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyrovae.data import DATASETS, RECIPES, Dataset, Recipe, for_array, prepare, read
from pyrovae.likelihoods import LIKELIHOODS
from pyrovae.runs.settings import DATA_SETTINGS, FAMILIES, TRAINING_SETTINGS, checked
from pyrovae.runs.specs import Spec, find, resolve

_MEASURED = 1_000  # training examples used to choose the encoder's unit


def resolved(
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
