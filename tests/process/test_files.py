"""Files are whole or absent, and hold tensors and JSON, never code."""

import os
import stat

import pytest
import torch

from pyrovae._process.files import atomic_file, read_tensors, write_tensors, write_text


@pytest.mark.contract
def test_tensors_and_header_come_back(tmp_path):
    shared = torch.randn(3)
    tensors = {"a": torch.randn(2, 3), "b": torch.tensor(4), "c": shared, "d": shared}
    write_tensors(tmp_path / "x.safetensors", tensors, {"step": 3, "best": None})
    found, about = read_tensors(tmp_path / "x.safetensors")
    assert about == {"step": 3, "best": None}
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def fail():
        with atomic_file(path) as file:
            file.write(b"half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_files_have_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "ours", "{}")
    plain, ours = (stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("plain", "ours"))
    assert plain == ours


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-7], lambda b: b[:20], lambda b: b"", lambda b: b"x" * 99]
)
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.randn(20)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"x.safetensors is not a whole safetensors file"):
        read_tensors(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x.safetensors is missing"):
        read_tensors(tmp_path / "x.safetensors")
