"""Shared by all tests: a clean param store, one thread, and small components."""

import errno
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import pyro
import pytest
import torch
from torch import nn

from pyrovae.networks import MLP
from pyrovae.vae import VAE

SEEDS = (0, 1, 2)

EXPENSIVE_SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS[1:])]
"""The same for ``parametrize``, where a case takes a second or more: all but the first are slow."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A slow case of a test is not in the contract tier, whatever the test is."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.own_markers[:] = [mark for mark in item.own_markers if mark.name != "contract"]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small tensors are slower on several threads, and much slower on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """A shell or nohup starts jobs with signals ignored that tests send to themselves."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def clean_store() -> Iterator[None]:
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()
    # of the whole process, so whoever changes it puts it back
    assert pyro.distributions.is_validation_enabled()
    assert torch.distributions.Distribution._validate_args


@pytest.fixture
def network() -> Callable[..., nn.Module]:
    return partial(MLP, hidden_dims=(16,))


@pytest.fixture
def digits() -> torch.Tensor:
    """64 binarised digits, (64, 1, 8, 8)."""
    from sklearn.datasets import load_digits

    images = load_digits().images[:64, None]
    return torch.from_numpy((images > 8).astype(np.float32))


@pytest.fixture
def vae(network: Callable[..., nn.Module]) -> VAE:
    """A small Bernoulli VAE of 8x8 images with a two-dimensional standard normal prior."""
    from pyrovae.likelihoods import Bernoulli
    from pyrovae.posteriors import DiagonalNormal
    from pyrovae.priors import StandardNormal

    shape = (1, 8, 8)
    return VAE(StandardNormal(2), Bernoulli(2, shape, network), DiagonalNormal(2, shape, network))


@pytest.fixture
def full_disk(monkeypatch) -> Callable[[], AbstractContextManager[None]]:
    """A block in which no file can be finished, since no space is left."""

    def fails(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    @contextmanager
    def block() -> Iterator[None]:
        with monkeypatch.context() as full:
            full.setattr("os.fsync", fails)
            full.setattr("pyrovae._process.files.tempfile.TemporaryFile", fails)
            yield

    return block


class Result(NamedTuple):
    """What a command did: exit status, standard output and standard error."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(capsys, monkeypatch, tmp_path) -> Callable[..., Result]:
    """Run ``pyrovae`` in this process and an empty working folder."""
    from pyrovae.cli import app

    # refining q takes seconds for each command; this leaves it to a few examples
    monkeypatch.setattr("pyrovae.evidence.proposals.AFFORDABLE", 1e8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")  # main sets it; this puts it back
    capsys.readouterr()

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pyrovae", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            app.main()
        captured = capsys.readouterr()
        return Result(int(caught.value.code or 0), captured.out, captured.err)

    return run
