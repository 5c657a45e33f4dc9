r"""Files that are whole or absent, and that are believed only as they were written.

Each file is written under a temporary name, then renamed. The writer holds a lock on the temporary
file, which ends with its process, so that leftovers of killed processes can be told apart.

Tensors are stored as safetensors, which cannot carry code. The header has digests of the contents,
which are checked when the file is read.
"""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import safetensors
import torch
from safetensors.torch import save as serialize
from torch import Tensor

FORMAT = 3
"""Version of the files of a run. Files without a version are older, and have no digests; since 3
the weights of some components mean something else, see :func:`pyrovae.training.check_meaning`."""

LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}")
"""Names of temporary files and folders."""

PLACES = re.compile(rb"^(name|data_dir|device|max_minutes) *=.*$", re.MULTILINE)
"""Lines of a configuration that say where data and processor are, and for how long to train."""


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path as a person writes it, ``~`` being the home folder.

    Raises:
        ValueError: if it begins with the home folder of an unknown user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{path} begins with the home folder of an unknown user; write the whole path, or "
            f"./{path} for a file of that name"
        ) from error


def check_regular(path: Path) -> None:
    """Refuse a pipe, socket or device, also behind a link: reading it would wait, or never end.

    Raises:
        OSError: if there is nothing at ``path``.
        ValueError: if it is neither a file nor a folder.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kinds = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        what = kinds.get(stat.S_IFMT(mode), "device")
        raise ValueError(f"{path} is a {what}, not a file; write its contents to a file first")


def contents(path: Path) -> bytes:
    """Read a regular file.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is no regular file.
    """
    try:
        check_regular(path)
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, not a file") from None


def lock(descriptor: int) -> bool | None:
    """Lock an open file or folder until it is closed or the process ends.

    Returns:
        Whether no other process has it; None where there are no locks.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # another system, or a file system without locks
        return None
    return True


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A block that one process at a time can be in, for each folder.

    Args:
        folder: it exists, and is written into in the block.

    Raises:
        BlockingIOError: if another process is in it.
        OSError: if the folder is missing, or nothing can be written into it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing")
    check_writable(folder)
    with _opened(folder) as descriptor:
        if lock(descriptor) is False:
            raise BlockingIOError(
                f"another process is training {folder}; wait until it ends, or stop it first"
            )
        yield


def check_writable(folder: Path) -> None:
    """Write into a folder, or the nearest one above it that exists, and leave nothing there.

    Raises:
        OSError: if that fails.
    """
    folder = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise _about(error, folder) from error


def _about(error: OSError, path: Path) -> OSError:
    """The same error, with the path that a person knows."""
    return OSError(error.errno or errno.EIO, error.strerror or str(error), str(path))


def remove_leftovers(folder: Path, pattern: str = ".*") -> None:
    """Remove temporary files that killed processes left in a folder, but not those in use."""
    for path in folder.glob(pattern):
        if LEFTOVER.fullmatch(path.name) and not path.is_symlink():
            with contextlib.suppress(OSError), _opened(path) as descriptor:
                if lock(descriptor):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def _temporary(path: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    """A new file or folder beside ``path``, in use until the block ends, and then gone."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            create(temporary)
            with _opened(temporary) as descriptor:
                if lock(descriptor) is False or not temporary.exists():
                    continue  # taken for a leftover before it was locked
                yield temporary
                return
        except OSError as error:
            name = str(error.filename or path).replace(str(temporary), str(path))
            raise _about(error, Path(name)) from error
        finally:
            with contextlib.suppress(OSError):
                shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that replaces ``path`` when the block ends, and is deleted if the block fails.

    Args:
        path: of the file; its folder is made, but not the parents of that folder.

    Raises:
        OSError: if it cannot be written, with the name of the file.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        with _temporary(path, partial(Path.touch, exist_ok=False)) as temporary:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError as error:
        raise _about(error, path) from error


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that becomes ``path`` when the block ends, and is deleted if the block fails.

    Args:
        path: of the folder; its parents are made.

    Raises:
        OSError: if it cannot be written; a file is named as it would have been.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, f".{glob.escape(path.name)}.*")
    with _temporary(path, Path.mkdir) as folder:
        yield folder
        folder.rename(path)


def write_bytes(path: Path, contents: bytes) -> None:
    """Write ``contents`` to ``path``, whole or not at all."""
    with atomic_file(path) as file:
        file.write(contents)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is damaged.
    """
    try:
        return json.loads(contents(path))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def lines_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as lines of JSON."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def check_format(path: Path, version: Any) -> None:
    """Refuse a file of a later version than is known here.

    Raises:
        ValueError: if it is of another version.
    """
    if version not in (str(known) for known in range(1, FORMAT + 1)):
        raise ValueError(
            f"{path} has the format {version}, and this pyrovae reads up to {FORMAT}: install the "
            "pyrovae that wrote it, or a later one; or the file is damaged"
        )


def digest(*parts: Any) -> str:
    """SHA-256 of anything that JSON can hold, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits; of a configuration without its ``PLACES``.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is no regular file.
    """
    known = contents(path)
    return hashlib.sha256(PLACES.sub(b"", known) if path.suffix == ".toml" else known).hexdigest()


def check_unchanged(folder: Path, digests: Mapping[str, str]) -> None:
    """Refuse files that are not as they were written.

    Args:
        folder: that holds them.
        digests: from :func:`digest_of`, by the name of the file.

    Raises:
        FileNotFoundError: if one is missing.
        ValueError: if one has changed.
    """
    for name, known in digests.items():
        path = folder / Path(name).name
        if digest_of(path) != known:
            remedy = "restore it from a copy"
            if path.suffix == ".toml":
                remedy += (
                    " (only its lines name, data_dir, device and max_minutes may be edited), or "
                    f"train anew with its settings: pyrovae fit --config {path} --out NEW"
                )
            raise ValueError(
                f"{path} is damaged or was edited: it is not what it was when {folder} was "
                f"trained; {remedy}"
            )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Any = None) -> None:
    """Write named tensors and a JSON header to a safetensors file; see :func:`tensor_bytes`."""
    write_bytes(path, tensor_bytes(tensors, about))


def tensor_bytes(tensors: Mapping[str, Tensor], about: Any = None) -> bytes:
    """The contents of a safetensors file.

    Args:
        tensors: by name; tensors that share memory are written separately.
        about: anything that JSON can hold; stored in the file's header.
    """
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    header = {"format": str(FORMAT), "about": json.dumps(about), "tensors": _digest_of_tensors(own)}
    # one entry, since the library writes several in random order
    sealed = {"pyrovae": json.dumps(header | {"digest": digest(header)})}
    written: bytes = serialize(own, metadata=sealed)
    return written


def _digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def read_about(path: Path) -> Any:
    """Read the JSON header alone of a file that :func:`write_tensors` wrote, and check it.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_tensors`.
    """
    with _tensor_file(path) as (_, header):
        return json.loads(header["about"])


def format_of(path: Path) -> int:
    """The version of a file that :func:`write_tensors` wrote, 1 for files without one.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_tensors`.
    """
    with _tensor_file(path) as (_, header):
        return int(header["format"])


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Read a file that :func:`write_tensors` wrote, and check that it is as it was written.

    Args:
        path: of the file. An older one, without digests, is read as it is.

    Returns:
        The tensors by name, on the CPU, and the contents of the header.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is damaged, or no safetensors file.
    """
    with _tensor_file(path) as (file, header):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(header["about"])
    if "tensors" in header and _digest_of_tensors(tensors) != header["tensors"]:
        raise ValueError(f"{path} is damaged: its tensors do not have the digest in its header")
    return tensors, about


@contextlib.contextmanager
def _tensor_file(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """An opened file, and its checked header; older ones have no digest of their tensors."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing")
    check_regular(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.keys() <= {"about"}:
                yield file, {"format": "1", "about": "null"} | metadata
                return
            header = json.loads(metadata.get("pyrovae", "{}"))
            if "format" in header:
                check_format(path, header["format"])
            if header.pop("digest", None) != digest(header):
                raise ValueError(f"{path} is damaged: its header does not have its own digest")
            yield file, {"format": "1"} | header
    except (safetensors.SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def check_values(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse tensors of a type that a model would change, and values that are not finite.

    Args:
        path: of the file with the tensors, for messages.
        expected: the tensors of a new model, by name; where it has infinities, they are allowed.
        found: to be checked; names that the model does not have are ignored.

    Raises:
        ValueError: if one is of another type, or not finite.
    """
    for name, here in expected.items():
        there = found.get(name, here)
        if torch.promote_types(here.dtype, there.dtype) != here.dtype or (
            here.is_floating_point() != there.is_floating_point()
        ):
            raise ValueError(
                f"{path} holds {name} as {there.dtype}, and the model has {here.dtype}; restore it "
                "from a copy, or build the model with that type"
            )
        if there.shape == here.shape and there.is_floating_point():
            usable = torch.isfinite(there) | ~torch.isfinite(here.to(there.device))
            if not bool(usable.all()):
                raise ValueError(
                    f"{path} holds {name} with values that are not finite (NaN or inf); restore it "
                    "from a copy, or train again"
                )
