"""Masks: which pixels of an observation are observed, by name or from a file.

A mask is an array of booleans, true where a pixel is observed. A name says what is hidden:
``lower`` hides the lower half of an image.
"""

import os
from pathlib import Path

import numpy as np

from pyrovae._process.optional import import_for

__all__ = ["HALVES", "mask"]

HALVES = ("lower", "upper", "left", "right")
"""The halves of an image that a mask can hide."""

ENDINGS = (".npy", ".npz", ".png")
FORM = (
    f"{', '.join(HALVES)} or random:FRACTION, which name what is hidden, or a file "
    f"({', '.join(ENDINGS)}), which is true where a pixel is observed"
)


def mask(
    spec: str | os.PathLike[str], event_shape: tuple[int, ...], examples: int, *, seed: int = 0
) -> np.ndarray:
    """Which pixels are observed, by a name or from a file.

    ``lower``, ``upper``, ``left`` and ``right`` hide a half of an image; of an odd number of rows
    or columns, the smaller one. ``random:FRACTION`` hides each pixel with that probability, in all
    channels at once, and other ones in each example.

    A file is true, one, or in a picture white, where a pixel is observed. ``.npy`` holds an array,
    ``.npz`` one array or one named ``mask``, ``.png`` a picture in black and white.

    Args:
        spec: the name, or the path of the file.
        event_shape: shape of one observation.
        examples: how many there are.
        seed: of a random mask.

    Returns:
        Booleans ``event_shape`` or ``(examples, *event_shape)``.

    Raises:
        ValueError: if there is no such name, the file holds anything but zeros and ones, or it has
            another shape.
        FileNotFoundError: if there is no such file.
    """
    text = os.fspath(spec)
    if text in HALVES:
        return _half(text, event_shape)
    if text.partition(":")[0] == "random":
        return _random(text, event_shape, examples, seed)
    path = Path(text).expanduser()
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"unknown mask {text!r}; allowed are {FORM}")
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}; check the path, or name {FORM}")
    found = _read(path)
    if found.dtype != np.bool_:
        if found.dtype.kind not in "uif" or not np.isin(found, (0, 1)).all():
            raise ValueError(
                f"{path} holds {found.dtype} other than 0 and 1; a mask is true, or 1, where a "
                "pixel is observed"
            )
        found = found == 1
    if len(event_shape) == 3 and found.shape == event_shape[1:]:
        found = np.broadcast_to(found, event_shape)
    if found.shape not in (event_shape, (examples, *event_shape)):
        raise ValueError(
            f"{path} has the shape {found.shape}; it must be that of one observation, "
            f"{event_shape}, or of all, {(examples, *event_shape)}"
        )
    return found


def _half(half: str, event_shape: tuple[int, ...]) -> np.ndarray:
    if len(event_shape) != 3:
        raise ValueError(
            f"{half} is a half of an image, and an observation has the shape {event_shape}; take "
            "random:FRACTION or a file"
        )
    observed = np.ones(event_shape, bool)
    height, width = event_shape[1:]
    hidden = {
        "lower": np.s_[:, height - height // 2 :],
        "upper": np.s_[:, : height // 2],
        "left": np.s_[:, :, : width // 2],
        "right": np.s_[:, :, width - width // 2 :],
    }
    observed[hidden[half]] = False
    return observed


def _random(text: str, event_shape: tuple[int, ...], examples: int, seed: int) -> np.ndarray:
    try:
        hidden = float(text.partition(":")[2])
    except ValueError:
        hidden = -1.0
    if not 0 <= hidden <= 1:
        raise ValueError(
            f"cannot read the mask {text!r}; random:FRACTION hides each pixel with a probability "
            "from 0 to 1, such as random:0.5"
        )
    channels = event_shape[:-2] if len(event_shape) == 3 else ()
    shape = (examples, *[1] * len(channels), *event_shape[len(channels) :])
    observed = np.random.default_rng(seed).random(shape) >= hidden
    return np.broadcast_to(observed, (examples, *event_shape))


def _read(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".png":
        with import_for("PIL.Image", "pillow", "a mask from a picture").open(path) as picture:
            grey = np.asarray(picture.convert("L"))
        return (grey > 127) if np.isin(grey, (0, 255)).all() else grey
    try:
        held = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}); save it with numpy.save") from error
    if isinstance(held, np.ndarray):
        return held
    with held:
        names = list(held)
        if "mask" not in names and len(names) != 1:
            raise ValueError(
                f"{path} holds the arrays {', '.join(names)}; call the one with the mask 'mask'"
            )
        array: np.ndarray = held["mask" if "mask" in names else names[0]]
    return array
