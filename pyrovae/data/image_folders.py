"""Folders of images, with sub-folders as classes, or as splits that hold the classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyrovae._process.memory import check_memory
from pyrovae._process.optional_imports import import_for
from pyrovae.data.sources import Rows, Source, describe

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")

GRAY, DEEP, PALETTE, COLOR = "gray", "gray of 16 bits", "palette", "color"

IMAGE_MODES: Mapping[str, str] = {
    "1": GRAY,
    "L": GRAY,
    "LA": GRAY,
    "I;16": DEEP,
    "I;16B": DEEP,
    "I;16L": DEEP,
    "I": DEEP,
    "P": PALETTE,
    "PA": PALETTE,
    "RGB": COLOR,
    "RGBA": COLOR,
    "YCbCr": COLOR,
    "CMYK": COLOR,
}
"""Modes of image files, and what each is read as. Alpha is dropped.

Images with a palette are read as gray if all images of the folder are gray, otherwise as color.
"""

SPLITS: Mapping[str, str] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""Names of sub-folders that are splits, and the parts that they become."""


@dataclass(frozen=True)
class Picture:
    """What is known of an image file before its pixels are read."""

    path: Path
    mode: str
    height: int
    width: int


def read_folder(folder: Path, image_size: int | str | tuple[int, int] | None) -> Source:
    """Read a folder of images, in the order of their sorted paths.

    Sub-folders are classes. If all sub-folders have names of `SPLITS`, among them ``train`` and
    another, they are the splits, and the sub-folders in these are the classes. Without ``test``,
    the images of ``val`` are the test set.
    """
    size = _checked_size(image_size)
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not paths:
        raise ValueError(
            f"no images in {folder}; it must hold {', '.join(IMAGE_SUFFIXES)} files, directly or "
            "in one sub-folder per class"
        )
    parts = _parts(folder, paths)
    names = {path: _class_of(path, top) for top, found in parts.values() for path in found}
    classes = tuple(sorted({name for name in names.values() if name is not None}))
    pictures = {path: _look(folder, path) for path in paths}
    read_as = _common_mode(folder, list(pictures.values()))
    if size is None:
        _check_sizes(list(pictures.values()))
    rows: dict[str, Rows] = {}
    for part, (top, found) in parts.items():
        _check_depth(top, found, names)
        x = _pixels(folder, [pictures[path] for path in found], read_as, size)
        labels = [classes.index(name) for path in found if (name := names[path]) is not None]
        rows[part] = Rows(x, np.array(labels, np.int64) if labels else None)
    return describe(str(folder), rows, classes=classes or None)


def _checked_size(image_size: int | str | tuple[int, int] | None) -> tuple[int, int] | None:
    """The height and width to which images are resized."""
    if image_size is None:
        return None
    if isinstance(image_size, str):
        written = image_size.lower().split("x")
        whole = len(written) == 2 and all(side.strip().isdecimal() for side in written)
        image_size = (int(written[0]), int(written[1])) if whole else (0, 0)
    sides = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if len(sides) != 2 or any(not isinstance(side, int) or side < 1 for side in sides):
        raise ValueError(
            "image_size must be a positive integer, e.g. 32, or a height and a width, e.g. "
            "(32, 48) or 32x48"
        )
    return sides[0], sides[1]


def _parts(folder: Path, paths: Sequence[Path]) -> dict[str, tuple[Path, list[Path]]]:
    """The folder that holds the classes of each part, and the images in it."""
    tops = {path: path.relative_to(folder).parts[:-1][:1] for path in paths}
    found = {top[0] if top else "" for top in tops.values()}
    splits = {name: SPLITS.get(name.lower()) for name in found}
    if None in splits.values() or "train" not in splits.values() or len(found) < 2:
        return {"all": (folder, list(paths))}
    if len(set(splits.values())) < len(found):
        raise ValueError(
            f"{folder} has the sub-folders {', '.join(sorted(found))}, of which two are the same "
            "split; join them, or give the folder of one split"
        )
    if "test" not in splits.values():
        splits = {name: "test" if part == "validation" else part for name, part in splits.items()}
    parts = {
        str(part): (folder / name, [path for path in paths if tops[path] == (name,)])
        for name, part in splits.items()
    }
    return {part: parts[part] for part in ("train", "validation", "test") if part in parts}


def _class_of(path: Path, top: Path) -> str | None:
    """The sub-folder of ``top`` that an image is in; None if it is directly in ``top``."""
    inner = path.relative_to(top).parts
    return inner[0] if len(inner) > 1 else None


def _check_depth(top: Path, paths: Sequence[Path], names: Mapping[Path, str | None]) -> None:
    """Refuse images beside sub-folders of images."""
    stray = [path for path in paths if names[path] is None]
    if stray and len(stray) < len(paths):
        raise ValueError(
            f"{stray[0]} lies beside sub-folders with images; put every image in a sub-folder of "
            f"{top} (its class), or all of them directly in it"
        )


def _image(folder: Path) -> Any:
    return import_for("PIL.Image", "pillow", f"reading the images in {folder}")


def _look(folder: Path, path: Path) -> Picture:
    """Read the mode and the size of an image, without its pixels."""
    image = _image(folder)
    try:
        with image.open(path) as file:
            mode, (width, height) = file.mode, file.size
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read ({error}); repair or remove it") from error
    if mode not in IMAGE_MODES:
        raise ValueError(
            f"{path} has the mode {mode}, allowed are {', '.join(IMAGE_MODES)}: convert it, or "
            "save the images as one .npy array"
        )
    return Picture(path, IMAGE_MODES[mode], height, width)


def _common_mode(folder: Path, pictures: Sequence[Picture]) -> str:
    """Choose what all images are read as: gray, gray of 16 bits, or color."""
    first = {picture.mode: picture for picture in reversed(pictures)}
    palettes = [picture for picture in pictures if picture.mode == PALETTE]
    if len(palettes) == len(pictures) or (palettes and COLOR not in first):
        colored = next((each for each in palettes if not _is_gray(folder, each.path)), None)
        first[GRAY if colored is None else COLOR] = colored or palettes[0]
    modes = [mode for mode in first if mode != PALETTE]
    if len(modes) > 1:
        one, other = (f"{first[mode].path} is {_worded(mode)}" for mode in sorted(modes)[:2][::-1])
        raise ValueError(f"{one} and {other}; save all images in one mode")
    return modes[0]


def _worded(mode: str) -> str:
    return "in color" if mode == COLOR else mode


def _is_gray(folder: Path, path: Path) -> bool:
    x = _decoded(folder, path, COLOR, None)
    return bool((x == x[..., :1]).all())


def _check_sizes(pictures: Sequence[Picture]) -> None:
    first = pictures[0]
    for picture in pictures:
        if (picture.height, picture.width) != (first.height, first.width):
            raise ValueError(
                f"{first.path} is {first.width}x{first.height} and {picture.path} is "
                f"{picture.width}x{picture.height}; give image_size=N (--image-size N) to resize "
                "all images to N x N, or (H, W)"
            )


def _pixels(
    folder: Path, pictures: Sequence[Picture], mode: str, size: tuple[int, int] | None
) -> np.ndarray:
    """Read the images to (N, C, H, W)."""
    height, width = size or (pictures[0].height, pictures[0].width)
    kind = np.uint16 if mode == DEEP else np.uint8
    channels = 3 if mode == COLOR else 1
    check_memory(
        f"{len(pictures):,} images of {width} x {height}",
        len(pictures) * channels * height * width * np.dtype(kind).itemsize,
        "give a smaller image_size (--image-size)",
    )
    x = np.empty((len(pictures), channels, height, width), kind)
    for i, picture in enumerate(pictures):
        pixels = _decoded(folder, picture.path, mode, size)
        x[i] = np.moveaxis(pixels, 2, 0) if mode == COLOR else pixels
    return x


def _decoded(folder: Path, path: Path, mode: str, size: tuple[int, int] | None) -> np.ndarray:
    """The pixels of one image, (H, W) or (H, W, 3)."""
    image = _image(folder)
    try:
        with image.open(path) as file:
            pixels = file.convert("RGBA") if "transparency" in file.info else file
            pixels = pixels.convert({COLOR: "RGB", GRAY: "L", DEEP: "I"}[mode])
            if size is not None:
                pixels = pixels.resize(size[::-1], image.Resampling.BILINEAR)
            array = np.asarray(pixels)
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read ({error}); repair or remove it") from error
    if mode == DEEP and not 0 <= array.min() <= array.max() < 1 << 16:
        raise ValueError(
            f"{path} holds values from {array.min()} to {array.max()}; pixels have 16 bits, from 0 "
            "to 65535: save the images as one .npy array"
        )
    return array
