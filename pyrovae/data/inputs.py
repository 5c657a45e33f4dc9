r"""Examples in memory: arrays, sparse matrices, data frames and torch datasets, as one split."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pyrovae.data.batching import Split, portions
from pyrovae.data.dataset import Dataset
from pyrovae.data.sources import float_range
from pyrovae.data.tables import from_frame

__all__ = ["as_split"]


def as_split(data: Any) -> Split:
    """Make a split of examples in memory, without any scaling.

    Args:
        data: a split, returned as it is; a tensor or an array ``(N, *event_shape)`` of real
            numbers of any type, where a masked array has missing values; a sparse matrix of SciPy
            (N, D), of which a batch at a time becomes dense; a pandas DataFrame, whose words become
            the codes of their categories; or a torch ``Dataset`` of tensors, or of tuples that
            begin with a tensor and, if they have a second number, a label.

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
            "a dataset has three parts, and this is for one of them; give its train, validation "
            "or test part"
        )
    if isinstance(data, torch.Tensor | np.ndarray):
        return Split.from_array(data)
    if type(data).__name__ == "DataFrame":
        source = from_frame(data)
        rows = source.parts["all"]
        return Split(rows.x, rows.labels, rows.x.shape[1:], gaps=source.gaps, ids=rows.ids)
    if hasattr(data, "tocsr") and hasattr(data, "shape"):
        matrix = data.tocsr()
        if matrix.nnz:
            float_range("x", matrix.data[None])
        return Split(_Sparse(matrix), None, matrix.shape[1:])
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Sequence):
        return _of_dataset(data)
    raise TypeError(
        f"data are {type(data).__name__}; allowed are a Split, a tensor, an array, a sparse "
        "matrix, a DataFrame and a torch Dataset with a length"
    )


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
        return np.stack([_array(self.items[int(row)]) for row in rows])


def _of_dataset(items: Any) -> Split:
    count = len(items)
    if count == 0:
        raise ValueError("the dataset is empty; it needs at least one example")
    first = _array(items[0])
    x, gaps = _Items(items, first), False
    for index in portions(np.arange(count), first.size):
        try:
            rows = x.gather(index)
        except ValueError as error:
            raise ValueError(
                f"the examples of the dataset differ in shape ({error}); give them all one shape"
            ) from error
        gaps |= float_range("x", rows)[3]
    labels = None
    if isinstance(items[0], tuple | list) and len(items[0]) > 1:
        labels = np.array([int(items[i][1]) for i in range(count)])
    return Split(x, labels, first.shape, gaps=gaps)


def _array(item: Any) -> np.ndarray:
    x = item[0] if isinstance(item, tuple | list) else item
    return np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x)
