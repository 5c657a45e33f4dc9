r"""The look that all figures share: colors, matplotlib settings, and how a figure is saved.

Nothing global is touched: no pyplot, no backend, no lasting rcParams.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from pyrovae._process.files import atomic_file
from pyrovae.estimates import Estimate

__all__ = ["as_png", "save"]

Array = NDArray[Any]
Shape = tuple[int, ...]

SETTINGS = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "grid.color": "0.9",
    "legend.frameon": False,
    "savefig.dpi": 150,
}
"""Changes to matplotlib's defaults."""

BOUND, VALIDATION, DISTORTION, RATE = "#4477AA", "#AA3377", "#EE6677", "#228833"
REAL, MODEL, PRIOR = "0.45", "#4477AA", "0.35"
CLASSES = (
    *("#332288", "#DDAA33", "#117733", "#CC6677", "#88CCEE"),
    *("#882255", "#44AA99", "#999933", "#AA4499", "#777777"),
)
"""Paul Tol's "muted" scheme, distinguishable with color blindness; gray for a tenth class."""


@contextmanager
def styled() -> Iterator[None]:
    """Apply the shared style, whatever the user's own settings are; also a decorator."""
    with matplotlib.style.context(["default", SETTINGS]):
        yield


def typeset(text: str) -> str:
    """Replace hyphens by minus signs."""
    return text.replace("-", "\N{MINUS SIGN}")


def as_array(x: Tensor) -> Array:
    """Convert to NumPy, in float64."""
    return np.asarray(x.detach().double().cpu())


def values_and_errors(estimates: Sequence[Estimate]) -> tuple[Array, Array]:
    """Values of estimates, and their standard errors; zero where there is none."""
    values = np.array([each.value for each in estimates], float)
    return values, np.array([each.standard_error or 0.0 for each in estimates], float)


@styled()
def as_png(figure: Figure, dpi: int = 110) -> bytes:
    """The contents of a PNG file of a figure; the same figure gives the same bytes.

    Args:
        figure: any figure.
        dpi: dots per inch.

    Example:
        >>> from pyrovae import plots
        >>> plots.as_png(plots.images(x.numpy(), "digits"))[1:4]
        b'PNG'
    """
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


@styled()
def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; a failure leaves no partial file.

    The same figure gives the same bytes, since neither a date nor a version is written.

    Args:
        figure: any figure, also one made without this package.
        path: a file name that ends in ``.png``; an existing file is replaced.

    Raises:
        ValueError: if ``path`` has another ending.

    Example:
        >>> from pathlib import Path
        >>> from pyrovae import plots
        >>> plots.save(plots.images(x.numpy(), "digits"), Path("digits.png"))
        >>> Path("digits.png").exists()
        True
    """
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"a figure is saved as .png, got {path.name}; use Figure.savefig for more")
    with atomic_file(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
