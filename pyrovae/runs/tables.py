r"""Tables in a run: a likelihood for each column, and values written as the table had them."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae._process.choices import nearest
from pyrovae._process.files import atomic_file
from pyrovae.data import Column, Dataset, Recipe, Schema
from pyrovae.likelihoods import LIKELIHOODS, check_columns, read_columns, write_columns
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


def likelihood_by_column(spec: Spec, schema: Schema | None, changes: str | None) -> Spec:
    """The likelihood of the data, with one for each column where it is ``columns``."""
    words = [] if schema is None else [c.name for c in schema.columns if c.kind == "category"]
    if spec.name != "columns":
        if changes is not None:
            raise ValueError(
                f"single columns have likelihoods of their own under the likelihood columns, not "
                f"{spec.name}; leave one of the two out"
            )
        if words and not spec.is_users_own:
            raise ValueError(
                f"column {words[0]} holds words, which one likelihood {spec.name} for all columns "
                "does not describe; use the likelihood columns, or drop the column"
            )
        return spec
    if "columns" in spec.options and changes is None:
        return spec
    if schema is None or "columns" in spec.options:
        raise ValueError(
            "the likelihood columns takes its columns from the names of a table, and these data "
            "have no names; write it as columns:columns=normal*3+poisson"
            if schema is None
            else "the likelihood has its columns already; leave out the changes to single ones"
        )
    parts = [part.strip() for part in re.split(r"[;\n]", changes or "") if part.strip()]
    chosen: dict[str, str] = {}
    for part in parts:
        name = max((n for n in schema.names if part.startswith(f"{n}=")), key=len, default=None)
        column, _, text = part.partition("=")
        if name is None and not text:
            raise ValueError(f"cannot read {part!r} among the columns; write NAME=LIKELIHOOD")
        name, text = (column.strip(), text) if name is None else (name, part[len(name) + 1 :])
        if name in chosen:
            raise ValueError(f"column {name} is given two likelihoods; leave one out")
        chosen[name] = text
    return Spec(spec.name, dict(spec.options) | {"columns": columns_text(schema, chosen)})


def scaling_of(
    likelihood: Callable[..., Any],
    natural: bool,
    data: Mapping[str, Any],
    maximum: int | None,
    recipe: Recipe,
) -> str:
    """The scaling that suits a likelihood, where the settings name none."""
    if data["binarization"] != "none":
        return "none"
    if natural:
        return recipe.scaling
    if likelihood is LIKELIHOODS["columns"]:
        return "columns"
    return str(getattr(likelihood, "scaling", "unit")) if maximum is not None else "none"


def column_scalings(text: str, event_shape: tuple[int, ...]) -> list[str]:
    """How each column is scaled for its likelihood, see :func:`pyrovae.data.prepare`.

    Raises:
        ValueError: if the text does not describe columns of examples of this shape.
    """
    if text:
        check_columns(text, event_shape)
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


def describe_columns(schema: Schema | None, text: str, width: int | None = None) -> list[str]:
    """List of which kind columns are and which likelihood describes them, a line for each pair.

    Args:
        schema: of the table; None for columns without names, whose kinds are not known.
        text: the option ``columns`` of the likelihood.
        width: of a line, into which the first names must fit; None for all names.

    Example:
        >>> from pyrovae.data import Column, Schema
        >>> from pyrovae.runs import describe_columns
        >>> schema = Schema((Column("age", "count", integer=True), Column("height")))
        >>> describe_columns(schema, "poisson+normal(scale=dimension)")
        ['count, poisson: age', 'real, normal(scale=dimension): height']
    """
    groups: dict[str, list[str]] = {}
    likelihoods = [write_columns([column]) for column in read_columns(text)]
    for place, likelihood in enumerate(likelihoods):
        if schema is None:
            groups.setdefault(likelihood, []).append(f"x{place + 1}")
            continue
        column = schema.columns[place]
        groups.setdefault(f"{column.kind}, {likelihood}", []).append(column.name)
    return [
        f"{pair}: {abbreviated(names, None if width is None else width - len(pair))}"
        for pair, names in groups.items()
    ]


def abbreviated(names: Sequence[str], width: int | None) -> str:
    """Join names by commas, as many as fit into a width, and the number of the others."""
    shown = 1
    while shown < len(names) and (width is None or len(", ".join(names[: shown + 1])) <= width):
        shown += 1
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more:,} more" if more else "")


def check_unchanged(
    dataset: Dataset,
    folder: Path,
    event_shape: tuple[int, ...],
    statistics: Mapping[str, np.ndarray],
) -> None:
    """Refuse training data that are no longer those of a run, by their shape and their scales."""
    reason = ""
    if dataset.event_shape != tuple(event_shape):
        reason = f"its examples have the shape {dataset.event_shape} and had {tuple(event_shape)}"
    elif not all(
        np.allclose(dataset.statistics[key], known, rtol=1e-5, atol=1e-6 * statistics["scale"])
        for key, known in statistics.items()
    ):
        reason = "the means or deviations of its training rows differ"
    if reason:
        raise ValueError(
            f"{dataset.name} has changed since {folder} was trained on it: {reason}; restore it, "
            "or train again"
        )


def rounded(values: np.ndarray, loc: np.ndarray | float = 0.0) -> np.ndarray:
    """Round numbers of a model to the digits that its float32 has, so that they read well.

    Args:
        values: in the units of the data, ``(..., *event_shape)``.
        loc: what standardizing added to them, ``event_shape``: the distance from it has nine
            digits.

    Returns:
        float64, in the shape of the values.

    Example:
        >>> import numpy
        >>> from pyrovae.runs import rounded
        >>> x = 3 + numpy.float64(numpy.float32(0.1))
        >>> float(x), float(rounded(x))
        (3.100000001490116, 3.1)
    """
    known = np.asarray(values, np.float64)
    distances = np.abs(known - loc)
    usable = np.isfinite(distances) & (distances > 0)
    logs = np.log10(distances, where=usable, out=np.zeros_like(known))
    digits = np.where(usable, 8 - np.floor(logs), 0)
    flat = zip(known.ravel().tolist(), digits.ravel(), usable.ravel(), strict=True)
    found = [round(value, int(digit)) if use else value for value, digit, use in flat]
    return np.array(found, np.float64).reshape(known.shape)


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
        found = numbers[rows, places].tolist()
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
