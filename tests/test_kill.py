"""A run killed at 30 random moments, and resumed each time, ends in the same bits."""

import os
import random
import signal
import time
from functools import partial
from itertools import pairwise
from statistics import median

import pyro
import pytest
import torch

from pyrovae._process.files import read_tensors
from pyrovae.likelihoods import Bernoulli
from pyrovae.objectives import Beta
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import GaussianMixture
from pyrovae.training import fit, loop
from pyrovae.vae import VAE

KILLS = 30
OPTIONS = {"epochs": 40, "batch_size": 10, "warmup": 0.1, "averaging": 0.9, "clip_norm": 20.0}


def note(pipe, leave, progress):
    """Reports a step, and waits for leave to take the next, so that no run gets far ahead."""
    os.write(pipe, b".")
    os.read(leave, 1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["off", "graph"])
def test_a_run_killed_at_random_moments_ends_in_the_same_weights(
    mode, network, digits, tmp_path, monkeypatch
):
    """With a checkpoint after each step, so that many kills fall into the writing of one."""

    def run(out, resume, report=None):
        torch.manual_seed(0)
        pyro.clear_param_store()
        shape = (1, 8, 8)
        posterior = DiagonalNormal(2, shape, network)
        vae = VAE(GaussianMixture(2, components=3), Bernoulli(2, shape, network), posterior)
        objective = Beta(schedule="linear")
        options = OPTIONS | {"objective": objective, "compile": mode, "device": "cpu"}
        return fit(vae, digits, **options, out=out, resume=resume, report=report)

    whole = run(tmp_path / "whole", False)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    out = tmp_path / "killed"
    moments = random.Random(mode)
    intervals = [0.0] * 3  # between reports; most are a step with its checkpoint, few are staging
    for _ in range(KILLS):
        (reading, writing), (waiting, leave) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:  # in here nothing is left to pytest
            try:
                run(out, out.exists(), partial(note, writing, waiting))
            finally:
                os._exit(0)
        os.close(writing)
        os.close(waiting)
        times = []
        for _ in range(moments.randint(1, 14)):  # reports of a step, or of the beginning
            assert os.read(reading, 1), "it ended before it was killed"
            times.append(time.monotonic())
            os.write(leave, b".")
        intervals += [later - earlier for earlier, later in pairwise(times)]
        time.sleep(moments.uniform(0.0, median(intervals)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(leave)
    assert 20 < read_tensors(out / "last.safetensors")[1]["progress"]["step"] < 280
    finished = run(out, True)
    for name in ("model.safetensors", "last.safetensors"):
        expected, found = (read_tensors(folder / name)[0] for folder in (tmp_path / "whole", out))
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            assert torch.equal(value, found[key]), key
    kept = ("epoch", "step", "elbo", "reconstruction", "kl", "objective")
    for one, other in zip(whole.metrics, finished.metrics, strict=True):
        assert {key: one[key] for key in kept} == {key: other[key] for key in kept}
