"""Files are read as they are, and what cannot be used is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pyrovae._process.optional_imports import import_for
from pyrovae.data import READERS, Source, read_path
from pyrovae.data.readers import NPZ_LAYOUTS

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
    last = len(shape) == 4 and shape[3] in (1, 3)
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
        (np.zeros((12, 4, 4, 2)), r"neither could be.*flatten the rows"),
        (np.zeros((12, 3, 5, 1)), r"both could be.*\(N, H, W\)"),
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


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_the_first_value_that_float32_cannot_hold_is_located(
    tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyrovae.data.sources.CHUNK_VALUES", 12)
    x = np.zeros((12, 4), np.float64 if value == 1e300 else np.float16)
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
    with pytest.raises(ValueError, match=r"x\.npz cannot be read .*numpy\.savez"):
        read_path(path)


# .csv


@pytest.mark.parametrize("header", ["", "\ufeffheight,weight\n", '\n"a","b, c"\n'])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_csv_reads_numbers_under_an_optional_header(tmp_path: Path, header: str, end: str) -> None:
    path = tmp_path / "x.csv"
    text = header + "".join(f"{i}.5, {-i}{end}" for i in range(12))
    path.write_bytes(text.encode())
    x = read_path(path).parts["all"].x
    assert (x == [[i + 0.5, -i] for i in range(12)]).all()
    assert x.dtype == np.float64


def test_csv_of_whole_numbers_is_integer(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    np.savetxt(path, np.arange(24).reshape(12, 2), fmt="%d", delimiter=",")
    source = read_path(path)
    assert source.parts["all"].x.dtype == np.int64
    assert source.maximum == 23


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,x\n", r"line 3, column 2 \(b\) holds 'x'"),
        ("1,2\n3,\n", r"line 2, column 2 holds ''"),
        ("1,2\n3,nan\n", r"line 2, column 2 holds 'nan'"),
        ("a,b\n1,2\n\n3\n", r"line 4 has 1 cells, not 2"),
        ("1,x\n3,4\n", r"line 1, column 2 holds 'x'"),
        ("1;2\n3;4\n", r"line 2, column 1 \(1;2\) holds '3;4'.*comma"),
        ("a,b\n", "is empty"),
        ("", "is empty"),
    ],
)
def test_csv_errors_say_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_path(path)


def test_csv_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match=r"x\.csv is not a text file"):
        read_path(path)


# .parquet


def test_parquet_reads_numeric_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": range(12), "b": np.linspace(-1, 1, 12)}), path)
    x = read_path(path).parts["all"].x
    assert (x == np.column_stack([np.arange(12), np.linspace(-1, 1, 12)])).all()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1, 2], "who": ["x", "y"]}, r"who \(string\): not numeric"),
        ({"a": [1, 2], "b": [0.5, None]}, r"row 1 .* of column b is missing"),
        ({"a": pa.array([], pa.int64())}, "is empty"),
    ],
)
def test_parquet_errors_name_the_column(
    tmp_path: Path, columns: dict[str, object], message: str
) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(ValueError, match=message):
        read_path(path)


def test_a_damaged_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"hello, this is no parquet")
    with pytest.raises(ValueError, match=r"x\.parquet cannot be read as parquet"):
        read_path(path)


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


def test_resizing_keeps_a_constant_image(tmp_path: Path) -> None:
    save_images(tmp_path, np.full((2, 9, 7, 3), 31, np.uint8))
    x = read_path(tmp_path, 4).parts["all"].x
    assert x.shape == (2, 3, 4, 4)
    assert (x == 31).all()


@pytest.mark.parametrize("image_size", [0, -3, 2.5])
def test_image_size_must_be_a_positive_integer(tmp_path: Path, image_size: int) -> None:
    save_images(tmp_path, GREY)
    with pytest.raises(ValueError, match="image_size must be a positive integer"):
        read_path(tmp_path, image_size)


def test_grey_beside_colour_names_both_files(tmp_path: Path) -> None:
    save_images(tmp_path, GREY)
    Image.fromarray(COLOUR[0]).save(tmp_path / "odd.png")
    with pytest.raises(ValueError, match=r"000\.png is gray and .*odd\.png is in color"):
        read_path(tmp_path)


def test_more_than_eight_bits_a_channel_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png has the mode I;16, allowed are"):
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
