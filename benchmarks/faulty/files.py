"""Data files and folders of images, whole, damaged and hostile: read, or refused in one line."""

import gzip
import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from PIL import Image

from faulty.cases import Case, Verdict
from faulty.commands import TRAINED, Workshop
from faulty.lines import judged

__all__ = ["FILES", "data_files", "image_folders"]

Chance = random.Random


def header(shape: str, kind: str = "<f4", version: int = 1, order: str = "False") -> bytes:
    """The beginning of an .npy file."""
    text = f"{{'descr': {kind!r}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes((version, 0)) + struct.pack("<H", len(text)) + text


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""

    def chunk(name: bytes, contents: bytes) -> bytes:
        checked = name + contents
        return struct.pack(">I", len(contents)) + checked + struct.pack(">I", zlib.crc32(checked))

    about = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", about) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def array(chance: Chance) -> np.ndarray:
    r = np.random.default_rng(chance.randrange(2**32))
    x = r.normal(size=(chance.choice((1, 2, 30, 60, 60)), chance.choice((1, 2, 4))))
    kinds: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
        lambda x: x,
        lambda x: x.astype("f4"),
        lambda x: x.astype(">f8"),
        lambda x: (10 * x).astype("i8"),
        lambda x: x > 0,
        lambda x: x.astype("c8"),
        lambda x: x.astype("U5"),
        lambda x: x.astype("S5"),
        lambda x: x.astype("i8").astype("M8[s]"),
        lambda x: np.full_like(x, np.nan),
        lambda x: np.full_like(x, np.inf),
        lambda x: np.full_like(x, 3.0),
        lambda x: x * 1e300,
        lambda x: x * 1e-300,
        lambda x: x.astype("f2"),
        lambda x: x.astype(np.longdouble),
        lambda x: x[:0],
        lambda x: x[:, :0],
        lambda x: x.sum(),
        lambda x: x.reshape(-1),
        lambda x: np.tile(x, (1, 1, 1, 1, 2)),
        lambda x: np.asfortranarray(x),
        lambda x: x.astype([("a", "f4")]),
        lambda x: (x > 0) * np.uint64(2**64 - 1),
    )
    return np.asarray(chance.choice(kinds)(x))


def text(chance: Chance) -> str:
    names = chance.choice(
        ("a,b,c", "a,a,a", ",b,c", "1,2,3", "\x1b[31m,b,c", "<script>,b,c", "a" * 5000 + ",b,c", "")
    )
    cells = chance.choice(
        (
            *(
                ("1.5", "2", "3"),
                ("x", "y", "z"),
                ("", "1", "2"),
                ("nan", "1", "2"),
                ("inf", "1", "2"),
            ),
            *(("1e400", "1", "2"), ("1" * 400, "1", "2"), ("=1+1", "1", "2"), ("1,5", "1", "2")),
            *(
                ("2020-01-01", "1", "2"),
                ('"1', "2", "3"),
                ("1", "2"),
                ("1", "2", "3", "4"),
                ("\x00", "1", "1"),
            ),
            *(("-", "1", "2"), ("9" * 19, "1", "2"), ("true", "1", "2"), ("\u0663", "1", "2")),
        )
    )
    mixed = [",".join(cells if chance.random() < 0.5 else (f"{chance.gauss(0, 1):.3f}", "2", "3"))]
    mixed *= chance.choice((0, 2, 40, 40, 40))
    end = chance.choice(("\n", "\r\n", "\r"))
    separator = chance.choice((",", ",", ",", ";", "\t", " "))
    return end.join((names, *mixed, "")).replace(",", separator)


def csv(path: Path, chance: Chance) -> Path:
    encoding = chance.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "utf-32"))
    contents = (text(chance) + chance.choice(("", "\u00e9,1,2\n"))).encode(encoding, "replace")
    contents += chance.choice((b"", b"", b"\xff\xfe\xff", b"\x00" * 40))
    path = path.with_suffix(chance.choice((".csv", ".tsv", ".txt", ".CSV", ".csv.gz")))
    path.write_bytes(gzip.compress(contents) if path.suffix == ".gz" else contents)
    return path


def npy(path: Path, chance: Chance) -> Path:
    path = path.with_suffix(".npy")
    np.save(path, array(chance))
    return path


def lying(path: Path, chance: Chance) -> Path:
    path = path.with_suffix(".npy")
    shapes = ("(10**9, 10)", "(9999999999999, 4)", "(-1, 4)", "(3, -1)", "(2**62, 4)", "(4,)" * 9)
    shapes += (
        "(10, 4)",
        "(True, 4)",
        "4",
        "'a'",
        "(1.5, 2)",
        "()",
        "(0, 9999999999999)",
        "(" * 300,
    )
    shapes += ("(9223372036854775807, 2)", "(4611686018427387904, 4)", "None", "__import__('os')")
    kinds = ("<f4", "<f8", "|O", "<U99999999", "|V0", "<f3", "", "|b1", "<M8[x]")
    chosen = header(chance.choice(shapes), chance.choice(kinds), chance.choice((1, 1, 1, 2, 3, 9)))
    path.write_bytes(chosen + chance.randbytes(chance.choice((0, 10, 160))))
    return path


def npz(path: Path, chance: Chance) -> Path:
    path = path.with_suffix(".npz")
    names = (
        "x",
        "y",
        "x_train",
        "x_test",
        "x_validation",
        "../../x",
        "/tmp/x",
        "a" * 300,
        "_",
        "meta",
    )
    method = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(path, "w", method) as file:
        for name in chance.sample(names, chance.choice((0, 1, 2, 3))):
            contents = io.BytesIO()
            if chance.random() < 0.8:
                np.save(contents, array(chance))
            else:
                contents.write(chance.choice((b"", b"junk", header("(10**10,)"), b"\x93NUMPY\x01")))
            file.writestr(
                name + chance.choice((".npy", ".npy", ".npy", "", ".txt")), contents.getvalue()
            )
    return path


def parquet(path: Path, chance: Chance) -> Path:
    path = path.with_suffix(".parquet")
    rows = chance.choice((0, 1, 30, 30, 30))
    columns: tuple[Any, ...] = (
        *([1.5] * rows, [None] * rows, ["a"] * rows, [[1, 2]] * rows, [b"\x00"] * rows),
        *([True] * rows, [{"a": 1}] * rows, pandas.date_range("2020", periods=rows)),
        *([2**62] * rows, list(np.random.default_rng(0).normal(size=rows))),
    )
    chosen = chance.sample(columns, chance.choice((1, 2, 4)))
    frame = pandas.DataFrame({f"c{n}": column for n, column in enumerate(chosen)})
    frame.to_parquet(path)
    return path


class _Touch:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("was-run"),)


def foreign(path: Path, chance: Chance) -> Path:
    ending = chance.choice(
        (".csv", ".npy", ".npz", ".parquet", ".json", ".zip", ".pkl", ".pt", ".h5")
    )
    path = path.with_suffix(ending)
    contents = (
        *(b"", b"\x00" * 100, b"PK\x03\x04", b"PAR1" + bytes(40) + b"PAR1", b"\x93NUMPY", b"{}"),
        *(json.dumps([[1, 2]] * 30).encode(), png_that_claims(9, 9), b"<html></html>", b"%PDF-1.4"),
        *(pickle.dumps(_Touch()), chance.randbytes(200), struct.pack("<Q", 2**62) + b"{}"),
        *(b"[" * 100_000, gzip.compress(bytes(10**6)), b"\x1b[31m" * 20),
    )
    path.write_bytes(chance.choice(contents))
    return path


def special(path: Path, chance: Chance) -> Path:
    path = path.with_suffix(chance.choice((".csv", ".npy", ".npz", ".parquet")))
    kind = chance.randrange(6)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to(path.name)
    elif kind == 2:
        path.symlink_to("nowhere")
    elif kind == 3:
        path.mkdir()
    elif kind == 4:
        path.symlink_to(
            chance.choice(("/dev/zero", "/dev/null", "/dev/full", "/proc/self/environ"))
        )
    else:
        path = path.with_name("a\x1b]0;title\x07" + path.name)
        path.write_text(text(chance))
    return path


def broken(path: Path, chance: Chance) -> Path:
    """A whole file of some kind, shortened or changed."""
    path = chance.choice((csv, npy, npz, parquet))(path, chance)
    contents = bytearray(path.read_bytes())
    if contents and chance.random() < 0.5:
        for _ in range(chance.choice((1, 3, 20))):
            contents[chance.randrange(len(contents))] = chance.randrange(256)
    else:
        del contents[chance.randrange(len(contents) + 1) :]
    path.write_bytes(contents)
    return path


FILES = (csv, csv, npy, lying, npz, parquet, foreign, special, broken, broken)


def data_files(shop: Workshop, count: int) -> Iterator[Case]:
    """Files of all kinds, trained on or scored."""
    for number in range(count):
        kind = FILES[number % len(FILES)]
        yield Case(f"{number}: {kind.__name__}", _read(shop, kind, number))


def _read(shop: Workshop, kind: Callable[[Path, Chance], Path], number: int) -> Any:
    def run() -> Verdict:
        chance = Chance(f"{kind.__name__} {number}")
        with shop.copy("run", "table") as place:
            data = kind(place / "data", chance).name
            fit = ("fit", "--data", data, *TRAINED, "--epochs", "1", "--out", "new")
            score = ("score", chance.choice(("run", "table")), "--data", data, "--samples", "2")
            line = fit if number // len(FILES) % 2 == 0 else (*score, "--out", "scores.csv")
            found, wrong = judged(line, place)
            if (place / "was-run").exists():
                wrong.append("code in the file was run")
        word = f"status {found.status}" if found.in_time else "interrupted after its time"
        return Verdict(word, [*wrong, f"{data}: {found.err.strip()[-300:]}"] if wrong else [])

    return run


def picture(chance: Chance, path: Path) -> None:
    """One file of a folder of images."""
    size = chance.choice(((8, 8),) * 40 + ((1, 1), (9, 5)))
    pixels = np.random.default_rng(chance.randrange(2**32)).integers(0, 256, (*size, 3), np.uint8)
    image = Image.fromarray(pixels)
    kind = chance.randrange(4, 14) if chance.random() < 0.2 else 0
    if kind < 4:
        image.convert(chance.choice(("L",) * 20 + ("RGB", "P", "RGBA", "1", "LA"))).save(path)
    elif kind == 4:
        image.convert("CMYK").save(path.with_suffix(".jpg"))
    elif kind == 5:
        image.save(path.with_suffix(".gif"), save_all=True, append_images=[image, image])
    elif kind == 6:
        path.write_bytes(b"")
    elif kind == 7:
        path.write_bytes(
            png_that_claims(*chance.choice(((60_000, 60_000), (2**31 - 1, 1), (0, 0))))
        )
    elif kind == 8:
        image.save(path)
        path.write_bytes(path.read_bytes()[: chance.randrange(8, 90)])
    elif kind == 9:
        path.write_text("<svg onload='alert(1)'/>")
    elif kind == 10:
        path.symlink_to(chance.choice((path.name, "/etc/passwd", "/dev/zero", "nowhere")))
    elif kind == 11:
        os.mkfifo(path)
    elif kind == 12:
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(path)
    else:
        image.convert("L").save(path.with_name("\x1b[31m" + path.name))


def folder(place: Path, chance: Chance) -> None:
    """A folder of images: classes or none, splits or none, whole files and others."""
    classes = chance.choice(((), ("a",), ("a", "b"), ("a", "\x1b[31mb"), ("<b>", "..b")))
    splits = chance.choice(((), (), ("train", "test"), ("train", "val", "test"), ("test",)))
    whole = chance.random() < 0.5
    inner = [place / part for part in splits] or [place]
    places = [each / name for each in inner for name in classes] or inner
    for each in places:
        each.mkdir(parents=True, exist_ok=True)
        for number in range(chance.choice((1, 6, 20, 20))):
            path = each / f"{number:02}.png"
            if whole and number:
                Image.fromarray(np.full((8, 8), number, np.uint8)).save(path)
            else:
                picture(chance, path)
    if chance.random() < 0.2:
        (place / "notes.txt").write_text("not a picture")
    if chance.random() < 0.1:
        (place / "loop").symlink_to(".")


def image_folders(shop: Workshop, count: int) -> Iterator[Case]:
    """Folders of images, trained on."""
    for number in range(count):
        yield Case(f"{number}: folder", _train(shop, number))


def _train(shop: Workshop, number: int) -> Callable[[], Verdict]:
    def run() -> Verdict:
        chance = Chance(f"folder {number}")
        with shop.copy("run") as place:
            (place / "pictures").mkdir()
            folder(place / "pictures", chance)
            resized = ("--image-size", "8") if chance.random() < 0.4 else ()
            line = (
                "fit",
                "--data",
                "pictures",
                *TRAINED,
                *resized,
                "--epochs",
                "1",
                "--out",
                "new",
            )
            found, wrong = judged(line, place)
        word = f"status {found.status}" if found.in_time else "interrupted after its time"
        return Verdict(word, [*wrong, found.err.strip()[-300:]] if wrong else [])

    return run
