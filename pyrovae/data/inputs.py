r"""Examples as Python holds them: arrays, sparse matrices, frames, torch datasets and loaders."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from pyrovae.data.batching import Split, portions
from pyrovae.data.dataset import Dataset
from pyrovae.data.sources import Source, float_range
from pyrovae.data.tables import from_frame

__all__ = ["DataLike", "as_split", "loaded"]


class Frame(Protocol):
    """A pandas DataFrame."""

    @property
    def columns(self) -> Any: ...

    @property
    def iloc(self) -> Any: ...


class SparseMatrix(Protocol):
    """A sparse matrix or array of SciPy."""

    @property
    def shape(self) -> Any: ...

    def tocsr(self) -> Any: ...


DataLike: TypeAlias = (
    Split | Tensor | np.ndarray | Frame | SparseMatrix | TorchDataset[Any] | DataLoader[Any]
)
"""What `as_split` takes as examples."""


def as_split(data: DataLike) -> Split:
    """Make a split of examples in memory, without any scaling.

    Args:
        data: a split, returned as it is; a tensor or an array ``(N, *event_shape)`` of real
            numbers of any type, where a masked array has missing values; a sparse matrix of SciPy
            (N, D), of which a batch at a time becomes dense; a pandas DataFrame of numbers,
            booleans and categories, which become the positions of their words (in the order of the
            type, or sorted if it has none); a torch ``Dataset`` of tensors, or of tuples that begin
            with a tensor and, if they have a second entry that is an integer, a label, whose
            examples are asked for a batch at a time; or a ``DataLoader`` of batches of these, which
            is gone through once, in its order, and whose examples are held in memory.

    Returns:
        A split of all examples in order; where a value is NaN, it is missing.

    Raises:
        TypeError: if the data are none of these.
        ValueError: if they are empty, not real numbers, or not finite.

    Example:
        >>> import numpy, scipy.sparse
        >>> from pyrovae.data import as_split
        >>> split = as_split(scipy.sparse.csr_matrix(numpy.eye(5)))
        >>> len(split), split.batch(numpy.array([2])).tolist()
        (5, [[0.0, 0.0, 1.0, 0.0, 0.0]])
    """
    if isinstance(data, Split):
        return data
    if isinstance(data, Dataset):
        raise TypeError(
            "a dataset has three parts, and this is for one of them; give its test part "
            "(dataset.test), or its train or validation part"
        )
    if isinstance(data, Tensor):
        return Split.from_array(data if data.layout == torch.strided else data.to_dense())
    if isinstance(data, np.ndarray):
        return Split.from_array(data)
    if isinstance(data, DataLoader):
        return _of_loader(data)
    if type(data).__name__ == "DataFrame":
        source = from_frame(data)
        _check_words(data, source)
        rows = source.parts["all"]
        return Split(rows.x, rows.labels, rows.x.shape[1:], gaps=source.gaps, ids=rows.ids)
    if hasattr(data, "tocsr") and len(getattr(data, "shape", ())) == 2:
        return _of_sparse(data.tocsr())
    if _has_items(data):
        return _of_dataset(data)
    raise TypeError(
        f"data are of type {type(data).__name__}; allowed are a tensor, an array, a sparse matrix, "
        "a DataFrame, a Split, a torch Dataset with a length and a DataLoader: convert them, such "
        "as by numpy.asarray(data)"
    )


def _check_words(frame: Any, source: Source) -> None:
    """Refuse words whose codes would depend on the rows at hand, and so differ between frames."""
    columns = source.schema.columns if source.schema else ()
    for position, column in enumerate(columns):
        dtype = frame.iloc[:, position].dtype
        if column.kind == "category" and not hasattr(dtype, "categories"):
            words = ", ".join(map(repr, column.categories))
            raise ValueError(
                f"column {column.name} holds words, whose codes must not depend on the rows at "
                "hand; make it a category of all its words, such as by "
                f"frame[{column.name!r}].astype(pandas.CategoricalDtype([{words}])), or load the "
                "table by pyrovae.data.load"
            )


def loaded(loader: DataLoader[Any]) -> Iterator[Tensor]:
    """Go through a loader once, and take the examples from its batches.

    Args:
        loader: of tensors ``(batch, *event_shape)``, or of tuples or lists that begin with one.

    Yields:
        The tensors, as they come.

    Raises:
        TypeError: for another batch.
        ValueError: if a batch does not hold real numbers of at least two dimensions.

    Example:
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from pyrovae.data import loaded
        >>> loader = DataLoader(TensorDataset(torch.zeros(5, 3), torch.arange(5)), batch_size=2)
        >>> [tuple(batch.shape) for batch in loaded(loader)]
        [(2, 3), (2, 3), (1, 3)]
    """
    return (_x_and_label(batch)[0] for batch in loader)


def _x_and_label(batch: Any) -> tuple[Tensor, Any]:
    """The examples of a batch, and what comes with them, if anything does."""
    x, label = _first_two(batch)
    if isinstance(x, np.ndarray):
        x = torch.from_numpy(x)
    if not isinstance(x, Tensor):
        raise TypeError(
            f"the loader's batches are {_type_of(batch)}; they must be tensors or (x, label) "
            "pairs: give the DataLoader a collate_fn that returns the tensor"
        )
    if x.dim() < 2 or x.is_complex():
        raise ValueError(
            f"a batch of the loader is {x.dtype} of shape {tuple(x.shape)}; it must be real "
            "numbers of shape (batch, *event_shape): give the loader a batch_size"
        )
    return x, label


def _of_loader(loader: DataLoader[Any]) -> Split:
    pairs = [_x_and_label(batch) for batch in loader]
    if not pairs:
        raise ValueError("the loader has no batches; it needs at least one")
    shapes = {tuple(x.shape[1:]) for x, _ in pairs}
    if len(shapes) > 1:
        raise ValueError(f"the loader's examples differ in shape: {shapes}; give them all one")
    labels = None
    if all(_are_labels(label, len(x)) for x, label in pairs):
        labels = torch.cat([label for _, label in pairs]).numpy().astype(np.int64)
    return Split.from_array(torch.cat([x.detach().cpu() for x, _ in pairs]), labels)


def _are_labels(label: Any, count: int) -> bool:
    return (
        isinstance(label, Tensor)
        and label.shape == (count,)
        and not label.is_floating_point()
        and not label.is_complex()
    )


def _of_sparse(matrix: Any) -> Split:
    if 0 in matrix.shape or matrix.dtype.kind not in "buif":
        raise ValueError(
            f"the sparse matrix is {matrix.dtype} of shape {matrix.shape}; it must be real numbers "
            "of shape (N, D), not empty"
        )
    gaps = False
    if matrix.nnz:  # a zero elsewhere is a value, so that it is no matter if all others are missing
        gaps = float_range("the stored values of x", np.append(matrix.data, 0)[:, None])[3]
    return Split(_Sparse(matrix), None, matrix.shape[1:], gaps=gaps)


def _has_items(data: Any) -> bool:
    """Whether data are a torch dataset, by what they do."""
    if isinstance(data, Sequence | Mapping | IterableDataset) or hasattr(data, "dtype"):
        return False
    return all(hasattr(type(data), name) for name in ("__getitem__", "__len__"))


class _Sparse:
    """Rows of a sparse matrix, made dense when they are gathered."""

    def __init__(self, matrix: Any) -> None:
        self.matrix, self.shape, self.dtype = matrix, matrix.shape, matrix.dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.matrix[rows].toarray())


class _Items:
    """Examples of a torch dataset, asked for one by one when they are gathered."""

    def __init__(self, items: Any, first: np.ndarray) -> None:
        self.items, self.shape, self.dtype = items, (len(items), *first.shape), first.dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return self.labeled(rows)[0]

    def labeled(self, rows: np.ndarray) -> tuple[np.ndarray, list[Any]]:
        """Examples, and what comes with each of them: a label or None."""
        pairs = [_array_and_label(self.items[int(row)]) for row in rows]
        shapes = {x.shape for x, _ in pairs} | {self.shape[1:]}
        if len(shapes) > 1:
            raise ValueError(
                f"the examples of the dataset differ in shape: {', '.join(map(str, shapes))}; "
                "give them all one shape"
            )
        return np.stack([x for x, _ in pairs]), [label for _, label in pairs]


def _of_dataset(items: Any) -> Split:
    count = len(items)
    if count == 0:
        raise ValueError("the dataset is empty; it needs at least one example")
    first, _ = _array_and_label(items[0])
    if first.ndim == 0 or first.size == 0 or first.dtype.kind not in "buif":
        raise ValueError(
            f"an example of the dataset is {first.dtype} of shape {first.shape}; it must be real "
            "numbers, not empty: give scalars the shape (1,)"
        )
    x, gaps = _Items(items, first), False
    labels: list[Any] = []
    for index in portions(np.arange(count), first.size):
        rows, further = x.labeled(index)
        labels += further
        gaps |= float_range("x", rows)[3]
    known = all(isinstance(label, int) for label in labels)
    return Split(x, np.array(labels, np.int64) if known else None, first.shape, gaps=gaps)


def _array_and_label(item: Any) -> tuple[np.ndarray, int | None]:
    x, label = _first_two(item)
    if not isinstance(x, Tensor | np.ndarray):
        raise TypeError(
            f"the examples of the dataset are {_type_of(item)}; they must be tensors or (x, label) "
            "pairs: give it a transform that makes tensors"
        )
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    if isinstance(label, Tensor | np.ndarray | np.generic):
        kind = torch.as_tensor(label)
        plain = kind.dim() == 0 and not kind.is_floating_point() and not kind.is_complex()
        label = int(kind) if plain else None
    return x, label if isinstance(label, int) else None


def _first_two(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list):
        return item, None
    return (*item, None, None)[:2]


def _type_of(item: Any) -> str:
    if not isinstance(item, tuple | list):
        return f"of type {type(item).__name__}"
    return f"{type(item).__name__}s of {', '.join(type(part).__name__ for part in item) or 'none'}"
