"""Recipes: the default likelihood, treatment, networks and training for each dataset.

Everything here is text and numbers, since the command line reads it before any heavy import.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from pyrovae.data.schema import Schema

__all__ = ["NAMED_RECIPES", "RECIPES", "Recipe", "for_array", "named_recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Default settings of a run, used where neither the command line nor a file sets them.

    Args:
        likelihood: p(x | z), as given to `--likelihood`.
        binarization: one of `pyrovae.data.BINARIZATIONS`.
        scaling: one of `pyrovae.data.SCALINGS`.
        latent_dim: dimension of z.
        posterior: q(z | x), as given to `--posterior`.
        encoder: network of q(z | x), as given to `--encoder`.
        decoder: network of p(x | z), as given to `--decoder`.
        prior: p(z), as given to `--prior`.
        training: keyword arguments of `fit`.
        protocol: the origin of the splits and the standard practice, in one sentence.

    Example:
        >>> from pyrovae.data import RECIPES
        >>> RECIPES["mnist"].likelihood, RECIPES["mnist"].binarization
        ('bernoulli', 'dynamic')
    """

    likelihood: str
    binarization: str = "none"
    scaling: str = "none"
    latent_dim: int
    encoder: str
    decoder: str
    posterior: str = "diagonal"
    prior: str = "normal"
    training: Mapping[str, float | int | str | None]
    protocol: str


def _networks(spec: str) -> dict[str, str]:
    """An encoder and a decoder of the same kind."""
    return {"encoder": spec, "decoder": spec}


def _training(**changes: float | int | str | None) -> Mapping[str, float | int | str | None]:
    """Arguments of `fit`: `warmup` is a fraction of the steps, `averaging` the decay of an EMA."""
    common: dict[str, float | int | str | None] = {
        "epochs": 100,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "warmup": 0.05,
        "weight_decay": 0.0,
        "clip_norm": 100.0,
        "averaging": 0.999,
        "validate_every": 1,
    }
    return MappingProxyType(common | changes)


LAST_5000 = "validation is the last 5,000 of the training file"

PERMUTED = (
    "Splits the file holds are kept; else one permutation with seed 0 gives the last 20% to test "
    "and the 10% before them to validation; there is no published standard for these data."
)

DIGITS = Recipe(
    likelihood="discretized_logistic:levels=17,scale=decoder",
    latent_dim=10,
    **_networks("residual:width=128,depth=4"),
    training=_training(epochs=120, batch_size=64, learning_rate=3e-3, weight_decay=0.5),
    protocol=(
        "One permutation of the 1,797 digits with seed 0 gives the last 20% to test and the 10% "
        "before them to validation; there is no standard split, and pixels are exact counts out "
        "of 16."
    ),
)

MNIST = Recipe(
    likelihood="bernoulli",
    binarization="dynamic",
    latent_dim=50,
    **_networks("residual:width=400,depth=4"),
    training=_training(
        epochs=200,
        batch_size=256,
        learning_rate=2e-3,
        warmup=0.02,
        weight_decay=0.05,
        clip_norm=1_000.0,
        objective="beta:beta=1,schedule=linear,rise=0.2",
    ),
    protocol=(
        f"Test is the official 10,000, {LAST_5000}; training pixels are binarized anew at every "
        "visit, validation and test pixels once, as is usual for dynamically binarized MNIST."
    ),
)

MNIST_BEST = replace(
    MNIST,
    prior="flow",
    encoder="residual:width=500,depth=4",
    decoder="residual:width=500,depth=4",
    training=MappingProxyType(dict(MNIST.training) | {"epochs": 220}),
)
"""A flow as prior, wider networks and some more epochs."""

CIFAR10 = Recipe(
    likelihood="normal",
    scaling="unit",
    latent_dim=64,
    **_networks("conv:channels=32-64"),
    training=_training(),
    protocol=(
        f"Test is the official 10,000, {LAST_5000}; pixels are divided by 255 for the model, and "
        "densities are per gray level; they are no probabilities of levels, so they do not compare "
        "with published bits per dimension."
    ),
)

BITS = Recipe(
    likelihood="bernoulli",
    latent_dim=40,
    **_networks("mlp:hidden_dims=500-500"),
    training=_training(),
    protocol=PERMUTED,
)

TABLE = Recipe(
    likelihood="normal",
    scaling="standardize",
    latent_dim=10,
    **_networks("mlp:hidden_dims=256-256"),
    training=_training(),
    protocol=PERMUTED,
)

GAPS = Recipe(
    likelihood="normal:scale=dimension",
    scaling="standardize",
    latent_dim=10,
    encoder="mlp:hidden_dims=128",
    decoder="linear",
    posterior="full",
    training=_training(objective="iwae", learning_rate=3e-3),
    protocol=PERMUTED,
)


FEW_GAPS = 0.05
"""Share of missing values up to which a table has the recipe of a complete one."""


def for_array(
    maximum: int | None,
    unit_interval: bool,
    event_shape: tuple[int, ...],
    rows: int,
    schema: Schema | None = None,
    black_and_white: bool = False,
    missing: float = 0.0,
) -> Recipe:
    """Choose a recipe for the user's own data.

    Bits are modeled by a Bernoulli likelihood, and so are images of black and white, made binary at
    half of their maximum; other integer pixels by a normal after division by their maximum, real
    numbers in [0, 1] by a continuous Bernoulli, columns of several kinds each by a likelihood of
    its own, and everything else by a normal after standardizing. Color images get convolutional
    networks, and tables a latent dimension of at most half their columns. Small datasets are
    trained in small batches for many epochs, so that there are enough steps: about 10,000, in 20 to
    1,000 epochs.

    In a table of which more than a twentieth is missing, fewer rows hold any two columns together,
    so its model is a simple one: a linear decoder, a noise of its own for each column, one latent
    dimension for 60 rows or less, and a posterior with all correlations, as the observed values of
    a row leave them. It is trained with the importance-weighted bound (MIWAE; Mattei and Frellsen
    2019, arXiv:1812.02633) and keeps its last weights: few validation rows with gaps choose worse
    ones.

    Args:
        maximum: largest count of integer values, or None for real numbers.
        unit_interval: whether the values are real numbers that all lie in [0, 1].
        event_shape: shape of one example: (C, H, W) for images, (D,) for tables.
        rows: number of rows, all splits together.
        schema: of the columns of a table, or None.
        black_and_white: whether all pixels are 0 or 255.
        missing: share of the values that is missing.

    Returns:
        The recipe.

    Example:
        >>> from pyrovae.data import for_array
        >>> for_array(None, False, (6,), rows=600).scaling
        'standardize'
    """
    image = len(event_shape) == 3
    recipe = BITS if image or maximum == 1 or black_and_white else TABLE
    sparse = missing > FEW_GAPS and not image
    if sparse:
        recipe = replace(GAPS, latent_dim=max(1, min(GAPS.latent_dim, rows // 60)))
    batch_size = min(128, max(16, rows // 40))
    epochs = min(1_000, max(20, math.ceil(10_000 * batch_size / rows)))
    training = dict(recipe.training) | {"epochs": epochs, "batch_size": batch_size}
    if sparse:
        training["validate_every"] = epochs
    recipe = replace(recipe, training=MappingProxyType(training))
    several = schema is not None and schema.mixed
    numbers = schema is None or all(not column.integer for column in schema.columns)
    if black_and_white:
        recipe = replace(recipe, likelihood="bernoulli", binarization="threshold", scaling="none")
    elif several and not (unit_interval and numbers):
        recipe = replace(recipe, likelihood="columns", scaling="columns")
    elif maximum == 1:
        recipe = replace(recipe, likelihood="bernoulli", scaling="none")
    elif maximum is not None and image:
        recipe = replace(recipe, likelihood="normal", scaling="unit")
    elif unit_interval:
        recipe = replace(recipe, likelihood="continuous_bernoulli", scaling="none")
    else:
        likelihood = GAPS.likelihood if sparse else "normal"
        recipe = replace(recipe, likelihood=likelihood, scaling="standardize")
    if not image:
        return replace(recipe, latent_dim=max(1, min(recipe.latent_dim, event_shape[0] // 2)))
    if event_shape[0] == 3:
        return replace(recipe, latent_dim=64, encoder=CIFAR10.encoder, decoder=CIFAR10.decoder)
    return recipe


RECIPES: Mapping[str, Recipe] = {
    "digits": DIGITS,
    "mnist": MNIST,
    "fashion_mnist": replace(
        MNIST,
        protocol=(
            f"Test is the official 10,000, {LAST_5000}; gray pixels are binarized as MNIST's are, "
            "which is customary, although they are not ink on paper."
        ),
    ),
    "kmnist": replace(
        MNIST,
        protocol=f"Test is the official 10,000, {LAST_5000}; pixels are binarized as MNIST's are.",
    ),
    "emnist": replace(
        MNIST,
        protocol=(
            f"The balanced part: test is the official 18,800, {LAST_5000}; pixels are binarized as "
            "MNIST's are."
        ),
    ),
    "omniglot": replace(
        MNIST,
        protocol=(
            "Train and validation (the last 5,000 in sorted order, hence other alphabets) are the "
            "background set, test is the evaluation set, averaged down to 28x28; this is not the "
            "split of 24,345 and 8,070 drawings used in the literature."
        ),
    ),
    "cifar10": CIFAR10,
    "svhn": replace(
        CIFAR10,
        protocol=(
            f"Test is the official 26,032, {LAST_5000} (the extra set is left out); pixels are "
            "divided by 255 for the model, and densities are per gray level; they are no "
            "probabilities of levels, so they do not compare with published bits per dimension."
        ),
    ),
}

NAMED_RECIPES: Mapping[str, Mapping[str, Recipe]] = {"best": {"mnist": MNIST_BEST}}
"""Recipes that are asked for by name, by dataset: better ones than the default, and slower."""


def named_recipe(name: str, dataset: str) -> Recipe:
    """Look up a recipe by its name.

    Args:
        name: of the recipe.
        dataset: name of the data.

    Raises:
        ValueError: if there is no such recipe for these data.

    Example:
        >>> from pyrovae.data import named_recipe
        >>> named_recipe("best", "mnist").prior
        'flow'
    """
    found = NAMED_RECIPES.get(name, {}).get(dataset)
    if found is None:
        known = "; ".join(f"{n} for {', '.join(of)}" for n, of in NAMED_RECIPES.items())
        raise ValueError(
            f"there is no recipe {name!r} for {dataset}; there is {known}; leave --recipe out for "
            "the default"
        )
    return found
