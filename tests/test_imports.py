"""Imports go one way, heavy ones wait, and importing the package changes nothing global."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import pyrovae

PACKAGE = Path(pyrovae.__file__).parent

# From the bottom up: a file imports its own wing, and wings above it in this list.
ORDER = [
    "_process", "distributions", "networks", "data", "estimates", "priors", "likelihoods",
    "posteriors", "vae", "kl", "objectives", "evidence", "queries", "diagnostics", "training",
    "plots", "runs", "report", "sklearn", "cli", "__main__",
]  # fmt: skip
ONLY_IN = {
    "click": "cli",
    "matplotlib": "plots",
    "rich": "training",
    "torchvision": "data",
    "safetensors": "_process",
    "zuko": "distributions",
}


def module_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = sorted(
    module_of(path)
    for path in PACKAGE.rglob("*.py")
    if path.parent != PACKAGE or path.stem != "__init__"
)


def imported(module):
    """The modules that a module imports, anywhere in it, with the names taken from each."""
    path = PACKAGE.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [alias.name for alias in node.names]
            if node.module == "pyrovae":
                yield from ((f"pyrovae.{name}", ()) for name in names)
            else:
                yield node.module, names


def wing_of(module):
    return module.partition(".")[0]


@pytest.mark.contract
def test_every_wing_has_a_place():
    assert {wing_of(module) for module in MODULES} == set(ORDER)


@pytest.mark.contract
@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    own = ORDER.index(wing_of(module))
    for name, _ in imported(module):
        package, _, inner = name.partition(".")
        if package == "pyrovae" and inner:
            other = ORDER.index(wing_of(inner))
            assert other <= own, f"{module} imports {inner}, which is not below it"


@pytest.mark.contract
@pytest.mark.parametrize("module", MODULES)
def test_nothing_private_crosses_a_wing(module):
    """Another wing is imported through its face, and its faces show no private names."""
    for name, taken in imported(module):
        package, _, inner = name.partition(".")
        if package != "pyrovae" or not inner or wing_of(inner) == wing_of(module):
            continue
        assert not [name for name in taken if name.startswith("_")], f"{module} imports {taken}"
        if wing_of(inner) != "_process":
            assert "." not in inner, f"{module} imports {inner}: take it from the wing's __init__"
            face = import_module(f"pyrovae.{inner}").__all__
            assert set(taken) <= set(face), f"{module} imports {taken} from {inner}"


@pytest.mark.contract
@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_have_one_home(module):
    for name, _ in imported(module):
        home = ONLY_IN.get(name.partition(".")[0])
        assert home is None or wing_of(module) == home, f"{module} imports {name}"


def python(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.contract
def test_importing_the_package_imports_nothing_heavy():
    loaded = python("import pyrovae, pyrovae.cli, sys; print(*sys.modules)").split()
    assert "click" in loaded
    heavy = ("torch", "pyro", "numpy", "matplotlib", "sklearn", "torchvision", "rich", "scipy")
    assert not set(heavy) & set(loaded)


def test_importing_every_module_changes_nothing_global():
    """Beyond what torch and pyro do when they are imported."""
    code = """
import os, signal, warnings, random
import matplotlib, numpy as np, pyro, rich.progress, scipy.stats, torch

def state():
    return (
        torch.get_default_dtype(), torch.get_num_threads(), torch.get_rng_state().tolist(),
        torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
        torch.distributions.Distribution._validate_args, pyro.settings.get(),
        list(pyro.get_param_store().keys()), np.random.get_state()[1].tolist(),
        random.getstate(), matplotlib.rcParams["backend"], dict(os.environ),
        signal.getsignal(signal.SIGINT), list(warnings.filters), str(np.geterr()),
    )

torch.manual_seed(1); np.random.seed(1); random.seed(1)
before = state()
import importlib
for name in %r:
    importlib.import_module("pyrovae." + name)
after = state()
print([i for i, (a, b) in enumerate(zip(before, after)) if a != b])
"""
    modules = [module for module in MODULES if module != "__main__"]
    assert python(code % (modules,)).strip() == "[]"


@pytest.mark.contract
def test_public_names_are_found_where_they_live():
    for name in pyrovae.__all__:
        assert getattr(pyrovae, name).__name__ == name
    assert set(pyrovae.__all__) <= set(dir(pyrovae))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pyrovae.nothing  # noqa: B018


@pytest.mark.contract
def test_modules_are_attributes_that_are_imported_when_used():
    code = "import pyrovae, sys; assert 'torch' not in sys.modules; print(pyrovae.data.load)"
    assert python(code).startswith("<function load")
    assert pyrovae.priors.StandardNormal(2)().event_shape == (2,)
    assert not hasattr(pyrovae, "_private")


@pytest.mark.contract
def test_no_test_imports_another_test():
    """What tests share is in tests/models.py and tests/oracles.py."""
    for path in Path(__file__).parent.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tests"):
                names = [node.module, *(alias.name for alias in node.names)]
                assert not any("test_" in name for name in names), path
