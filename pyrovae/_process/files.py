r"""Files that are whole or absent: each is written under a temporary name, then renamed.

Tensors are stored as safetensors, which cannot carry code.
"""

import contextlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import safetensors
from safetensors.torch import save as serialize
from torch import Tensor


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that replaces ``path`` when the block ends, and is deleted if the block fails.

    Args:
        path: of the file; its folder is made, but not the parents of that folder.
    """
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that becomes ``path`` when the block ends, and is deleted if the block fails.

    Args:
        path: of the folder; its parents are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        folder.chmod(0o755)
        yield folder
        folder.rename(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_bytes(path: Path, contents: bytes) -> None:
    """Write ``contents`` to ``path``, whole or not at all."""
    with atomic_file(path) as file:
        file.write(contents)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


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
    contents: bytes = serialize(own, metadata={"about": json.dumps(about)})
    return contents


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Read a file that :func:`write_tensors` wrote.

    Args:
        path: of the file.

    Returns:
        The tensors by name, on the CPU, and the contents of the header.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is not a complete safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "null"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
