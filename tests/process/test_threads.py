"""Threads take turns at torch's generator and Pyro's store, so each gets what it gets alone."""

import copy
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

import pyrovae
from pyrovae._process import isolation
from pyrovae.data import Split
from pyrovae.diagnostics import activity
from pyrovae.evidence import bounds, evaluate
from pyrovae.training import fit
from pyrovae.training.loaders import DataLoader

OPTIONS = {"epochs": 6, "batch_size": 16, "device": "cpu"}


def trained(vae, x, seed, report=None, **options):
    """The weights of a copy that was trained."""
    vae = copy.deepcopy(vae)
    fit(vae, x, **OPTIONS | options, seed=seed, report=report)
    return vae.state_dict()


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("mode", ["off", "graph"])
def test_two_fits_in_two_threads_are_those_of_one_after_the_other(vae, digits, mode):
    """Step by step, not one whole training after the other."""
    expected = [trained(vae, digits, seed, compile=mode) for seed in range(2)]
    order = []

    def work(seed):
        return trained(vae, digits, seed, lambda progress: order.append(seed), compile=mode)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, range(2)))
    for one, other in zip(found, expected, strict=True):
        assert equal(one, other)
    assert sum(np.diff(order) != 0) > 10


def test_the_batches_of_a_loader_are_the_same_as_well(vae, digits):
    def work(seed):
        loader = DataLoader(digits, batch_size=16, shuffle=True)
        return trained(vae, loader, seed, compile="off")

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the batches of a DataLoader")
        expected = [work(seed) for seed in range(2)]
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(work, range(2)))
    assert equal(found[0], expected[0])
    assert equal(found[1], expected[1])


LOOKS = {
    "evaluate": lambda vae, x: evaluate(vae, x, samples=5).elbo.value,
    "bounds": lambda vae, x: bounds(vae, x, 3).elbo.sum().item(),
    "sample": lambda vae, x: vae.sample(3).sum().item(),
    "encode": lambda vae, x: vae.encode(x).sum().item(),
    "reconstruct": lambda vae, x: vae.reconstruct(x).sum().item(),
    "activity": lambda vae, x: str(activity(vae, Split.from_array(x))),
    "check": lambda vae, x: vae.check_data(x),
}


def test_what_other_threads_ask_changes_no_weights_and_gets_its_own_numbers(vae, digits):
    other = copy.deepcopy(vae)
    expected = trained(vae, digits, 1)

    def numbers():
        torch.manual_seed(5)
        return {name: look(other, digits) for name, look in LOOKS.items()}

    alone = numbers()
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(trained, vae, digits, 1, epochs=6)
        found = []
        while not training.done():
            # the seed is set in turn too, as a draw beside a step would change it
            with isolation.alone():
                found.append(numbers())
    assert equal(training.result(), expected)
    assert len(found) > 3
    assert all(each == alone for each in found)


def test_a_report_may_wait_for_another_thread(vae, digits):
    """Which it does without the training's random state, store and filters."""
    expected = trained(vae, digits, 0)
    pyro.param("mine", torch.ones(2))
    torch.manual_seed(3)
    state, filters = torch.get_rng_state(), list(warnings.filters)

    def report(progress):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(evaluate, copy.deepcopy(vae), digits, samples=2).result(60)
        assert torch.equal(torch.get_rng_state(), state)
        assert list(pyro.get_param_store().keys()) == ["mine"]
        assert warnings.filters == filters

    assert equal(trained(vae, digits, 0, report, epochs=6), expected)
    assert list(pyro.get_param_store().keys()) == ["mine"]


def test_what_a_thread_changes_between_steps_stays_changed(vae, digits):
    def report(progress):
        pyro.param(f"step {progress.step}", torch.ones(1))
        torch.rand(1)

    before = torch.get_rng_state()
    trained(vae, digits, 0, report, epochs=1)
    assert [*pyro.get_param_store().keys()] == [f"step {n}" for n in range(5)]
    assert not torch.equal(torch.get_rng_state(), before)


def test_one_vae_is_not_trained_by_two_threads(vae, digits):
    def report(progress):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(fit, vae, digits, **OPTIONS).result(60)

    with pytest.raises(RuntimeError, match="another thread is training parameters of this VAE"):
        fit(vae, digits, **OPTIONS, report=report)
    fit(vae, digits, **OPTIONS | {"epochs": 1})


def test_a_seed_set_by_another_thread_during_a_step_is_noticed(vae, digits):
    with ThreadPoolExecutor(1) as pool:

        def seeding():
            pool.submit(torch.manual_seed, 7).result(60)
            return vae.prior()

        seeded = pyrovae.VAE(seeding, vae.likelihood, vae.posterior)
        with pytest.raises(RuntimeError, match="another thread has seeded torch's generator"):
            fit(seeded, digits, **OPTIONS, compile="off")


def test_a_thread_that_is_interrupted_while_it_waits_leaves_the_queue(monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    with isolation.alone(), ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(isolation._turns.changed, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.submit(isolation._turns.take).result(60)
        monkeypatch.undo()
        assert isolation._turns.queue == [threading.get_ident()]
    assert isolation._turns.queue == []


def test_a_process_that_is_forked_waits_for_no_thread_of_the_other():
    inside, forked = threading.Event(), threading.Event()

    def work():
        with isolation.isolated():
            inside.set()
            forked.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(60)
    with warnings.catch_warnings(action="ignore"):  # newer versions of Python warn of it
        child = os.fork()
    if child == 0:
        try:
            with isolation.isolated():
                os._exit(7)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    forked.set()
    thread.join()
    assert os.WEXITSTATUS(status) == 7


def test_forked_random_states_have_one_home():
    """Elsewhere they would be saved and restored out of turn."""
    package = Path(pyrovae.__file__).parent
    users = [p.stem for p in package.rglob("*.py") if "torch.random.fork_rng()" in p.read_text()]
    assert users == []
