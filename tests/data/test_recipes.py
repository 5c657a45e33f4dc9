"""Every dataset has a recipe, and a recipe's likelihood fits its numbers."""

import ast
import dataclasses
import inspect
import math
import sys
from pathlib import Path

import pytest

from pyrovae.data import (
    BINARIZATIONS,
    DATASETS,
    NAMED_RECIPES,
    RECIPES,
    SCALINGS,
    Column,
    Recipe,
    Schema,
    for_array,
    load,
    named_recipe,
)
from pyrovae.likelihoods import LIKELIHOODS
from pyrovae.networks import NETWORKS
from pyrovae.posteriors import POSTERIORS
from pyrovae.priors import PRIORS
from pyrovae.runs import Spec, resolve

OWN = {
    (maximum, unit_interval, event_shape, missing): for_array(
        maximum, unit_interval, event_shape, 500, missing=missing
    )
    for missing in (0.0, 0.5)
    for maximum in (None, 1, 16, 255)
    for unit_interval in (False, True)
    for event_shape in ((1, 28, 28), (3, 32, 32), (1,), (2,), (784,))
    if not (maximum and unit_interval)
}
NAMED = [recipe for family in NAMED_RECIPES.values() for recipe in family.values()]
EVERY = [*RECIPES.values(), *NAMED, *OWN.values()]


def test_every_dataset_has_a_recipe() -> None:
    assert list(RECIPES) == list(DATASETS)


def test_a_named_recipe_is_for_a_known_dataset_and_not_the_default() -> None:
    for name, family in NAMED_RECIPES.items():
        assert set(family) <= set(DATASETS)
        for dataset, recipe in family.items():
            assert named_recipe(name, dataset) is recipe != RECIPES[dataset]
            assert Spec.parse(recipe.prior).name in PRIORS
    with pytest.raises(ValueError, match="there is no recipe 'best' for digits; there is best for"):
        named_recipe("best", "digits")


@pytest.mark.parametrize("recipe", EVERY)
def test_options_are_known_and_go_together(recipe: Recipe) -> None:
    assert recipe.binarization in BINARIZATIONS
    assert recipe.scaling in SCALINGS
    assert "none" in (recipe.binarization, recipe.scaling)
    assert recipe.latent_dim >= 1
    assert recipe.protocol.endswith(".")
    assert "\n" not in recipe.protocol


@pytest.mark.parametrize("recipe", EVERY)
def test_training_holds_the_arguments_of_fit(recipe: Recipe) -> None:
    assert set(recipe.training) - {"objective"} == {
        "epochs",
        "batch_size",
        "learning_rate",
        "warmup",
        "weight_decay",
        "clip_norm",
        "averaging",
        "validate_every",
    }


@pytest.mark.parametrize("recipe", EVERY)
def test_components_are_written_as_on_the_command_line(recipe: Recipe) -> None:
    for family, text in (
        (NETWORKS, recipe.encoder),
        (POSTERIORS, recipe.posterior),
        (NETWORKS, recipe.decoder),
        (LIKELIHOODS, recipe.likelihood),
    ):
        spec = Spec.parse(text)
        assert resolve("component", family[spec.name], spec, {})


def test_recipes_cannot_be_changed() -> None:
    recipe = RECIPES["digits"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.latent_dim = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        recipe.training["epochs"] = 3  # type: ignore[index]


def test_the_levels_of_digits_are_all_that_they_have() -> None:
    assert f"levels={load('digits').maximum + 1}," in RECIPES["digits"].likelihood


@pytest.mark.parametrize(
    ("maximum", "unit_interval", "event_shape", "expected"),
    [
        (1, False, (1, 28, 28), ("bernoulli", "none", "none")),
        (1, False, (20,), ("bernoulli", "none", "none")),
        (1, True, (20,), ("bernoulli", "none", "none")),
        (255, False, (3, 32, 32), ("normal", "none", "unit")),
        (16, False, (1, 8, 8), ("normal", "none", "unit")),
        (5000, False, (20,), ("normal", "none", "standardize")),
        (None, True, (1, 28, 28), ("continuous_bernoulli", "none", "none")),
        (None, True, (20,), ("continuous_bernoulli", "none", "none")),
        (None, False, (20,), ("normal", "none", "standardize")),
        (None, False, (1, 28, 28), ("normal", "none", "standardize")),
    ],
)
def test_the_likelihood_of_own_data_follows_from_their_numbers(
    maximum: int | None,
    unit_interval: bool,
    event_shape: tuple[int, ...],
    expected: tuple[str, str, str],
) -> None:
    recipe = for_array(maximum, unit_interval, event_shape, 500)
    assert (recipe.likelihood, recipe.binarization, recipe.scaling) == expected


def schema(*kinds: str, integer: bool = False, words: tuple[str, ...] = ()) -> Schema:
    return Schema(tuple(Column(f"x{i}", kind, integer, words) for i, kind in enumerate(kinds)))


@pytest.mark.parametrize(
    ("columns", "maximum", "unit_interval", "expected"),
    [
        (schema("real", "real"), None, False, ("normal", "standardize")),
        (schema("positive", "positive"), None, False, ("normal", "standardize")),
        (schema("real", "positive"), None, False, ("columns", "columns")),
        (schema("proportion", "proportion"), None, True, ("continuous_bernoulli", "none")),
        (schema("proportion", "real"), None, True, ("continuous_bernoulli", "none")),
        (schema("proportion", "real"), None, False, ("columns", "columns")),
        (schema("count", "boolean", integer=True), 9, False, ("normal", "standardize")),
        (schema("count", "count", integer=True), 9, False, ("normal", "standardize")),
        (schema("boolean", "boolean", integer=True), 1, False, ("bernoulli", "none")),
        (
            schema("category", "category", integer=True, words=("a", "b")),
            None,
            False,
            ("columns", "columns"),
        ),
        (
            schema("boolean", "boolean", integer=True, words=("False", "True")),
            1,
            False,
            ("bernoulli", "none"),
        ),
    ],
)
def test_columns_of_several_kinds_each_have_their_likelihood(
    columns: Schema, maximum: int | None, unit_interval: bool, expected: tuple[str, str]
) -> None:
    recipe = for_array(maximum, unit_interval, (2,), 500, columns)
    assert (recipe.likelihood, recipe.scaling) == expected


@pytest.mark.parametrize("event_shape", [(1, 28, 28), (3, 8, 8), (20,)])
def test_black_and_white_is_made_binary(event_shape: tuple[int, ...]) -> None:
    recipe = for_array(255, False, event_shape, 500, black_and_white=True)
    assert (recipe.likelihood, recipe.binarization, recipe.scaling) == (
        "bernoulli",
        "threshold",
        "none",
    )


def test_a_table_with_gaps_gets_a_simple_model_that_its_rows_can_tell() -> None:
    found = [
        for_array(None, False, (columns,), rows, missing=0.1)
        for columns, rows in ((13, 178), (4, 150), (10, 442), (30, 569), (64, 1797), (9, 20))
    ]
    assert [recipe.latent_dim for recipe in found] == [2, 2, 5, 9, 10, 1]
    for recipe in found:
        assert (recipe.decoder, recipe.posterior) == ("linear", "full")
        assert recipe.likelihood == "normal:scale=dimension"
        assert recipe.training["objective"] == "iwae"
        assert recipe.training["validate_every"] == recipe.training["epochs"]
    mixed = for_array(None, False, (2,), 500, schema("real", "count"), missing=0.5)
    assert (mixed.likelihood, mixed.decoder) == ("columns", "linear")
    for event_shape, missing in (((1, 8, 8), 0.5), ((13,), 0.0), ((13,), 0.01)):
        recipe = for_array(None, False, event_shape, 178, missing=missing)
        assert (recipe.likelihood, recipe.posterior) == ("normal", "diagonal")
        assert recipe.decoder.startswith("mlp")
        assert "objective" not in recipe.training


def test_a_table_gets_at_most_half_as_many_latent_dimensions_as_columns() -> None:
    assert [for_array(None, False, (d,), 500).latent_dim for d in (1, 2, 5, 20, 500)] == [
        1,
        1,
        2,
        10,
        10,
    ]


def test_recipes_need_the_standard_library_only() -> None:
    paths = [Path(inspect.getfile(each)) for each in (Recipe, Schema)]
    imported = {
        name if name == "pyrovae.data.schema" else name.split(".")[0]
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - {"pyrovae.data.schema"} <= sys.stdlib_module_names


@pytest.mark.parametrize("rows", [10, 178, 2_000, 60_000, 1_000_000])
def test_any_number_of_rows_is_trained_on_for_enough_steps(rows: int) -> None:
    training = for_array(None, False, (13,), rows).training
    steps = training["epochs"] * math.ceil(rows / training["batch_size"])
    assert steps >= 1_000
    assert training["epochs"] == 20 or steps <= 20_000
