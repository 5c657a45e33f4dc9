"""Folders of images, with sub-folders as classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pyrovae._process.optional_imports import import_for
from pyrovae.data.sources import Rows

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")

IMAGE_MODES: Mapping[str, str] = {
    "1": "L",
    "L": "L",
    "LA": "L",
    "P": "RGB",
    "PA": "RGB",
    "RGB": "RGB",
    "RGBA": "RGB",
    "YCbCr": "RGB",
    "CMYK": "RGB",
}
"""Modes of image files, and the mode that each is converted to: gray (L) or color (RGB).

Alpha is dropped. A palette counts as color, and so does every .gif.
"""


def read_folder(folder: Path, image_size: int | None) -> Rows:
    """Read a folder of images, in the order of their sorted paths."""
    image = import_for("PIL.Image", "pillow", f"reading the images in {folder}")
    if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
        raise ValueError(f"image_size must be a positive integer, got {image_size!r}, e.g. 32")
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
    first_mode = first_size = ""
    x = np.empty(0, np.uint8)
    for i, path in enumerate(paths):
        try:
            with image.open(path) as file:
                original = file.mode
                mode = IMAGE_MODES.get(original, "")
                pixels = file.convert("RGBA") if "transparency" in file.info else file
                pixels = pixels.convert(mode) if mode else pixels
                if image_size is not None and mode:
                    pixels = pixels.resize((image_size, image_size), image.Resampling.BILINEAR)
                array = np.asarray(pixels)
        except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be read ({error}); repair or remove it") from error
        if not mode:
            raise ValueError(
                f"{path} has the mode {original}, allowed are {', '.join(IMAGE_MODES)} "
                "(8 bits a channel): convert it, or save the images as one .npy array"
            )
        size = f"{array.shape[1]}x{array.shape[0]}"
        if i == 0:
            first_mode, first_size = mode, size
            shape = (array.shape[2:] or (1,)) + array.shape[:2]
            x = np.empty((len(paths), *shape), np.uint8)  # (N, C, H, W)
        if mode != first_mode:
            gray, color = (paths[0], path) if mode == "RGB" else (path, paths[0])
            raise ValueError(f"{gray} is gray and {color} is in color; save all images in one mode")
        if size != first_size:
            raise ValueError(
                f"{paths[0]} is {first_size} and {path} is {size}; "
                "give image_size=N (--image-size N) to resize all images to N x N"
            )
        x[i] = array if mode == "L" else np.moveaxis(array, 2, 0)
    return Rows(x, _folder_labels(folder, paths))


def _folder_labels(folder: Path, paths: Sequence[Path]) -> np.ndarray | None:
    """Number the classes, one for each sub-folder in sorted order."""
    parts = [path.relative_to(folder).parts for path in paths]
    if all(len(p) == 1 for p in parts):
        return None
    for path, p in zip(paths, parts, strict=True):
        if len(p) == 1:
            raise ValueError(
                f"{path} lies beside sub-folders with images; put every image in a sub-folder "
                "(its class), or all of them directly in the folder"
            )
    classes = sorted({p[0] for p in parts})
    return np.array([classes.index(p[0]) for p in parts], np.int64)
