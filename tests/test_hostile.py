"""Files that someone else made cannot run code, mislead, or reach beyond themselves.

Each hostile file is also given to a naive loader, which must be fooled by it: otherwise the test
would hold for any loader.
"""

import gzip
import importlib
import io
import json
import pickle
import shutil
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pyrovae
from pyrovae.data import load
from pyrovae.runs import Config, Run, start

SMALL = {"encoder": "mlp:hidden_dims=4", "decoder": "mlp:hidden_dims=4", "latent_dim": 2}

pytestmark = pytest.mark.xdist_group("hostile")  # one process makes its run once


class Payload:
    """What a pickle would do: leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "code-was-run"


def is_fooled(mark):
    """Whether code was run, after which the mark is removed."""
    was_run = mark.exists()
    mark.unlink(missing_ok=True)
    return was_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    rows = np.random.default_rng(0).normal(size=(60, 3))
    place = tmp_path_factory.mktemp("hostile")
    np.savetxt(place / "rows.csv", rows, delimiter=",", header="a,b,c", comments="")
    settings = {"data": {"name": str(place / "rows.csv")}, "model": SMALL}
    resolved = Config.resolve(settings | {"training": {"epochs": 1, "compile": "off"}})
    return start(*resolved, place / "run")[0]


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run, as someone might send it."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def objects(mark):
    x = np.empty((20, 3), object)
    x[:] = 1.0
    x[0, 0] = Payload(mark)
    return x


def test_a_pickle_in_an_npy_is_not_run(tmp_path, mark):
    path = tmp_path / "x.npy"
    np.save(path, objects(mark), allow_pickle=True)
    np.load(path, allow_pickle=True)
    assert is_fooled(mark)
    with pytest.raises(ValueError, match=r"save numbers with numpy\.save"):
        load(str(path))
    assert not mark.exists()


def test_a_pickle_in_an_npz_is_not_run(tmp_path, mark):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros((20, 3)), extra=objects(mark), allow_pickle=True)
    with np.load(path, allow_pickle=True) as file:
        file["extra"]
    assert is_fooled(mark)
    with pytest.raises(ValueError, match="extra"):
        load(str(path))
    assert not mark.exists()


@pytest.mark.parametrize("ending", ["npy", "npz", "csv", "parquet", "csv.gz", "csv.zip"])
def test_a_bare_pickle_is_not_run_under_any_name(ending, tmp_path, mark):
    path = tmp_path / f"x.{ending}"
    path.write_bytes(pickle.dumps(Payload(mark)))
    pickle.loads(path.read_bytes())
    assert is_fooled(mark)
    with pytest.raises(ValueError, match=ending.partition(".")[0]) as caught:
        load(str(path))
    assert len(str(caught.value).splitlines()) == 1
    assert not mark.exists()


@pytest.mark.parametrize("file", ["model.safetensors", "statistics.safetensors"])
def test_a_pickle_as_weights_is_not_run(file, run, mark):
    (run / file).write_bytes(pickle.dumps({"weight": 2.0, "payload": Payload(mark)}))
    pickle.loads((run / file).read_bytes())
    assert is_fooled(mark)
    opened = Run.open(run)
    read = opened.vae if file.startswith("model") else opened.statistics
    with pytest.raises(ValueError, match=file):
        read()
    assert not mark.exists()


def test_a_pickle_as_the_state_of_a_training_is_not_run(run, mark):
    (run / "last.safetensors").write_bytes(pickle.dumps(Payload(mark)))
    pickle.loads((run / "last.safetensors").read_bytes())
    assert is_fooled(mark)
    config, data = Config.resolve(Run.open(run).settings_to_resume({}))
    with pytest.raises(ValueError, match=r"last\.safetensors"):
        start(config, data, run, resume=True)
    assert not mark.exists()


def _use(run):
    opened = Run.open(run)
    opened.vae()
    Config.resolve(opened.settings_to_resume({}))[0].objective()


CODE = """
from pathlib import Path
Path({mark!r}).touch()
import torch
class Thing(torch.nn.Module):
    pass
def thing(*arguments, **options):
    return Thing()
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('prior = "normal"', 'prior = "hostile_code:Thing"'),
        ('prior = "normal"', 'prior = "hostile_code:thing"'),
        ('posterior = "diagonal"', 'posterior = "hostile_code:Thing:rate=2"'),
        ('encoder = "mlp:hidden_dims=4"', 'encoder = "hostile_code:Thing"'),
        ('objective = "elbo"', 'objective = "hostile_code:Thing"'),
    ],
)
def test_a_module_that_a_config_names_is_not_imported(old, new, run, mark, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hostile_code.py").write_text(CODE.format(mark=str(mark)))
    config = run / "config.toml"
    text = config.read_text()
    role = old.partition(" ")[0]
    line = next(line for line in text.splitlines() if line.startswith(f"{role} ="))
    config.write_text(text.replace(line, new))
    importlib.import_module(new.partition('"')[2].partition(":")[0])
    assert is_fooled(mark)
    sys.modules.pop("hostile_code")
    try:
        with pytest.raises(ValueError, match=r"hostile_code|config\.toml is damaged or") as caught:
            _use(run)
        assert len(str(caught.value).splitlines()) == 1
        assert not mark.exists()
        assert "hostile_code" not in sys.modules
    finally:
        sys.modules.pop("hostile_code", None)


def npy_that_claims(shape: str, kind: str = "<f4") -> bytes:
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(480)


def naive_npy(contents: bytes) -> np.ndarray:
    """Believes the header, and fills the array with what there is."""
    length = struct.unpack("<H", contents[8:10])[0]
    about = eval(contents[10 : 10 + length])
    x = np.empty(about["shape"], about["descr"])
    rest = np.frombuffer(contents[10 + length :], about["descr"])
    x.reshape(-1)[: len(rest)] = rest[: x.size]
    return x


@pytest.mark.parametrize("shape", ["(2**26, 4)", "(4, 2**26)", "(41, 3)"])
def test_a_header_that_claims_more_than_the_file_holds_is_refused(shape, tmp_path):
    contents = npy_that_claims(shape)
    assert naive_npy(contents).size > 120  # of which 120 are in the file
    (tmp_path / "x.npy").write_bytes(contents)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("x.npy", contents)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(ValueError, match=name) as caught:
            load(str(tmp_path / name))
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("shape", ["(2**62, 4)", "(2**63, 1)", "(-1, 4)"])
def test_a_header_whose_size_overflows_is_refused_without_a_warning(shape, tmp_path):
    (tmp_path / "x.npy").write_bytes(npy_that_claims(shape))
    with pytest.raises(ValueError, match=r"x\.npy cannot be read"):
        load(str(tmp_path / "x.npy"))


def test_a_header_with_code_is_not_evaluated(tmp_path, mark):
    code = f"(__import__('pathlib').Path({str(mark)!r}).touch() or 4, 3)"
    contents = npy_that_claims(code)
    naive_npy(contents)
    assert is_fooled(mark)
    (tmp_path / "x.npy").write_bytes(contents)
    with pytest.raises(ValueError, match=r"x\.npy"):
        load(str(tmp_path / "x.npy"))
    assert not mark.exists()


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    contents = path.read_bytes()
    end = 8 + struct.unpack("<Q", contents[:8])[0]
    return json.loads(contents[8:end]), contents[end:]


def naive_tensors(path: Path) -> dict[str, np.ndarray]:
    """Believes the header of a safetensors file."""
    about, data = parts(path)
    kinds = {"F32": "<f4", "I32": "<i4", "F64": "<f8", "I64": "<i8", "F16": "<f2"}
    return {
        name: np.frombuffer(data[slice(*each["data_offsets"])], kinds[each["dtype"]])
        for name, each in about.items()
        if name != "__metadata__"
    }


def relabelled(about: dict[str, Any], name: str) -> None:
    about[name]["dtype"] = "I32"


def moved(about: dict[str, Any], name: str) -> None:
    """Two tensors share their bytes."""
    sizes = {other: each["shape"] for other, each in about.items() if other != "__metadata__"}
    twin = next(other for other in sizes if other != name and sizes[other] == sizes[name])
    about[name]["data_offsets"] = about[twin]["data_offsets"]


def renamed(about: dict[str, Any], name: str) -> None:
    about["x"] = about.pop(name)


@pytest.mark.parametrize("lie", [relabelled, moved, renamed])
def test_weights_under_a_lying_header_are_refused(lie, run):
    path = run / "model.safetensors"
    before = naive_tensors(path)
    about, data = parts(path)
    shapes = [str(each.get("shape")) for each in about.values()]
    name = next(n for n, each in about.items() if shapes.count(str(each.get("shape"))) > 1)
    lie(about, name)
    header = json.dumps(about).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    after = naive_tensors(path)
    assert not all(np.array_equal(before[n], after.get(n)) for n in before)  # and no error
    with pytest.raises(ValueError, match=r"model\.safetensors|belong to another model"):
        pyrovae.load(run)


@pytest.mark.parametrize("length", [2**62, 2**40, 10**6])
def test_a_header_longer_than_its_file_is_refused(length, run):
    path = run / "model.safetensors"
    contents = struct.pack("<Q", length) + path.read_bytes()[8:]
    path.write_bytes(contents)
    assert contents[8 : 8 + length]  # all that is there, which a naive reader takes
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        pyrovae.load(run)


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(name: bytes, contents: bytes) -> bytes:
        checked = name + contents
        return struct.pack(">I", len(contents)) + checked + struct.pack(">I", zlib.crc32(checked))

    about = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + about + rows + chunk(b"IEND", b"")


@pytest.mark.parametrize("resized", [None, 8])
def test_an_image_that_claims_billions_of_pixels_is_refused(resized, tmp_path, monkeypatch):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.png").write_bytes(png_that_claims(60_000, 60_000))
    with monkeypatch.context() as naive:
        naive.setattr(Image, "MAX_IMAGE_PIXELS", None)
        with Image.open(folder / "0.png") as image:
            assert np.prod(image.size) == 3_600_000_000  # from 140 bytes
    with pytest.raises(ValueError, match=r"\.png|pixels") as caught:
        load(str(folder), image_size=resized)
    assert len(str(caught.value).splitlines()) == 1


def as_npy(x: np.ndarray) -> bytes:
    contents = io.BytesIO()
    np.save(contents, x)
    return contents.getvalue()


@pytest.mark.parametrize("name", ["../outside.npy", "../../outside.npy", "{top}/outside.npy"])
def test_a_member_of_an_archive_is_not_written_outside(name, tmp_path):
    top = tmp_path / "outer"
    (top / "inner/place").mkdir(parents=True)
    name = name.format(top=top)
    path = top / "inner/place/x.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, as_npy(np.random.default_rng(0).normal(size=(30, 3))))
    with zipfile.ZipFile(path) as file:
        (path.parent / file.namelist()[0]).write_bytes(file.read(file.namelist()[0]))
    written = [each for each in top.rglob("outside.npy") if each.parent != path.parent]
    assert written
    for each in written:
        each.unlink()
    assert load(str(path)).event_shape == (3,)
    assert not list(top.rglob("outside.npy"))


def test_a_packed_table_is_not_unpacked_onto_the_disk(tmp_path):
    path = tmp_path / "inner/x.csv.zip"
    path.parent.mkdir()
    rows = "a,b\n" + "1.5,2\n0.5,3\n" * 20
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../outside.csv", rows)
    with zipfile.ZipFile(path) as file:
        (path.parent / file.namelist()[0]).write_bytes(file.read(file.namelist()[0]))
    assert (tmp_path / "outside.csv").read_text() == rows
    (tmp_path / "outside.csv").unlink()
    assert load(str(path)).event_shape == (2,)
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["inner", "x.csv.zip"]


@pytest.mark.slow
def test_an_archive_that_grows_a_thousandfold_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "x.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(2**20))
    assert len(gzip.decompress(path.read_bytes())) > 100 * path.stat().st_size
    with pytest.raises(ValueError, match=r"x\.csv\.gz") as caught:
        load(str(path))
    assert len(str(caught.value).splitlines()) == 1


NAMES = ("<script>alert(1)</script>", "</svg><b>", "$\\frac{$", "$x$", "%s{0}", "a\\nb", "_^&#")


@pytest.mark.slow
def test_names_that_are_markup_are_names(tmp_path, command):
    """In messages, files and pictures, where matplotlib would read them as formulas."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    figure = Figure()
    figure.text(0, 0, NAMES[2])
    with pytest.raises(ValueError, match=r"frac"):
        figure.savefig(io.BytesIO())
    plt.close("all")
    rows = np.random.default_rng(0).normal(size=(60, len(NAMES)))
    header = ",".join(f'"{name}"' for name in NAMES)
    np.savetxt(tmp_path / "t.csv", rows, delimiter=",", header=header, comments="")
    small = ("--encoder", SMALL["encoder"], "--decoder", SMALL["decoder"], "--latent-dim", 2)
    fit = ("fit", "--data", "t.csv", *small, "--epochs", 1, "--compile", "off", "--out", "run")
    assert command(*fit).status == 0
    result = command("sample", "run", "--count", 3, "--out", "drawn.csv")
    assert result.status == 0, result.err
    import pandas

    assert tuple(pandas.read_csv(tmp_path / "drawn.csv").columns) == NAMES
