r"""Tables column by column: histograms of data and draws, and values against reconstructions."""

from collections.abc import Sequence
from typing import Any

import matplotlib.font_manager
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyrovae.data import Column, Schema
from pyrovae.plots.style import MODEL, REAL, Array, typeset

SHOWN = 12  # the most columns that stay readable
_NAME = 20  # characters of a name above a panel
_NAME_BESIDE = 13  # of one beside a number
_TICKS = 22  # characters below a panel
_WORDS = 6  # the most categories whose words stay readable
_LEFT_OUT = 70  # characters of the names of columns that are not drawn


def column_panels(
    columns: int, title: str, schema: Schema | None = None, most: int = _NAME
) -> tuple[Figure, list[Axes]]:
    """Make a figure with a panel for each of the first twelve columns, under its name.

    Args:
        columns: in the table.
        title: of the figure; a second line says which columns are left out.
        schema: of the table; None for columns without names.
        most: characters of a name above a panel.
    """
    shown = min(columns, SHOWN)
    across = min(4, shown)
    down = -(-shown // across)
    size = (max(6, 2.4 * across), 2 * down + 1)
    figure = Figure(figsize=size, layout="constrained")
    panels = [figure.add_subplot(down, across, index + 1) for index in range(shown)]
    names = [column_name(schema, d) for d in range(columns)]
    for d, panel in enumerate(panels):
        panel.set_title(column_name(schema, d, most), loc="left")
    if columns > shown:
        title += f"\n{shown} of {columns} columns; without {_listed(names[shown:])}"
    figure.suptitle(title)
    return figure, panels


def column_name(schema: Schema | None, index: int, most: int = _NAME) -> str:
    """The name of a column for a figure, or its number where no name can be drawn."""
    if schema is None:
        return f"$x_{{{index + 1}}}$"
    name = shortened(" ".join(schema.names[index].split()), most)
    properties = matplotlib.font_manager.FontProperties()
    font = matplotlib.font_manager.get_font(matplotlib.font_manager.findfont(properties))
    if not name or not all(font.get_char_index(ord(letter)) for letter in name):
        return f"column {index + 1}"
    return name.replace("$", r"\$")


def shortened(text: str, most: int) -> str:
    """Cut text to at most this number of characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _listed(names: Sequence[str]) -> str:
    """Names joined by commas, as many as a line holds, and the number of the others."""
    known = 1
    while known < len(names) and len(", ".join(names[: known + 1])) <= _LEFT_OUT:
        known += 1
    more = len(names) - known
    return ", ".join(names[:known]) + (f" and {more:,} more" if more else "")


def column_histograms(
    real: Array,
    drawn: Sequence[tuple[str, Array, str]],
    title: str,
    *,
    binned: Array,
    schema: Schema | None = None,
    alpha: float = 0.4,
    linewidth: float = 1.6,
    beside: bool = False,
) -> Figure:
    """Make a figure of each column: filled for real data, an outline for each other table.

    Args:
        real: data ``(n, columns)``; NaN marks a missing value.
        drawn: label, values ``(m, columns)`` and color of each other table.
        title: of the figure.
        binned: the table whose range, with that of ``real``, sets the bins.
        schema: of the table; None for columns without names.
        alpha: opacity of the filled histogram.
        linewidth: of the outlines.
        beside: whether the legend is at the right, and not below.
    """
    figure, panels = column_panels(real.shape[1], title, schema)
    for d, panel in enumerate(panels):
        bins = _bins(real[:, d], binned[:, d])
        filled: dict[str, Any] = {"color": REAL, "alpha": alpha, "label": "real"}
        outline: dict[str, Any] = {"histtype": "step", "lw": linewidth}
        outlines = [(values, {"color": c, "label": name, **outline}) for name, values, c in drawn]
        for values, style in ((real, filled), *outlines):
            present = values[:, d][~np.isnan(values[:, d])]
            # A density of all values, also of those outside of the bins, which may be all.
            weights = np.full(len(present), 1 / max(1, len(present)) / (bins[1] - bins[0]))
            panel.hist(present, bins=bins, weights=weights, **style)
        if schema is not None:
            _write_words(panel, schema.columns[d], axes="x")
    units = "x (units of the data)"
    figure.supylabel("density (per unit of the data)")
    handles, labels = panels[0].get_legend_handles_labels()
    if beside:
        figure.supxlabel(units)
        figure.legend(handles, labels, loc="outside right upper")
    else:  # a label of the figure would lie under the legend
        below: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "title": units}
        figure.legend(handles, labels, title_fontsize="large", **below)
    return figure


def _bins(real: Array, sampled: Array) -> list[float]:
    values = np.unique(real[~np.isnan(real)])
    if 0 < len(values) <= 30 and (values == values.round()).all() and np.ptp(values) <= 60:
        return list(np.arange(values[0] - 0.5, values[-1] + 1))
    both = np.concatenate([real, sampled])
    both = both[np.isfinite(both)]
    low, high = np.quantile(both, (0.002, 0.998)) if both.size else (0.0, 0.0)
    count = int(np.clip(1.5 * np.sqrt(len(real)), 10, 40))
    edges = np.linspace(low, high, count)
    if not (np.diff(edges) > 0).all():  # one value, or fewer floating-point numbers than edges
        width = max(0.5, 1e-6 * abs(low))
        edges = np.linspace(low - width, high + width, count)
    return list(edges)


def column_points(x: Array, means: Array, schema: Schema | None = None) -> Figure:
    """Make a figure of each column: its observed values against their reconstructions.

    Args:
        x: data ``(n, columns)``; NaN marks a missing value.
        means: their reconstructions ``(n, columns)``.
        schema: of the table; None for columns without names.
    """
    title = "Each column against its reconstruction; on the line it would be perfect"
    figure, panels = column_panels(x.shape[1], title, schema, most=_NAME_BESIDE)
    for d, panel in enumerate(panels):
        seen = ~np.isnan(x[:, d])
        truth, mean = x[seen, d], means[seen, d]
        panel.plot(truth, mean, ".", color=MODEL, alpha=0.5, markersize=5, markeredgewidth=0)
        words = schema is not None and bool(schema.columns[d].categories)
        if truth.size:
            ends = [min(truth.min(), mean.min()), max(truth.max(), mean.max())]
            panel.plot(ends, ends, color=REAL, linewidth=1)
        if truth.size and words:
            panel.set_title(f"{(truth == np.rint(mean)).mean():.0%} right", loc="right")
        elif truth.size and np.ptp(truth) > 0:
            explained = 1 - ((truth - mean) ** 2).mean() / truth.var()
            panel.set_title(typeset(f"$R^2$ = {explained:.2f}"), loc="right")
        if schema is not None:
            _write_words(panel, schema.columns[d], axes="xy")
    figure.supxlabel("x (units of the data)")
    figure.supylabel(r"mean of $p(x|z)$, $z \sim q(z|x)$ (units of the data)")
    return figure


def _write_words(panel: Axes, column: Column, axes: str) -> None:
    """Write the words of a category beside its codes."""
    if not 0 < len(column.categories) <= _WORDS:
        return
    words = Schema(tuple(Column(word) for word in column.categories))
    most = max(4, _TICKS // len(words.columns))
    names = [shortened(column_name(words, code), most) for code in range(len(words.columns))]
    for axis in axes:
        panel.set(**{f"{axis}ticks": range(len(names)), f"{axis}ticklabels": names})


def point_pairs(real: Array, sampled: Array, title: str, schema: Schema | None = None) -> Figure:
    """Make a figure of a table of two columns: its points beside those of the model.

    Args:
        real: data ``(n, 2)``; rows with a missing value are left out.
        sampled: draws of x ``(m, 2)``.
        title: of the figure.
        schema: of the table; None for columns without names.
    """
    figure = Figure(figsize=(9, 4.95), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    left.set_title("real")
    right.set_title(r"from the model: $x \sim p(x|z)$, $z \sim p(z)$")
    across, down = (f"{column_name(schema, d)} (units of the data)" for d in (0, 1))
    for axes, values, color in ((left, real, REAL), (right, sampled, MODEL)):
        axes.plot(*values.T, ".", color=color, alpha=0.5, markersize=5, markeredgewidth=0)
        axes.set(xlabel=across, ylabel=down)
        axes.label_outer()
    return figure
