"""Results are written in the format that the name asks for, or refused before the work."""

import json
import math

import numpy as np
import pytest

from pyrovae.runs.export import as_json, destination, write_arrays

X = np.arange(6.0).reshape(3, 2)


def test_arrays_come_back(tmp_path):
    write_arrays(tmp_path / "x.npy", {"x": X})
    write_arrays(tmp_path / "x.npz", {"x": X, "y": 2 * X})
    write_arrays(tmp_path / "x.csv", {"x": X})
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), X)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npz")["y"], 2 * X)
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "x.csv", delimiter=","), X)
    write_arrays(tmp_path / "table.csv", {"a": X[:, 0], "b": np.arange(3)})
    assert (tmp_path / "table.csv").read_text() == "a,b\n0.0,0\n2.0,1\n4.0,2\n"
    assert len(list(tmp_path.iterdir())) == 4


def test_a_wrong_destination_is_refused(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    default, allowed = tmp_path / "figures" / "x.png", (".png", ".npz")
    assert destination(None, default, allowed) == default
    assert not default.parent.exists()  # until something is written
    for out, message in (
        ("x.jpg", r"its ending must be \.png or \.npz, such as x\.png"),
        ("x", "its ending must be"),
        ("absent/x.npz", "there is no folder"),
        ("folder.npz", "is a folder; name a file"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            destination(str(tmp_path / out), default, allowed)


def test_json_has_no_numbers_that_json_does_not_know():
    text = as_json({"a": math.nan, "b": [math.inf, 1.5, True], "c": {"d": -math.inf, "e": "x"}})
    assert json.loads(text) == {"a": None, "b": [None, 1.5, True], "c": {"d": None, "e": "x"}}
    assert "\n" not in text
