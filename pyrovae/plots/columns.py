r"""Tables drawn column by column: a panel for each of the first columns, and histograms in them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyrovae.plots.style import REAL, Array

_SHOWN = 12  # the most panels that stay readable


def column_panels(columns: int) -> tuple[Figure, list[Axes]]:
    """Make a figure with a titled panel for each of the first twelve columns.

    Args:
        columns: in the table.
    """
    shown = min(columns, _SHOWN)
    across = min(4, shown)
    down = -(-shown // across)
    figure = Figure(figsize=(max(6, 2.4 * across), 2 * down + 1), layout="constrained")
    panels = [figure.add_subplot(down, across, index + 1) for index in range(shown)]
    for index, panel in enumerate(panels):
        panel.set_title(f"$x_{{{index + 1}}}$", loc="left")
    return figure, panels


def column_histograms(
    panels: Sequence[Axes],
    real: Array,
    drawn: Sequence[tuple[str, Array, str]],
    *,
    binned: Array,
    alpha: float = 0.4,
    linewidth: float = 1.6,
) -> None:
    """Draw a histogram of each column, filled for real data and an outline for each other table.

    Args:
        panels: as :func:`column_panels` makes them.
        real: data ``(n, columns)``.
        drawn: label, values ``(m, columns)`` and color of each other table.
        binned: the table whose range, with that of ``real``, sets the bins.
        alpha: opacity of the filled histogram.
        linewidth: of the outlines.
    """
    for d, panel in enumerate(panels):
        bins = _bins(real[:, d], binned[:, d])
        panel.hist(real[:, d], bins=bins, density=True, color=REAL, alpha=alpha, label="real")
        for label, values, color in drawn:
            panel.hist(
                values[:, d],
                bins=bins,
                density=True,
                histtype="step",
                lw=linewidth,
                color=color,
                label=label,
            )


def _bins(real: Array, sampled: Array) -> list[float]:
    values = np.unique(real)
    if len(values) <= 30 and (values == values.round()).all():
        return list(np.arange(values[0] - 0.5, values[-1] + 1))
    low, high = np.quantile(np.concatenate([real, sampled]), (0.002, 0.998))
    return list(np.linspace(low, high, int(np.clip(1.5 * np.sqrt(len(real)), 10, 40))))
