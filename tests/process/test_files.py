"""Files are whole or absent, and hold tensors and JSON, never code."""

import errno
import os
import signal
import socket
import stat
import time
from pathlib import Path

import pytest
import torch

from pyrovae._process.files import (
    atomic_file,
    check_regular,
    check_writable,
    contents,
    expanded,
    locked,
    read_tensors,
    remove_leftovers,
    tensor_bytes,
    whole_folder,
    write_tensors,
    write_text,
)


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


@pytest.mark.parametrize("type_", [torch.float64, torch.bfloat16, torch.bool, torch.int64])
def test_a_flipped_bit_of_any_type_is_noticed(tmp_path, type_):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(3, 2).to(type_), "b": torch.tensor(1), "c": torch.ones(0)})
    whole = path.read_bytes()
    for place in (len(whole) - 1, len(whole) - 9, whole.index(b'"a"') + 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"x\.safetensors is (damaged|not a whole)"):
            read_tensors(path)


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    tensors = {"a": torch.ones(3), "b": torch.zeros(2)}
    about = {"x": [1, 2.5, None], "y": {"z": "w"}}
    assert len({tensor_bytes(tensors, about) for _ in range(5)}) == 1


def test_a_full_disk_is_said_with_the_name_of_the_file(tmp_path, full_disk):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with full_disk(), pytest.raises(OSError, match=r"No space left on device: '.*/x\.txt'"):
        write_text(path, "new")
    folder = tmp_path / "new"
    with (
        full_disk(),
        pytest.raises(OSError, match=r"No space left on device: '.*/new/y\.txt'"),
        whole_folder(folder) as temporary,
    ):
        write_text(temporary / "y.txt", "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def killed_while(block) -> int:
    """A process that enters a block and is killed in it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with block:
            os.write(writing, b".")
            time.sleep(60)
    os.read(reading, 1)
    return child


def end(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_not(tmp_path):
    path = tmp_path / "x.txt"
    child = killed_while(atomic_file(path))
    other = killed_while(whole_folder(tmp_path / "folder"))
    (tmp_path / ".note.txt").touch()  # names of one's own
    (tmp_path / ".x.txt.12345678.bak").touch()
    before = sorted(os.listdir(tmp_path))
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == before
    end(child)
    end(other)
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".note.txt", ".x.txt.12345678.bak"]


def test_one_process_at_a_time_is_in_a_locked_folder(tmp_path):
    child = killed_while(locked(tmp_path))
    with pytest.raises(BlockingIOError, match="another process is training"), locked(tmp_path):
        pass
    end(child)
    with (
        locked(tmp_path),
        pytest.raises(BlockingIOError, match="another process is training"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        assert not os.listdir(tmp_path)


def test_a_file_system_without_locks_goes_without(tmp_path, monkeypatch):
    def flock(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    (tmp_path / ".x.txt.12345678").touch()
    with locked(tmp_path), locked(tmp_path):
        write_text(tmp_path / "x.txt", "new")
    remove_leftovers(tmp_path)  # it cannot be told whether it is in use
    assert sorted(os.listdir(tmp_path)) == [".x.txt.12345678", "x.txt"]


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path, full_disk):
    check_writable(tmp_path / "a" / "b")
    assert not os.listdir(tmp_path)
    with full_disk(), pytest.raises(OSError, match="No space left on device"):
        check_writable(tmp_path / "a" / "b")
    with pytest.raises(OSError, match="/proc"):
        check_writable(Path("/proc/x"))


def test_pipes_sockets_and_devices_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    for name, kind in (("pipe", "pipe"), ("link", "pipe"), ("socket", "socket")):
        with pytest.raises(ValueError, match=f"{name} is a {kind}, not a file"):
            check_regular(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} is a {kind}, not a file"):
            read_tensors(tmp_path / name)
    with pytest.raises(ValueError, match="/dev/zero is a device, not a file"):
        contents(Path("/dev/zero"))
    with pytest.raises(ValueError, match="is a folder, not a file"):
        contents(tmp_path)


def test_the_home_folder_is_written_out(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/someone")
    assert expanded("~/x") == Path("/home/of/someone/x")
    assert expanded("a/~") == Path("a/~")
    with pytest.raises(ValueError, match="home folder of an unknown user; write the whole path"):
        expanded("~nobody-of-that-name/x")
