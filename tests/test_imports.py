"""Imports go one way, heavy ones wait, and importing the package changes nothing global."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pyrovae

PACKAGE = Path(pyrovae.__file__).parent

LAYERS = [
    {
        "estimates",
    },
    {
        "networks",
    },
    {
        "likelihoods",
        "posteriors",
        "priors",
    },
    {
        "vae",
    },
    {
        "options",
    },
    {
        "calibration_cli",
        "comparison_cli",
        "diagnose_cli",
        "evaluate_cli",
        "gap_cli",
        "ledger_cli",
        "queries_cli",
        "refit_cli",
    },
    {
        "cli",
    },
    {
        "__main__",
    },
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}

COMMANDS = {"cli", "options"} | {module for module in RANK if module.endswith("_cli")}
PICTURES = {"pictures", "refit"} | {module for module in RANK if module.endswith("figures")}

ONLY_IN = {
    "click": COMMANDS,
    "matplotlib": PICTURES,
    "rich": {"-"},
    "torchvision": {"-"},
    "sklearn": {"probes", "sources"},
    "safetensors": {"checkpoint"},
    "zuko": {"-"},
}

MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported(module):
    """Names of the modules that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "pyrovae":
                yield from (f"pyrovae.{alias.name}" for alias in node.names)


def test_every_module_has_a_layer():
    assert set(MODULES) == set(RANK)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    for name in imported(module):
        package, _, inner = name.partition(".")
        if package == "pyrovae" and inner in RANK:
            assert RANK[inner] < RANK[module], f"{module} imports {inner}, which is not below it"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_have_one_home(module):
    for name in imported(module):
        homes = ONLY_IN.get(name.partition(".")[0])
        assert homes is None or module in homes, f"{module} imports {name}"


def python(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout


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


def test_public_names_are_found_where_they_live():
    for name in pyrovae.__all__:
        assert getattr(pyrovae, name).__name__ == name
    assert set(pyrovae.__all__) <= set(dir(pyrovae))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pyrovae.nothing  # noqa: B018


def test_modules_are_attributes_that_are_imported_when_used():
    code = "import pyrovae, sys; assert 'torch' not in sys.modules; print(pyrovae.data.load)"
    assert python(code).startswith("<function load")
    assert pyrovae.priors.StandardNormal(2)().event_shape == (2,)
    assert not hasattr(pyrovae, "_private")
