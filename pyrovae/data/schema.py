"""Schemas: the names, kinds and categories of the columns of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "Column", "Schema"]

KINDS = ("real", "positive", "proportion", "count", "boolean", "category")
"""Kinds of columns: what values a column takes, and so which likelihoods describe it."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: as in the header.
        kind: one of `KINDS`. A count is a whole number from 0; a boolean is 0 or 1; a category is
            the position of its word in `categories`.
        integer: whether its values are whole numbers, and are written without a point.
        categories: the words of a category, or of a boolean that is not written 0 and 1, in the
            order of their codes 0, 1, 2, ...; otherwise empty.

    Raises:
        ValueError: if the kind is unknown.

    Example:
        >>> from pyrovae.data import Column
        >>> Column("color", "category", integer=True, categories=("green", "red")).categories[1]
        'red'
    """

    name: str
    kind: str = "real"
    integer: bool = False
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"the kind of a column is one of {', '.join(KINDS)}, got {self.kind}")


@dataclass(frozen=True)
class Schema:
    """The columns of a table in their order, and the column that only identifies rows.

    Attributes:
        columns: those that are data.
        id_name: header of the index or id column, which is no data; None without one. An index
            without a name has the header "".

    Example:
        >>> from pyrovae.data import Column, Schema
        >>> schema = Schema((Column("age", "count", integer=True), Column("weight")))
        >>> schema.names, Schema.of(schema.to_dict()) == schema
        (('age', 'weight'), True)
    """

    columns: tuple[Column, ...]
    id_name: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def mixed(self) -> bool:
        """Whether the columns differ in kind, or are categories.

        Numbers that all are whole count as one kind.
        """
        kinds = {column.kind for column in self.columns}
        whole = all(column.integer and not column.categories for column in self.columns)
        return "category" in kinds or (len(kinds) > 1 and not whole)

    def to_dict(self) -> dict[str, object]:
        """Plain data, for a file; what `of` reads."""
        columns = [
            {
                "name": column.name,
                "kind": column.kind,
                "integer": column.integer,
                "categories": list(column.categories),
            }
            for column in self.columns
        ]
        return {"columns": columns, "id": self.id_name}

    @staticmethod
    def of(plain: Mapping[str, Any]) -> "Schema":
        """Read what `to_dict` made.

        Raises:
            ValueError: if it has another form.
        """
        try:
            found: Sequence[Mapping[str, Any]] = plain["columns"]
            columns = tuple(
                Column(
                    str(each["name"]),
                    str(each["kind"]),
                    bool(each["integer"]),
                    tuple(map(str, each["categories"])),
                )
                for each in found
            )
            return Schema(columns, plain["id"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not a schema of a table ({error!r})") from error
