"""Splits are disjoint and cover, treatments are exact, and big files stay on disk."""

import ast
import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyrovae import data
from pyrovae.data import (
    BINARIZATIONS,
    SCALINGS,
    STATIC_SEEDS,
    Column,
    Dataset,
    Rows,
    Schema,
    Source,
    Split,
    load,
    load_all,
    prepare,
    read,
)
from tests.oracles import assert_within

RNG = np.random.default_rng(7)
PARTS = ("train", "validation", "test")


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))


def parts(dataset: Dataset) -> list[Split]:
    return [dataset.train, dataset.validation, dataset.test]


def every_row(split: Split) -> np.ndarray:
    return torch.cat(list(split.batches(100))).numpy()


def saved(tmp_path: Path, x: np.ndarray, name: str = "x.npy") -> Path:
    np.save(tmp_path / name, x)
    return tmp_path / name


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    shared = Path(__file__).parents[2].parent / "shared" / "data"
    for folder in (os.environ.get("PYROVAE_DATA"), shared):
        if folder and (Path(folder) / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
            return Path(folder)
    pytest.skip(f"MNIST is neither in PYROVAE_DATA nor in {shared}")


# Splits


@pytest.mark.parametrize("count", [10, 37, 1000])
def test_an_array_is_split_into_disjoint_parts_that_cover_it(tmp_path: Path, count: int) -> None:
    x = np.arange(count, dtype=np.float32)[:, None]
    dataset = load(saved(tmp_path, x))
    train, validation, test = (every_row(split)[:, 0] for split in parts(dataset))
    assert (len(validation), len(test)) == (round(0.1 * count), round(0.2 * count))
    assert sorted([*train, *validation, *test]) == list(range(count))
    order = np.random.default_rng(0).permutation(count)
    assert set(test) == set(order[-len(test) :])
    assert set(validation) == set(order[-len(test) - len(validation) : -len(test)])
    assert "last 20% test" in dataset.splits
    assert "seed 0" in dataset.splits


def test_labels_follow_their_rows(tmp_path: Path) -> None:
    x = np.arange(50, dtype=np.int16)[:, None]
    np.savez(tmp_path / "x.npz", x=x, y=3 * x[:, 0])
    for split in parts(load(tmp_path / "x.npz")):
        assert split.labels is not None
        assert (every_row(split)[:, 0] * 3 == split.labels).all()


def test_splits_of_the_file_are_kept(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {part: np.full((12 + i, 2), i) for i, part in enumerate(PARTS)}
    np.savez(tmp_path / "x.npz", **arrays)
    dataset = load(tmp_path / "x.npz")
    for i, split in enumerate(parts(dataset)):
        assert len(split) == 12 + i
        assert (every_row(split) == i).all()
    assert dataset.splits == "the splits that the file holds"


def test_a_test_set_of_the_file_is_kept_and_validation_comes_from_training_rows(
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "x.npz", x_train=np.arange(40)[:, None], x_test=np.arange(40, 50)[:, None])
    dataset = load(tmp_path / "x.npz")
    train, validation, test = (set(every_row(split)[:, 0]) for split in parts(dataset))
    assert test == set(range(40, 50))
    assert len(validation) == 4
    assert train | validation == set(range(40))
    assert not train & validation
    assert "last 10% of the training rows" in dataset.splits


def test_digits_are_the_default() -> None:
    dataset = load()
    assert dataset.name == "digits"
    assert dataset.maximum == 16
    assert dataset.event_shape == (1, 8, 8)
    assert [len(split) for split in parts(dataset)] == [1258, 180, 359]
    assert dataset.train.batch(np.array([3, 1])).dtype == torch.float32
    assert dataset.seeds == {}
    assert dataset.statistics == {}


def test_loading_is_reading_and_preparing() -> None:
    prepared = prepare(read("digits"), binarization="static")
    for split, other in zip(parts(prepared), parts(load(binarization="static")), strict=True):
        assert (every_row(split) == every_row(other)).all()
    with pytest.raises(ValueError, match="got 'dynamo'"):
        prepare(read("digits"), binarization="dynamo")


def test_fewer_than_ten_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.npy has 9 rows .*at least 10"):
        load(saved(tmp_path, np.ones((9, 2))))


def test_a_training_file_without_rows_to_hold_out_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist_dir: Path
) -> None:
    monkeypatch.setattr("pyrovae.data.catalog.OFFICIAL_HOLDOUT", 60_000)
    with pytest.raises(ValueError, match="training file of mnist has 60000 rows"):
        load("mnist", data_dir=mnist_dir)


# Batches


def test_batches_go_through_the_split_in_order() -> None:
    split = load().test
    batches = list(split.batches(100))
    assert [len(x) for x in batches] == [100, 100, 100, 59]
    assert torch.equal(torch.cat(batches), split.batch(np.arange(len(split))))


@pytest.mark.parametrize("dtype", ["int32", "uint8", "int64"])
def test_any_integers_index_a_split(dtype: str) -> None:
    split = load().train
    assert torch.equal(split.batch(np.array([5, 5], dtype)), split.batch(np.array([5, 5])))


def test_an_index_beyond_the_split_is_an_index_error() -> None:
    dataset = load(binarization="static")
    with pytest.raises(IndexError):
        dataset.test.batch(np.array([359]))
    with pytest.raises(ValueError, match="size must be positive, got 0"):
        dataset.test.batches(0)


@pytest.mark.parametrize("layout", ["C", "F", "channels last", "big endian"])
def test_layout_in_memory_does_not_change_a_batch(tmp_path: Path, layout: str) -> None:
    x = RNG.integers(0, 1000, (20, 3, 4, 5))
    stored = {
        "C": x,
        "F": np.asfortranarray(x),
        "channels last": np.ascontiguousarray(np.moveaxis(x, 1, 3)),
        "big endian": x.astype(">i4"),
    }[layout]
    split = load_all(saved(tmp_path, stored), maximum=999)
    index = np.array([4, 19, 0])
    batch = split.batch(index)
    assert batch.is_contiguous()
    assert (batch.numpy() == x[index]).all()


def test_a_big_file_stays_memory_mapped(tmp_path: Path) -> None:
    path = tmp_path / "big.npy"
    x = np.lib.format.open_memmap(path, "w+", np.uint8, (1 << 18, 32, 32))  # 256 MB, sparse
    x[0] = 200
    x[123_456] = 7
    x.flush()
    del x
    tracemalloc.start()
    dataset = load(path, binarization="none")
    split = load_all(path, maximum=255)
    batch = split.batch(np.array([0, 123_456]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    base = dataset.train._x
    while not isinstance(base, np.memmap):
        assert isinstance(base.base, np.ndarray)
        base = base.base
    assert peak < 64 << 20
    assert (batch[0] == 200).all()
    assert (batch[1] == 7).all()


def test_a_tensor_is_taken_as_it_is() -> None:
    x = torch.randn(5, 2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    split = Split.from_array(x, np.arange(5))
    assert split.event_shape == (2, 3, 4, 6)
    assert len(split) == 5
    assert split.labels is not None
    assert split.labels.tolist() == list(range(5))
    assert torch.equal(split.batch(np.array([3, 1])), x[[3, 1]])
    assert torch.equal(next(Split.from_array(x.bfloat16()).batches(9)), x.bfloat16().float())
    assert torch.equal(next(Split.from_array(x.numpy()).batches(9)), x)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(4), ValueError, r"give scalars the shape \(N, 1\)"),
        (torch.zeros(0, 4), ValueError, "not empty"),
        (np.full((4, 4), "a"), ValueError, "must be real numbers"),
        (torch.tensor([[0.0], [torch.inf]]), ValueError, r"x\[1, 0\] is inf"),
        (torch.full((4, 2), torch.nan), ValueError, "x holds no value, since all are missing"),
        ([[1.0]], TypeError, r"got list; use torch\.as_tensor"),
    ],
)
def test_a_tensor_that_cannot_be_used_is_refused(
    x: torch.Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Split.from_array(x)


def test_labels_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels have shape \(3,\); allowed .*\(4,\)"):
        Split.from_array(torch.zeros(4, 2), np.zeros(3, np.int64))


# Binarization


def test_dynamic_bits_are_fresh_and_have_the_probability_of_their_pixels() -> None:
    visits, standard_errors = 2_000, 5
    dataset = load(binarization="dynamic")
    index, rng = np.arange(20), generator()
    p = load().train.batch(index).numpy() / 16
    mean = np.mean([dataset.train.batch(index, rng).numpy() for _ in range(visits)], axis=0)
    assert (np.abs(mean - p) <= standard_errors * np.sqrt(p * (1 - p) / visits)).all()
    assert set(np.unique(dataset.train.batch(index, rng).numpy())) == {0.0, 1.0}


def test_dynamic_bits_repeat_with_the_generator() -> None:
    split = load(binarization="dynamic").train
    index = np.arange(50)
    assert torch.equal(split.batch(index, generator(1)), split.batch(index, generator(1)))
    assert not torch.equal(split.batch(index, generator(1)), split.batch(index, generator(2)))


def test_dynamic_bits_need_a_generator() -> None:
    split = load(binarization="dynamic").train
    with pytest.raises(ValueError, match=r"rng is None, .*numpy\.random\.Generator"):
        split.batch(np.arange(3))
    with pytest.raises(ValueError, match="would differ at every pass"):
        split.batches(10)


def test_validation_and_test_bits_are_static_under_dynamic() -> None:
    dynamic, static = load(binarization="dynamic"), load(binarization="static")
    for part in ("validation", "test"):
        assert (every_row(getattr(dynamic, part)) == every_row(getattr(static, part))).all()
    assert dynamic.seeds == {part: STATIC_SEEDS[part] for part in ("validation", "test")}
    assert static.seeds == {part: STATIC_SEEDS[part] for part in PARTS}


def test_static_bits_are_the_same_at_every_load_and_have_the_right_mean() -> None:
    standard_errors = 5
    for first, again, grey in zip(
        *map(parts, (load(binarization="static"), load(binarization="static"), load())),
        strict=True,
    ):
        bits, p = every_row(first), every_row(grey) / 16
        assert (bits == every_row(again)).all()
        assert set(np.unique(bits)) == {0.0, 1.0}
        error = np.sqrt((p * (1 - p)).sum())
        assert abs(bits.sum() - p.sum()) <= standard_errors * error
        assert (bits[p == 0] == 0).all()
        assert (bits[p == 1] == 1).all()


def test_static_bits_take_an_eighth_of_the_bytes() -> None:
    split = load(binarization="static").train
    assert split._x.shape == (1258, 8)
    assert split._x.dtype == np.uint8


def test_static_bits_do_not_depend_on_being_memory_mapped(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (30, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x=x)
    mapped = load(saved(tmp_path, x), binarization="static")
    inside = load(tmp_path / "x.npz", binarization="static")
    assert (every_row(mapped.train) == every_row(inside.train)).all()


def test_threshold_is_above_half() -> None:
    for bits, grey in zip(parts(load(binarization="threshold")), parts(load()), strict=True):
        assert (every_row(bits) == (every_row(grey) > 8)).all()


def test_real_numbers_in_the_unit_interval_can_be_made_binary(tmp_path: Path) -> None:
    visits, standard_errors = 2_000, 5
    x = RNG.random((10, 6))
    split = load(saved(tmp_path, x), binarization="dynamic").train
    index, rng = np.arange(len(split)), generator()
    p = every_row(load(tmp_path / "x.npy").train)
    mean = np.mean([split.batch(index, rng).numpy() for _ in range(visits)], axis=0)
    assert (np.abs(mean - p) <= standard_errors * np.sqrt(p * (1 - p) / visits)).all()


@pytest.mark.parametrize("binarization", BINARIZATIONS[1:])
def test_other_real_numbers_cannot_be_made_binary(tmp_path: Path, binarization: str) -> None:
    path = saved(tmp_path, RNG.normal(size=(12, 3)))
    with pytest.raises(ValueError, match=rf"{binarization}.* numbers in \[0, 1\].*likelihood norm"):
        load(path, binarization=binarization)
    np.save(path, -np.eye(12, dtype=np.int64))
    with pytest.raises(ValueError, match="needs counts"):
        load(path, binarization=binarization)


def test_unknown_options_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="one of none, dynamic, static, threshold, got 'dynamo'"):
        load(binarization="dynamo")
    with pytest.raises(ValueError, match="one of none, unit, standardize, columns, got 'minmax'"):
        load(scaling="minmax")
    with pytest.raises(ValueError, match="scaling 'unit' would undo"):
        load(binarization="static", scaling="unit")


# Scaling


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint16"])
def test_unit_divides_by_the_maximum(tmp_path: Path, dtype: str) -> None:
    x = RNG.integers(0, 256, (12, 3, 4)).astype(dtype)
    x[0, 0, 0] = 255
    split = load(saved(tmp_path, x), scaling="unit").train
    grey = load(tmp_path / "x.npy").train
    assert (every_row(split) == every_row(grey) / np.float32(255)).all()


def test_unit_leaves_the_unit_interval_and_refuses_other_reals(tmp_path: Path) -> None:
    x = RNG.random((12, 3)).astype(np.float32)
    path = saved(tmp_path, x)
    assert (every_row(load_all(path, scaling="unit")) == x).all()
    np.save(path, x - 1)
    with pytest.raises(
        ValueError, match=r"scaling 'unit' divides counts .*'standardize' or 'none'"
    ):
        load(path, scaling="unit")


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "int64", "bool"])
def test_standardizing_agrees_with_numpy(
    tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyrovae.data.batching.CHUNK_VALUES", 50)
    x = (RNG.random((200, 7)) * 2.5 - 0.5).clip(0).astype(dtype)
    dataset = load(saved(tmp_path, x), scaling="standardize")
    train = x[np.sort(np.random.default_rng(0).permutation(200)[:140])].astype(np.float64)
    loc, scale = dataset.statistics["loc"], dataset.statistics["scale"]
    assert np.allclose(loc, train.mean(0), rtol=1e-12)
    assert np.allclose(scale, train.std(0), rtol=1e-12)
    z = every_row(dataset.train)
    assert np.allclose(z, (train - loc) / scale, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e30])
def test_a_constant_column_becomes_zero(tmp_path: Path, constant: float) -> None:
    x = np.column_stack([np.full(30, constant), RNG.normal(size=30)])
    dataset = load(saved(tmp_path, x), scaling="standardize")
    assert dataset.statistics["scale"][0] == 1
    assert (every_row(dataset.test)[:, 0] == 0).all()


def test_standardizing_keeps_small_differences_of_large_numbers(tmp_path: Path) -> None:
    x = 1.7e9 + RNG.integers(0, 100, (200, 1)).astype(np.float64)
    z = every_row(load(saved(tmp_path, x), scaling="standardize").train)
    assert abs(z.std() - 1) < 1e-6
    assert len(np.unique(z)) > 50


# All rows under a trained treatment


@pytest.mark.parametrize(
    ("binarization", "scaling"),
    [("none", "none"), ("none", "unit"), ("none", "standardize"), ("threshold", "none")],
)
def test_all_rows_get_the_treatment_of_the_splits(binarization: str, scaling: str) -> None:
    dataset = load(binarization=binarization, scaling=scaling)
    split = load_all(
        "digits",
        binarization=binarization,
        scaling=scaling,
        statistics=dataset.statistics,
        maximum=dataset.maximum,
    )
    order = np.random.default_rng(0).permutation(1797)
    rows = dict(zip(PARTS, np.split(order, [1797 - 180 - 359, 1797 - 359]), strict=True))
    assert len(split) == 1797
    assert split.event_shape == (1, 8, 8)
    for part, index in rows.items():
        expected = getattr(dataset, part)
        assert (split.batch(np.sort(index)).numpy() == every_row(expected)).all()
        assert split.labels is not None
        assert (split.labels[np.sort(index)] == expected.labels).all()


def test_dynamic_becomes_static_for_all_rows() -> None:
    first, again = (load_all("digits", binarization="dynamic", maximum=16) for _ in range(2))
    bits = every_row(first)
    assert (bits == every_row(again)).all()
    assert set(np.unique(bits)) == {0.0, 1.0}


def test_parts_of_a_file_follow_each_other(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {part: np.full((i + 1, 2), i) for i, part in enumerate(PARTS)}
    np.savez(tmp_path / "x.npz", **arrays, train_labels=np.zeros(1))
    split = load_all(tmp_path / "x.npz", maximum=2)
    assert every_row(split)[:, 0].tolist() == [0, 1, 1, 2, 2, 2]
    assert split.labels is None


@pytest.mark.parametrize(
    ("x", "maximum", "options", "message"),
    [
        (np.full((3, 4), 9, np.uint8), 1, {}, r"out of 255, .* out of 1; .* \(a bool array\)"),
        (np.full((3, 4), 17, np.uint8), 16, {"scaling": "unit"}, "of 255, .* out of 16; give int"),
        (np.eye(3, dtype=bool), 255, {}, "counts out of 1, .* counts out of 255"),
        (np.full((3, 4), 9), 1, {"binarization": "dynamic"}, "counts out of 9, .* out of 1"),
        (np.full((3, 4), 9), 8, {"binarization": "threshold"}, "counts out of 9, .* out of 8"),
        (np.full((3, 4), 0.5), 255, {}, "real or negative numbers, .* counts out of 255"),
        (np.full((3, 4), 9, np.uint8), None, {}, "counts out of 255, .* numbers; save them as fl"),
    ],
)
def test_numbers_on_another_scale_are_refused(
    tmp_path: Path, x: np.ndarray, maximum: int | None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_all(saved(tmp_path, x), maximum=maximum, **options)


@pytest.mark.parametrize(
    ("x", "maximum", "scaling"),
    [
        (np.full((3, 4), 9), 16, "none"),
        (np.full((3, 4), 9.5), None, "none"),
        (np.full((3, 4), 9), None, "none"),
        (np.full((3, 4), 90), 16, "standardize"),
        (np.full((3, 4), 255, np.uint8), 255, "unit"),
        (np.full((3, 4), 60), 10, "none"),  # counts beyond the largest in training
        (np.full((3, 4), 60, np.uint8), 10, "none"),
        (np.full((3, 4), 9, np.uint8), 16, "unit"),
        (np.full((3, 4), 4096, np.uint16), 4095, "unit"),
        (np.zeros((3, 4), np.uint8), 255, "none"),  # black
        (np.eye(3, dtype=np.uint8), 255, "unit"),
    ],
)
def test_numbers_on_the_same_scale_are_accepted(
    tmp_path: Path, x: np.ndarray, maximum: int | None, scaling: str
) -> None:
    statistics = {"loc": np.zeros(4), "scale": np.ones(4)} if scaling == "standardize" else {}
    split = load_all(saved(tmp_path, x), maximum=maximum, scaling=scaling, statistics=statistics)
    expected = x / np.float32(maximum or 1) if scaling == "unit" else x
    assert (every_row(split) == expected).all()


def test_counts_cannot_be_made_binary_for_a_model_of_real_numbers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs counts or real numbers in \[0, 1\]"):
        load_all(saved(tmp_path, np.full((3, 4), 9)), binarization="dynamic", maximum=None)


@pytest.mark.parametrize("statistics", [None, {"loc": np.zeros(3), "scale": np.zeros(3)}])
def test_statistics_of_other_columns_are_refused(
    tmp_path: Path, statistics: dict[str, np.ndarray] | None
) -> None:
    path = saved(tmp_path, np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"have \(4,\); give dataset\.statistics"):
        load_all(path, scaling="standardize", statistics=statistics, maximum=1)


# MNIST


def test_mnist_has_its_published_shape_and_mean(mnist_dir: Path) -> None:
    dataset = load("mnist", data_dir=mnist_dir, scaling="unit", download=False)
    assert dataset.event_shape == (1, 28, 28)
    assert dataset.maximum == 255
    assert [len(split) for split in parts(dataset)] == [55_000, 5_000, 10_000]
    total = sum(
        x.sum(dtype=torch.float64).item()
        for split in (dataset.train, dataset.validation)
        for x in split.batches(1_000)
    )
    assert abs(total / (60_000 * 784) - 0.1307) < 1e-4
    assert dataset.test.labels is not None
    assert dataset.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert "the last 5,000 of the training file" in dataset.splits


def test_mnist_bits_have_the_mean_of_their_pixels(mnist_dir: Path) -> None:
    standard_errors = 5
    grey = load("mnist", data_dir=mnist_dir, scaling="unit").train
    split = load("mnist", data_dir=mnist_dir, binarization="dynamic").train
    index = np.arange(5_000)
    p = grey.batch(index).double()
    error = (p * (1 - p)).sum().sqrt()
    assert (split.batch(index, generator()).sum() - p.sum()).abs() <= standard_errors * error


# The process around it


def test_global_random_state_is_left_alone() -> None:
    legacy = np.random.mtrand._rand
    before, before_torch = (
        legacy.get_state(legacy=False)["state"]["key"].tolist(),
        torch.get_rng_state(),
    )
    dataset = load(binarization="dynamic")
    dataset.train.batch(np.arange(9), generator())
    assert legacy.get_state(legacy=False)["state"]["key"].tolist() == before
    assert torch.equal(torch.get_rng_state(), before_torch)


FILES = sorted(Path(data.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_packages_of_single_sources_are_imported_by_those_only(path: Path) -> None:
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    assert found <= {*sys.stdlib_module_names, "numpy", "torch", "pyrovae"}


def test_a_digest_is_of_the_rows_and_their_order_and_nothing_else(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", x)
    np.save(tmp_path / "b.npy", x)
    np.save(tmp_path / "c.npy", np.concatenate([x[1:], x[:1]]))
    changed = x.copy()
    changed[7, 2] = np.nextafter(changed[7, 2], np.float32(np.inf))
    np.save(tmp_path / "d.npy", changed)
    a, b, c, d = (load(tmp_path / f"{name}.npy").digest() for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3
    assert load(tmp_path / "a.npy", scaling="standardize").digest() == a
    assert Split.from_array(x).digest() == Split.from_array(torch.from_numpy(x)).digest()
    assert Split.from_array(x).digest() != Split.from_array(x.reshape(30, 2, 2)).digest()


# Resident on a device


@pytest.mark.parametrize(
    ("binarization", "scaling"),
    [*(("none", scaling) for scaling in SCALINGS), ("static", "none"), ("threshold", "none")],
)
def test_finished_numbers_on_a_device_are_those_of_the_split(binarization, scaling):
    split = load("digits", binarization=binarization, scaling=scaling).train
    resident = split.on_device(torch.device("cpu"))
    index = np.random.default_rng(0).permutation(len(split))[:50]
    batch = resident.batch(torch.from_numpy(index))
    assert torch.equal(batch, split.batch(index))
    assert batch.dtype == torch.float32
    assert len(resident) == len(split)
    assert split.resident_bytes() == 4 * len(split) * 64


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, ">i4", np.float64, np.float32])
def test_bits_are_drawn_anew_on_a_device_from_rows_as_they_are_stored(tmp_path, dtype):
    real = np.dtype(dtype).kind == "f"
    counts = np.stack([np.zeros(100), np.arange(100) % 11, np.full(100, 10)], axis=1)
    np.savez(tmp_path / "x.npz", x=(counts / 10 if real else counts).astype(dtype))
    split = load(tmp_path / "x.npz", binarization="dynamic").train
    resident = split.on_device(torch.device("cpu"))
    size = 8 if dtype is np.uint16 else np.dtype(dtype).itemsize  # few devices compare uint16
    assert split.resident_bytes() == 3 * len(split) * size
    index = torch.arange(len(split))
    torch.manual_seed(0)
    draws = torch.stack([resident.batch(index) for _ in range(2_000)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    rng = generator()
    host = torch.stack([split.batch(index.numpy(), rng) for _ in range(2_000)])
    p = (draws.mean(0) + host.mean(0)) / 2
    error = (2 * p * (1 - p) / 2_000).sqrt()
    assert_within(draws.mean(0), host.mean(0), error, 5)
    torch.manual_seed(0)
    assert torch.equal(resident.batch(index), draws[0])


# Names


def test_names_classes_and_ids_follow_the_rows(tmp_path: Path) -> None:
    schema = Schema((Column("a"), Column("b")), id_name="who")
    x = np.arange(60, dtype=np.float64).reshape(30, 2)
    rows = Rows(x, np.arange(30) % 2, ids=np.array([f"row {i}" for i in range(30)]))
    source = Source("mine", {"all": rows}, None, schema=schema, classes=("cat", "dog"))
    dataset = prepare(source)
    assert (dataset.schema, dataset.classes) == (schema, ("cat", "dog"))
    for split in parts(dataset):
        assert split.ids is not None
        assert split.ids.tolist() == [f"row {x:.0f}" for x in every_row(split)[:, 0] / 2]
    assert load("digits").schema is None
    assert load("digits").train.ids is None
