"""Masks: which pixels of an example are observed, by name or from a file.

A mask is an array of booleans, true at observed pixels. A name stands for the hidden part:
``lower`` hides the lower half of an image.
"""

import os
from pathlib import Path

import numpy as np

from pyrovae._process.files import expanded
from pyrovae._process.optional_imports import import_for

__all__ = ["HALVES", "mask"]

HALVES = ("lower", "upper", "left", "right")
"""The halves of an image that a mask can hide."""

ENDINGS = (".npy", ".npz", ".png")
FORM = (
    f"{', '.join(HALVES)} or random:FRACTION, which name the hidden part, or a file "
    f"({', '.join(ENDINGS)}), which is true at observed pixels"
)


def mask(
    spec: str | os.PathLike[str], event_shape: tuple[int, ...], examples: int, *, seed: int = 0
) -> np.ndarray:
    """Make a mask of observed pixels from a name or a file.

    ``lower``, ``upper``, ``left`` and ``right`` hide half of an image, the smaller half if the
    number of rows or columns is odd. ``random:FRACTION`` hides each pixel with that probability, in
    all channels at once and independently in each example.

    In a file, observed pixels are true, 1 or, in a picture, white. ``.npy`` holds an array,
    ``.npz`` a single array or an array named ``mask``, and ``.png`` a black-and-white picture.

    Args:
        spec: the name, or the path of the file.
        event_shape: shape of one example.
        examples: number of examples.
        seed: seed of a random mask.

    Returns:
        Booleans ``event_shape`` or ``(examples, *event_shape)``.

    Raises:
        ValueError: if the name is unknown, the file holds anything other than zeros and ones, or
            its shape does not fit.
        FileNotFoundError: if the file does not exist.

    Example:
        >>> from pyrovae.queries import mask
        >>> mask("lower", (1, 4, 2), examples=10).astype(int)
        array([[[1, 1],
                [1, 1],
                [0, 0],
                [0, 0]]])
        >>> mask("random:0.5", (1, 4, 2), examples=10).shape
        (10, 1, 4, 2)
    """
    text = os.fspath(spec)
    if text in HALVES:
        return _half(text, event_shape)
    if text.partition(":")[0] == "random":
        return _random(text, event_shape, examples, seed)
    path = expanded(text)
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"unknown mask {text!r}; allowed are {FORM}")
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}; check the path, or name {FORM}")
    found = _read(path)
    if found.dtype != np.bool_:
        if found.dtype.kind not in "uif" or not np.isin(found, (0, 1)).all():
            raise ValueError(
                f"{path} holds {found.dtype} values other than 0 and 1; a mask is true, or 1, at "
                "observed pixels"
            )
        found = found == 1
    if len(event_shape) == 3 and found.shape == event_shape[1:]:
        found = np.broadcast_to(found, event_shape)
    if found.shape not in (event_shape, (examples, *event_shape)):
        raise ValueError(
            f"{path} has the shape {found.shape}; it must have the shape of one example, "
            f"{event_shape}, or of all examples, {(examples, *event_shape)}"
        )
    return found


def _half(half: str, event_shape: tuple[int, ...]) -> np.ndarray:
    if len(event_shape) != 3:
        raise ValueError(
            f"{half} is half of an image, but examples here have the shape {event_shape}; use "
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
            f"cannot read the mask {text!r}; random:FRACTION takes the probability that a pixel is "
            "hidden, from 0 to 1, such as random:0.5"
        )
    channels = event_shape[:-2] if len(event_shape) == 3 else ()
    shape = (examples, *[1] * len(channels), *event_shape[len(channels) :])
    observed = np.random.default_rng(seed).random(shape) >= hidden
    return np.broadcast_to(observed, (examples, *event_shape))


def _read(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".png":
        with import_for("PIL.Image", "pillow", "a mask from a picture").open(path) as picture:
            gray = np.asarray(picture.convert("L"))
        return (gray > 127) if np.isin(gray, (0, 255)).all() else gray
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
                f"{path} holds the arrays {', '.join(names)}; name the array with the mask 'mask'"
            )
        array: np.ndarray = held["mask" if "mask" in names else names[0]]
    return array
