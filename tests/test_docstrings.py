"""The examples in docstrings are run, and give what they show."""

import doctest
import inspect
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import pyrovae
from pyrovae.data import Split
from pyrovae.likelihoods import Bernoulli
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal

PACKAGE = Path(pyrovae.__file__).parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__main__"
)


def at_hand():
    """What examples may use without saying so: see docs/api/index.md."""
    torch.manual_seed(0)
    shape, network = (1, 8, 8), partial(MLP, hidden_dims=(16,))
    images = load_digits().images[:64, None]
    x = torch.from_numpy((images > 8).astype(np.float32))
    vae = pyrovae.VAE(
        StandardNormal(2), Bernoulli(2, shape, network), DiagonalNormal(2, shape, network)
    )
    vae.likelihood.initialize(x)
    return {
        "pyrovae": pyrovae,
        "torch": torch,
        "vae": vae.eval(),
        "x": x,
        "data": Split.from_array(x),
    }


@pytest.mark.contract
@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name, tmp_path, monkeypatch):
    module = import_module(name)
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        if test.examples:
            test.globs.update(at_hand())
            torch.manual_seed(0)
            runner.run(test)
    assert runner.summarize().failed == 0


@pytest.mark.contract
def test_every_public_class_and_function_has_an_example():
    wings = {module.split(".")[1] for module in MODULES if "." in module} - {"_process", "cli"}
    for wing in sorted(wings):
        face = import_module(f"pyrovae.{wing}")
        for name in face.__all__:
            value = getattr(face, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                assert ">>>" in (value.__doc__ or ""), f"pyrovae.{wing}.{name} has no example"
