"""Chunks hold at most a number of rows, at least one element, and all elements in order."""

import pytest
import torch

from pyrovae._process.memory import ROWS, in_chunks, rows_per_chunk


@pytest.mark.parametrize(
    ("each", "rows", "size"), [(1, 10, 10), (3, 10, 3), (11, 10, 1), (0, 10, 10)]
)
def test_chunks_fit_into_the_budget_and_keep_the_order(each, rows, size):
    x = torch.arange(25)
    chunks = in_chunks(x, each, rows)
    assert rows_per_chunk(each, rows) == size
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert torch.equal(torch.cat(chunks), x)
    assert len(in_chunks(torch.zeros(2 * ROWS, 3))) == 2
