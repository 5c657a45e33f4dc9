"""Files are read as they are, and what cannot be used is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pyrovae._process.optional_imports import import_for
from pyrovae.data import (
    READERS,
    Rows,
    Source,
    Split,
    for_array,
    gaps_of_mask,
    load_all,
    prepare,
    read_path,
)
from pyrovae.data.readers import NPZ_LAYOUTS
from pyrovae.data.treatment import moments_of, statistics_of

RNG = np.random.default_rng(3)
GREY = RNG.integers(0, 256, (12, 5, 6), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (12, 5, 6, 3), dtype=np.uint8)


def read_saved(tmp_path: Path, x: object) -> Source:
    path = tmp_path / "x.npy"
    np.save(path, np.asarray(x))
    return read_path(path)


def save_images(folder: Path, images: np.ndarray, suffix: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{i:03}.{suffix}")


def is_memory_mapped(x: np.ndarray | None) -> bool:
    while x is not None:
        if isinstance(x, np.memmap):
            return True
        x = x.base if isinstance(x.base, np.ndarray) else None
    return False


# Arrays


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((12, 7), (7,)),
        ((12, 5, 6), (1, 5, 6)),
        ((12, 1, 5, 6), (1, 5, 6)),
        ((12, 3, 5, 6), (3, 5, 6)),
        ((12, 5, 6, 1), (1, 5, 6)),
        ((12, 5, 6, 3), (3, 5, 6)),
        ((12, 2, 5, 6), (2, 5, 6)),
        ((12, 4, 4, 2), (2, 4, 4)),
        ((12, 64, 7, 7), (64, 7, 7)),
        ((12, 6, 5, 4), (4, 6, 5)),
    ],
)
def test_layouts_become_tables_or_channels_first(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    x = RNG.integers(0, 256, shape, dtype=np.uint8)
    rows = read_saved(tmp_path, x).parts["all"]
    assert rows.x.shape[1:] == expected
    assert rows.x.dtype == np.uint8
    assert is_memory_mapped(rows.x)
    last = len(shape) == 4 and shape[1:] != expected
    assert (rows.x.reshape(12, -1) == (np.moveaxis(x, 3, 1) if last else x).reshape(12, -1)).all()


@pytest.mark.parametrize(
    ("x", "maximum", "unit_interval"),
    [
        (np.eye(12, dtype=bool), 1, False),
        (np.eye(12, dtype=np.uint8), 1, False),
        (np.eye(12, dtype=np.uint8) * 2, 255, False),
        (np.eye(12, dtype=np.int64) * 40, 40, False),
        (np.zeros((12, 2), np.int16), 1, False),
        (-np.eye(12, dtype=np.int8), None, False),
        (np.eye(12), 1, True),
        (np.eye(12, dtype=np.float16) / 2, None, True),
        (np.eye(12, dtype=">f4") * 1.5, None, False),
    ],
)
def test_maximum_follows_from_type_and_values(
    tmp_path: Path, x: np.ndarray, maximum: int | None, unit_interval: bool
) -> None:
    source = read_saved(tmp_path, x)
    assert (source.maximum, source.unit_interval) == (maximum, unit_interval)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((12, 6, 4, 5)), r"\(6, 4, 5\), whose channels could be .*flatten the rows"),
        (np.zeros((12, 4, 4, 4)), r"could be the first axis or the last"),
        (np.zeros((12, 3, 5, 1)), r"could be .*\(N, H, W\)"),
        (np.zeros(12), r"shape \(12,\); allowed are \(N, D\)"),
        (np.float64(1), r"shape \(\); allowed"),
        (np.zeros((12, 0)), r"empty \(shape \(12, 0\)\)"),
        (np.zeros((0, 3)), r"empty \(shape \(0, 3\)\)"),
        (np.zeros((2, 2), complex), "holds complex128; data must be bool, integers or floats"),
        (np.full((2, 2), "a"), "holds <U1; data must be"),
    ],
)
def test_arrays_in_no_layout_are_refused(tmp_path: Path, x: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_saved(tmp_path, x)


@pytest.mark.parametrize("value", [-np.inf, np.inf, 1e300])
def test_the_first_value_that_float32_cannot_hold_is_located(
    tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyrovae.data.sources.CHUNK_VALUES", 12)
    x = np.zeros((12, 4), np.float64 if value == 1e300 else np.float16)
    x[1, 1] = np.nan
    x[7, 2] = x[9, 0] = value
    with pytest.raises(ValueError, match=r"\[7, 2\] is .* must be finite float32"):
        read_saved(tmp_path, x)


def test_object_arrays_are_refused_without_unpickling(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.array([{}, []], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"x\.npy cannot be read .*save numbers"):
        read_path(path)


def test_a_damaged_npy_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"x\.npy cannot be read"):
        read_path(path)


def test_unknown_suffix_lists_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    path.touch()
    with pytest.raises(ValueError, match=r"'\.mat'; known are .*" + ", ".join(READERS)):
        read_path(path)


def test_image_size_is_refused_for_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, GREY)
    with pytest.raises(TypeError, match="image_size is for a folder of images"):
        read_path(path, 8)


# .npz


def test_npz_of_one_array_needs_no_particular_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", faces=GREY)
    rows = read_path(tmp_path / "x.npz").parts["all"]
    assert (rows.x[:, 0] == GREY).all()
    assert rows.labels is None


@pytest.mark.parametrize("layout", NPZ_LAYOUTS)
@pytest.mark.parametrize("labelled", [True, False])
def test_npz_keys_name_parts_and_labels(
    tmp_path: Path, layout: dict[str, tuple[str, str]], labelled: bool
) -> None:
    arrays: dict[str, Any] = {}
    for i, (x, y) in enumerate(layout.values()):
        arrays[x] = GREY[i:]
        if labelled:
            arrays[y] = np.arange(len(GREY) - i, dtype=np.float32)[:, None]
    if list(arrays) == ["x"]:
        arrays = {"x": GREY}
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    parts = read_path(tmp_path / "x.npz").parts
    assert list(parts) == list(layout)
    for i, rows in enumerate(parts.values()):
        assert (rows.x[:, 0] == GREY[i:]).all()
        if labelled:
            assert rows.labels is not None
            assert rows.labels.dtype == np.int64
            assert rows.labels.tolist() == list(range(len(GREY) - i))
        else:
            assert rows.labels is None


@pytest.mark.parametrize("keys", [("a", "b"), ("x", "z"), ("train", "validation"), ("x", "train")])
def test_npz_with_other_keys_lists_found_and_allowed(tmp_path: Path, keys: list[str]) -> None:
    arrays: dict[str, Any] = dict.fromkeys(keys, GREY)
    np.savez(tmp_path / "x.npz", **arrays)
    found = ", ".join(sorted(keys))
    with pytest.raises(ValueError, match=rf"holds the arrays {found}; allowed are .*x_train"):
        read_path(tmp_path / "x.npz")


def test_npz_parts_must_be_alike(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_train=GREY, x_test=GREY / 255)
    with pytest.raises(ValueError, match=r"test holds float64 .* save all parts alike"):
        read_path(tmp_path / "x.npz")


@pytest.mark.parametrize("labels", [np.zeros(11), np.zeros((12, 10)), np.full(12, 0.5)])
def test_labels_must_be_one_integer_per_row(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "x.npz", x=GREY, y=labels)
    with pytest.raises(ValueError, match=r"labels are float64 .* one integer per row, \(12,\)"):
        read_path(tmp_path / "x.npz")


def test_an_npz_that_is_no_archive_or_holds_objects_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"x\.npz cannot be read .*not a zip"):
        read_path(path)
    np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"x\.npz: x \(Object arrays .*nothing else can"):
        read_path(path)


def test_object_arrays_beside_numbers_are_named_and_the_numbers_too(tmp_path: Path) -> None:
    """As in dSprites."""
    path = tmp_path / "x.npz"
    metadata = np.array({"author": "somebody"}, dtype=object)
    np.savez(path, imgs=GREY, classes=np.arange(12), metadata=metadata)
    with pytest.raises(ValueError, match=r"metadata \(Object arrays .* keep imgs and classes with"):
        read_path(path)
    np.savez(path, x=GREY, y=np.full(12, "cat", dtype=object))
    with pytest.raises(ValueError, match=r"y \(Object .* keep x with .*x=file\['x'\]\)$"):
        read_path(path)


# Missing values


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ">f8"])
def test_nan_is_a_missing_value(tmp_path: Path, dtype: str) -> None:
    x = RNG.random((12, 4)).astype(dtype)
    x[3, 1] = x[5] = np.nan
    source = read_saved(tmp_path, x)
    assert source.gaps
    assert source.unit_interval
    assert is_memory_mapped(source.parts["all"].x)
    assert np.array_equal(source.parts["all"].x, x, equal_nan=True)
    bits = np.where(x > 0.5, 1.0, 0.0)
    bits[np.isnan(x)] = np.nan
    assert read_saved(tmp_path, bits).maximum == 1
    assert not read_saved(tmp_path, np.nan_to_num(x)).gaps


def test_missing_values_of_npz_may_be_in_any_part(tmp_path: Path) -> None:
    x = RNG.normal(size=(12, 4))
    gaps = np.where(x > 1, np.nan, x)
    np.savez(tmp_path / "x.npz", x_train=x, x_test=gaps)
    source = read_path(tmp_path / "x.npz")
    assert source.gaps
    assert all(split.gaps for split in (prepare(source).train, prepare(source).test))
    np.savez(tmp_path / "x.npz", x_train=x, x_test=np.full((2, 4), np.nan))
    with pytest.raises(ValueError, match=r"test holds no value, since all are missing"):
        read_path(tmp_path / "x.npz")


def test_a_column_without_a_value_is_refused_in_training_only(tmp_path: Path) -> None:
    x = RNG.normal(size=(12, 4))
    x[:, 2] = np.nan
    source = read_saved(tmp_path, x)
    with pytest.raises(ValueError, match=r"column 2 \(counting from 0\) holds no value"):
        prepare(source)
    assert load_all(tmp_path / "x.npy").gaps


def test_missing_values_have_no_bits_of_their_own_at_each_visit(tmp_path: Path) -> None:
    x = RNG.random((12, 4))
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"'dynamic' needs all values, and some of x\.npy"):
        prepare(read_saved(tmp_path, x), binarization="dynamic")


@pytest.mark.parametrize("binarization", ["static", "threshold"])
def test_bits_of_what_is_observed_are_drawn_and_the_rest_stays_missing(
    tmp_path: Path, binarization: str
) -> None:
    x = RNG.random((400, 6)).round()
    x[RNG.random(x.shape) < 0.3] = np.nan
    dataset = prepare(read_saved(tmp_path, x), binarization=binarization)
    for part in (dataset.train, dataset.validation, dataset.test):
        bits = part.batch(np.arange(len(part))).numpy()
        assert part.gaps
        assert 0.2 < np.isnan(bits).mean() < 0.4
        assert set(np.unique(bits[~np.isnan(bits)])) == {0.0, 1.0}
    every = load_all(tmp_path / "x.npy", binarization=binarization, maximum=1)
    assert np.array_equal(every.batch(np.arange(400)).numpy(), x, equal_nan=True)


def test_masked_entries_are_missing_values() -> None:
    x = np.ma.masked_less([[1.0, -999.0], [2.0, 3.0]], -900)
    split = Split.from_array(x)
    assert split.gaps
    expected = [[1.0, np.nan], [2.0, 3.0]]
    assert np.array_equal(split.batch(np.arange(2)).numpy(), expected, equal_nan=True)
    whole = gaps_of_mask(np.ma.masked_equal([[7, 1]], 7))
    assert np.array_equal(whole, [[np.nan, 1.0]], equal_nan=True)
    assert type(gaps_of_mask(np.ma.array([[7, 1]]))) is np.ndarray


def test_statistics_are_of_the_observed_values() -> None:
    x = RNG.normal(size=(40, 3)) + 1e6
    x[:, 1] = 0.1
    x[0] = x[::7, 0] = np.nan
    source = Source("mine", {"all": Rows(x)}, None, gaps=True)
    statistics = statistics_of(*moments_of(source.parts["all"], np.arange(40)))
    assert np.allclose(statistics["loc"], np.nanmean(x, 0), rtol=1e-13)
    assert np.allclose(statistics["scale"][[0, 2]], np.nanstd(x[:, [0, 2]], 0), rtol=1e-9)
    assert statistics["scale"][1] == 1


# Folders


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_grey_images_are_read_in_the_order_of_their_names(tmp_path: Path, suffix: str) -> None:
    save_images(tmp_path, GREY, suffix)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not an image")
    source = read_path(tmp_path)
    rows = source.parts["all"]
    assert rows.x.shape == (12, 1, 5, 6)
    assert rows.labels is None
    assert source.maximum == 255
    assert (rows.x[:, 0] == GREY).all()


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_formats_are_read(tmp_path: Path, suffix: str) -> None:
    save_images(tmp_path, np.full((10, 8, 8, 3), 100, np.uint8), suffix)
    assert np.abs(read_path(tmp_path).parts["all"].x.astype(int) - 100).max() <= 3


def test_colour_images_are_channels_first_and_sub_folders_are_labels(tmp_path: Path) -> None:
    save_images(tmp_path / "b", COLOUR[:4])
    save_images(tmp_path / "a" / "deeper", COLOUR[4:])
    rows = read_path(tmp_path).parts["all"]
    assert rows.labels is not None
    assert rows.labels.tolist() == [0] * 8 + [1] * 4
    assert (rows.x == np.moveaxis(np.concatenate([COLOUR[4:], COLOUR[:4]]), 3, 1)).all()


def test_gray_palettes_are_gray_unless_an_image_is_in_color(tmp_path: Path) -> None:
    for i, pixels in enumerate(GREY):
        Image.fromarray(pixels).convert("P").save(tmp_path / f"{i:03}.png")
    x = read_path(tmp_path).parts["all"].x
    assert x.shape == (12, 1, 5, 6)
    assert (x[:, 0] == GREY).all()
    Image.fromarray(GREY[0]).save(tmp_path / "012.png")  # beside one without a palette
    assert read_path(tmp_path).parts["all"].x.shape == (13, 1, 5, 6)
    (tmp_path / "012.png").unlink()
    Image.fromarray(COLOUR[0]).quantize(4).save(tmp_path / "013.png")
    x = read_path(tmp_path).parts["all"].x
    assert x.shape == (13, 3, 5, 6)
    assert (x[:12] == GREY[:, None]).all()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_kept(tmp_path: Path, suffix: str) -> None:
    images = RNG.integers(0, 1 << 16, (3, 5, 6), dtype=np.uint16)
    save_images(tmp_path, images, suffix)
    source = read_path(tmp_path)
    x = source.parts["all"].x
    assert x.dtype == np.uint16
    assert (x[:, 0] == images).all()
    assert source.maximum == images.max()
    small = read_path(tmp_path, 2).parts["all"].x
    assert small.dtype == np.uint16
    assert small.max() > 255
    Image.fromarray(np.full((5, 6), 1 << 16, np.int32)).save(tmp_path / "more.tiff")
    with pytest.raises(ValueError, match=r"more\.tiff holds values .* from 0 to 65535"):
        read_path(tmp_path)


def test_eight_beside_sixteen_bits_names_both_files(tmp_path: Path) -> None:
    save_images(tmp_path, GREY)
    Image.fromarray(np.full((5, 6), 1000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png is gray of 16 bits and .*000\.png is gray;"):
        read_path(tmp_path)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_images_of_two_values_are_black_and_white(tmp_path: Path, mode: str) -> None:
    bits = RNG.integers(0, 2, (12, 8, 8)).astype(np.uint8)
    for i, pixels in enumerate(255 * bits):
        Image.fromarray(pixels).convert(mode).save(tmp_path / f"{i:03}.png")
    source = read_path(tmp_path)
    assert (source.maximum, source.black_and_white) == (255, True)
    assert (source.parts["all"].x[:, 0] == 255 * bits).all()
    recipe = for_array(source.maximum, False, (1, 8, 8), 12, black_and_white=True)
    dataset = prepare(source, binarization=recipe.binarization, scaling=recipe.scaling)
    assert set(np.unique(dataset.train.batch(np.arange(5)).numpy())) == {0.0, 1.0}


@pytest.mark.parametrize("x", [GREY, np.zeros_like(GREY), np.full_like(GREY, 255), GREY % 2])
def test_other_bytes_are_not_black_and_white(tmp_path: Path, x: np.ndarray) -> None:
    assert not read_saved(tmp_path, x).black_and_white


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "valid", "TEST")])
@pytest.mark.parametrize("classes", [("a", "b"), ("",)])
def test_a_folder_of_splits_keeps_them(
    tmp_path: Path, names: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    for i, name in enumerate(names):
        for j, each in enumerate(classes):
            save_images(tmp_path / name / each, np.full((3 + i, 4, 4), 10 * i + j, np.uint8))
    source = read_path(tmp_path)
    assert list(source.parts) == ["train", "validation", "test"]
    assert source.classes == (("a", "b") if len(classes) == 2 else None)
    for i, rows in enumerate(source.parts.values()):
        assert len(rows.x) == (3 + i) * len(classes)
        assert (rows.x // 10 == i).all()
        if len(classes) == 2:
            assert rows.labels is not None
            assert (rows.labels == rows.x[:, 0, 0, 0] % 10).all()
        else:
            assert rows.labels is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "test"), ["train", "test"]),
        (("train", "val"), ["train", "test"]),
        (("train",), ["all"]),
        (("train", "bus"), ["all"]),
        (("val", "test"), ["all"]),
    ],
)
def test_which_sub_folders_are_splits(
    tmp_path: Path, names: tuple[str, ...], expected: list[str]
) -> None:
    for name in names:
        save_images(tmp_path / name / "inner", GREY[:3])
    source = read_path(tmp_path)
    assert list(source.parts) == expected
    assert source.classes == (tuple(sorted(names)) if expected == ["all"] else ("inner",))


def test_two_names_of_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train", "val", "valid"):
        save_images(tmp_path / name, GREY[:3])
    with pytest.raises(ValueError, match="train, val, valid, of which two are the same split"):
        read_path(tmp_path)


def test_alpha_is_dropped_and_a_palette_is_colour(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 4), 7, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    palette = Image.fromarray(pixels[..., :3]).quantize(4)
    palette.save(tmp_path / "b.png", transparency=b"\x00\x01")
    palette.save(tmp_path / "c.gif")
    x = read_path(tmp_path).parts["all"].x
    assert x.shape == (3, 3, 4, 4)
    assert (x == 7).all()


def test_images_of_two_sizes_name_two_files_and_the_remedy(tmp_path: Path) -> None:
    save_images(tmp_path, GREY)
    Image.fromarray(GREY[0, :4, :4]).save(tmp_path / "odd.png")
    with pytest.raises(ValueError, match=r"000\.png is 6x5 and .*odd\.png is 4x4; give image_size"):
        read_path(tmp_path)
    assert read_path(tmp_path, 4).parts["all"].x.shape == (13, 1, 4, 4)


@pytest.mark.parametrize(("image_size", "sides"), [(4, (4, 4)), ((3, 5), (3, 5))])
def test_resizing_keeps_a_constant_image(
    tmp_path: Path, image_size: int | tuple[int, int], sides: tuple[int, int]
) -> None:
    save_images(tmp_path, np.full((2, 9, 7, 3), 31, np.uint8))
    x = read_path(tmp_path, image_size).parts["all"].x
    assert x.shape == (2, 3, *sides)
    assert (x == 31).all()


@pytest.mark.parametrize("image_size", [0, -3, 2.5, (4,), (4, 0), (2, 3, 4), "4"])
def test_image_size_must_be_one_or_two_positive_integers(tmp_path: Path, image_size: Any) -> None:
    save_images(tmp_path, GREY)
    with pytest.raises(ValueError, match=r"image_size must be a positive integer, .* a height and"):
        read_path(tmp_path, image_size)


def test_grey_beside_colour_names_both_files(tmp_path: Path) -> None:
    save_images(tmp_path, GREY)
    Image.fromarray(COLOUR[0]).save(tmp_path / "odd.png")
    with pytest.raises(ValueError, match=r"000\.png is gray and .*odd\.png is in color"):
        read_path(tmp_path)


@pytest.mark.parametrize("cut", [5, 60])
def test_an_unreadable_image_is_named(tmp_path: Path, cut: int) -> None:
    save_images(tmp_path, GREY)
    path = tmp_path / "004.png"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"004\.png cannot be read"):
        read_path(tmp_path)


def test_images_beside_sub_folders_are_refused(tmp_path: Path) -> None:
    save_images(tmp_path / "a", GREY)
    Image.fromarray(GREY[0]).save(tmp_path / "stray.png")
    with pytest.raises(ValueError, match=r"stray\.png lies beside sub-folders"):
        read_path(tmp_path)


def test_a_folder_without_images_says_what_it_may_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no images in .*\.png.*sub-folder per class"):
        read_path(tmp_path)


def test_a_missing_package_is_named_with_its_command() -> None:
    with pytest.raises(ImportError, match=r"reading x needs nowhere, .*; pip install nowhere"):
        import_for("nowhere_to_be_found", "nowhere", "reading x")
