r"""Tables in a run: a likelihood for each column, and values written as the table had them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae._process.choices import nearest
from pyrovae._process.files import atomic_file
from pyrovae.data import Column, Schema
from pyrovae.likelihoods import LIKELIHOODS, read_columns, write_columns
from pyrovae.runs.specs import Spec

if TYPE_CHECKING:
    import pandas

__all__ = ["BY_KIND", "as_frame", "describe_columns", "gaps_frame", "rounded", "write_frame"]

BY_KIND: Mapping[str, str] = {
    "real": "normal:scale=dimension",
    "positive": "log_normal:scale=dimension",
    "proportion": "beta:dispersion=dimension",
    "count": "negative_binomial",
    "boolean": "bernoulli",
    "category": "categorical",
}
"""The likelihood of a column by its kind, in a table with columns of several kinds."""


def columns_text(schema: Schema, changes: Mapping[str, str]) -> str:
    """Describe the columns of a table, as the option of the likelihood ``columns``.

    Args:
        schema: of the table.
        changes: other specs than those of ``BY_KIND``, by the name of the column.

    Raises:
        ValueError: if there is no such column, or its words have no numbers to describe.
    """
    for name in changes:
        if name not in schema.names:
            raise ValueError(
                f"the table has no column {name!r}{nearest(name, schema.names)}; it has "
                + ", ".join(schema.names)
            )
    described = []
    for column in schema.columns:
        spec = Spec.parse(changes.get(column.name, BY_KIND[column.kind]))
        options: dict[str, object] = dict(spec.options)
        if column.kind == "category" and spec.name != "categorical":
            raise ValueError(
                f"column {column.name} holds words, which {spec.name} does not describe; leave it "
                "categorical, or write numbers into the table"
            )
        if spec.name == "categorical" and column.categories:
            options.setdefault("levels", len(column.categories))
        described.append((spec.name, options))
    return write_columns(described)


def column_scalings(text: str) -> list[str]:
    """How each column is scaled for its likelihood, see :func:`pyrovae.data.prepare`."""
    return [str(getattr(LIKELIHOODS[name], "column_scaling", "none")) for name, _ in _known(text)]


def column_levels(text: str) -> list[int]:
    """The number of categories of each column, 0 for numbers."""
    return [
        int(options.get("levels", 256)) if name == "categorical" else 0
        for name, options in _known(text)
    ]


def _known(text: str) -> list[tuple[str, dict[str, str]]]:
    columns = read_columns(text) if text else []
    return [(name, options) for name, options in columns if name in LIKELIHOODS]


def describe_columns(schema: Schema, text: str, width: int | None = None) -> list[str]:
    """List which likelihood describes which columns, a line for each likelihood.

    Args:
        schema: of the table.
        text: the option ``columns`` of the likelihood.
        width: of a line, into which the first names must fit; None for all names.

    Example:
        >>> from pyrovae.data import Column, Schema
        >>> from pyrovae.runs import describe_columns
        >>> schema = Schema((Column("age", "count", integer=True), Column("height")))
        >>> describe_columns(schema, "poisson+normal(scale=dimension)")
        ['poisson: age', 'normal(scale=dimension): height']
    """
    groups: dict[str, list[str]] = {}
    for name, column in zip(schema.names, read_columns(text), strict=True):
        groups.setdefault(write_columns([column]), []).append(name)
    return [
        f"{likelihood}: {abbreviated(names, None if width is None else width - len(likelihood))}"
        for likelihood, names in groups.items()
    ]


def abbreviated(names: Sequence[str], width: int | None) -> str:
    """Join names by commas, as many as fit into a width, and the number of the others."""
    shown = 1
    while shown < len(names) and (width is None or len(", ".join(names[: shown + 1])) <= width):
        shown += 1
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more:,} more" if more else "")


def rounded(values: np.ndarray) -> np.ndarray:
    """Round numbers of a model to the nine digits that float32 has, so that they read well.

    Args:
        values: any shape.

    Example:
        >>> import numpy
        >>> from pyrovae.runs import rounded
        >>> rounded(numpy.array([0.1], numpy.float32).astype(float) + 3).tolist()
        [3.1]
    """
    flat = [float(f"{value:.9g}") for value in np.asarray(values).ravel().tolist()]
    return np.array(flat, np.float64).reshape(values.shape)


def as_frame(
    schema: Schema, x: np.ndarray, ids: np.ndarray | Sequence[Any] | None = None
) -> "pandas.DataFrame":
    """Make a table of rows in the units of the data, as the table that was read had them.

    Args:
        schema: of that table.
        x: rows, (N, D); whole numbers are rounded, categories become words, NaN stays missing.
        ids: what identifies the rows, (N,), or None.

    Example:
        >>> import numpy
        >>> from pyrovae.data import Column, Schema
        >>> from pyrovae.runs import as_frame
        >>> schema = Schema((Column("pet", "category", True, ("cat", "dog")), Column("kg")))
        >>> as_frame(schema, numpy.array([[1.0, 9.5]])).to_dict("records")
        [{'pet': 'dog', 'kg': 9.5}]
    """
    import pandas

    columns = {
        column.name: _written(column, x[:, place]) for place, column in enumerate(schema.columns)
    }
    frame = pandas.DataFrame(columns)
    if ids is not None:
        name = "id" if schema.id_name is None else schema.id_name
        frame.insert(0, name, ids, allow_duplicates=True)
    return frame


def gaps_frame(
    schema: Schema | None,
    observed: np.ndarray,
    mean: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    ids: np.ndarray | None = None,
) -> "pandas.DataFrame":
    """List the missing values of a table: row, column, and what the model says of the value.

    Args:
        schema: of the table; None for columns without names.
        observed: booleans (N, D), false where a value is missing.
        mean, lower, upper: mean of each value and the bounds of its interval, in the units of the
            data, (N, D). Of a category all three are its most probable word.
        ids: what identifies the rows, (N,); None counts them from 0.

    Example:
        >>> import numpy
        >>> from pyrovae.runs import gaps_frame
        >>> x = numpy.array([[1.0, 2.0]])
        >>> gaps_frame(None, numpy.array([[True, False]]), x, x - 1, x + 1).to_dict("records")
        [{'row': 0, 'column': 'x2', 'mean': 2.0, 'lower': 1.0, 'upper': 3.0}]
    """
    import pandas

    rows, places = np.nonzero(~observed)
    columns: list[Column] = (
        [Column(f"x{place + 1}") for place in range(observed.shape[1])]
        if schema is None
        else list(schema.columns)
    )

    words = any(columns[place].categories for place in places)

    def values(numbers: np.ndarray) -> list[Any]:
        found = rounded(numbers[rows, places]).tolist()
        if not words:
            return found
        return [  # text alone, since a column of a file has one type
            categories[round(value)] if (categories := columns[place].categories) else repr(value)
            for place, value in zip(places.tolist(), found, strict=True)
        ]

    return pandas.DataFrame(
        {
            "row": rows if ids is None else np.asarray(ids)[rows],
            "column": [columns[place].name for place in places],
            "mean": values(mean),
            "lower": values(lower),
            "upper": values(upper),
        }
    )


def _written(column: Column, values: np.ndarray) -> Any:
    missing = np.isnan(values)
    if column.kind == "boolean" and column.categories:
        return _with_gaps(np.nan_to_num(values) > 0.5, "boolean", missing)
    if column.categories:
        words = np.array([*column.categories, None], dtype=object)
        codes = np.where(missing, len(words) - 1, np.rint(np.nan_to_num(values))).astype(int)
        return words[codes]
    if not column.integer:
        return values.astype(np.float64)
    return _with_gaps(np.rint(np.nan_to_num(values)).astype(np.int64), "Int64", missing)


def _with_gaps(values: np.ndarray, nullable: str, missing: np.ndarray) -> Any:
    """The values, or where some are missing an array of pandas' type for them."""
    import pandas

    if not missing.any():
        return values
    found = pandas.array(values, dtype=nullable)
    found[missing] = pandas.NA
    return found


def write_frame(frame: "pandas.DataFrame", path: Path) -> None:
    """Write a table as ``.csv`` or ``.parquet``, whole or not at all, so that it reads back equal.

    Args:
        frame: the table.
        path: whose ending sets the format.

    Raises:
        OSError: if it cannot be written.

    Example:
        >>> import pandas
        >>> from pathlib import Path
        >>> from pyrovae.runs import write_frame
        >>> write_frame(pandas.DataFrame({"a": [1, 2]}), Path("a.csv"))
        >>> Path("a.csv").read_text()
        'a\\n1\\n2\\n'
    """
    try:
        with atomic_file(path) as file:
            if path.suffix == ".parquet":
                unnamed = "" in frame.columns  # ids, which only an index may be without a name
                whole = frame.set_index("").rename_axis(None) if unnamed else frame
                whole.to_parquet(file, index=unnamed)
            else:
                file.write(frame.to_csv(index=False).encode())
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
