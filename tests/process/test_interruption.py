"""A signal ends a command whatever swallows it, and training after its step."""

import os
import signal
import time
import warnings

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from pyrovae._process import interruption
from pyrovae._process.interruption import AbandonedStep, after_step, at_once, heeded, held
from pyrovae.diagnostics import two_samples
from pyrovae.training import TrainingInterrupted, fit
from tests.models import StopAfter

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
A, B = np.random.default_rng(0).normal(size=(2, 60, 3))


@pytest.fixture(autouse=True)
def handlers():
    """Whatever happens, the process has its own handlers again."""
    before = {number: signal.getsignal(number) for number in (*STATUS, signal.SIGALRM)}
    yield
    after = {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)


def swallow(number=signal.SIGINT):
    try:
        send(number)
    except KeyboardInterrupt:
        return
    raise AssertionError("it was not raised")


def interrupted(work, block=heeded):
    """Work in a block, which must end with an interruption."""
    with pytest.raises(KeyboardInterrupt), block() as request:
        work(request)


@pytest.mark.parametrize("number", STATUS)
def test_a_swallowed_signal_is_raised_again(number):
    """Soon where work goes on, and else at the end of the block."""

    def work(_):
        swallow(number)
        start = time.monotonic()
        while time.monotonic() - start < 5:
            pass
        raise AssertionError("nothing was raised")

    interrupted(work)
    assert interruption.status() == STATUS[number]
    interrupted(lambda _: swallow(number))
    with heeded():
        pass
    assert interruption.status() is None


def test_one_that_python_drops_is_raised_again(capsys):
    class Deleted:
        def __del__(self):
            send()

    interrupted(lambda _: [str(Deleted()), time.sleep(5)])
    assert capsys.readouterr().err == ""


def test_signals_change_nothing_while_one_is_handled():
    done = []

    def work(_):
        try:
            send()
        finally:
            send(signal.SIGTERM)
            time.sleep(3 * interruption.AGAIN_SECONDS)
            done.append("saved")

    interrupted(work)
    assert done == ["saved"]
    assert interruption.status() == 130


def test_ignored_signals_stay_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with heeded(), after_step() as request:
        send(signal.SIGHUP)
    assert (interruption.status(), request.is_set()) == (None, False)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_forked_process_ends_as_if_there_were_no_block():
    with heeded():
        child = os.fork()
        if child == 0:
            try:
                send(signal.SIGTERM)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_an_exception_waits_until_an_extension_module_is_loaded():
    class ExtensionFileLoader:
        """It looks like that of Python, whose frames cannot run a test's code."""

        def exec_module(self):
            send()
            return "loaded"

    code = ExtensionFileLoader.exec_module.__code__
    ExtensionFileLoader.exec_module.__code__ = code.replace(
        co_qualname="ExtensionFileLoader.exec_module"
    )
    done = []
    interrupted(lambda _: [done.append(ExtensionFileLoader().exec_module()), time.sleep(5)])
    assert done == ["loaded"]


@pytest.mark.parametrize("how", ["signal", "exception"])
def test_an_interruption_passes_through_scikit_learn(monkeypatch, how):
    """Whose networks answer it with a warning, and go on half-trained."""
    backprop, calls = MLPClassifier._backprop, []

    def watched(*arguments):
        calls.append(1)
        if len(calls) == 3:
            if how == "exception":
                raise KeyboardInterrupt
            send()
        return backprop(*arguments)

    monkeypatch.setattr(MLPClassifier, "_backprop", watched)
    with pytest.raises(KeyboardInterrupt):
        two_samples(A, B)
    assert len(calls) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 <= two_samples(A, B).p_value <= 1


def test_the_first_signal_is_noted_and_a_later_one_acts_at_once(monkeypatch):
    done = []

    def work(request):
        send()
        send()  # of the same request, as timeout sends it
        assert request.number == signal.SIGINT
        monkeypatch.setattr(interruption, "SAME_SECONDS", 0.0)
        with held():
            send()
        done.append("saved")
        send()

    interrupted(work, after_step)
    assert done == ["saved"]


def test_a_step_that_has_changed_nothing_is_abandoned():
    with pytest.raises(AbandonedStep), after_step(), at_once():
        send()
    with after_step() as request:
        with at_once():
            pass
        send()
    assert request.is_set()


def test_after_the_block_a_signal_acts_as_it_would_have():
    numbers = []
    for number in STATUS:
        before = signal.signal(number, lambda number, frame: numbers.append(number))
        with after_step():
            send(number)
        signal.signal(number, before)
    assert numbers == [*STATUS]


def test_sigterm_saves_a_training_in_python_and_then_ends_the_process(vae, digits, tmp_path):
    child = os.fork()
    if child == 0:  # in here nothing is left to pytest
        try:
            report = StopAfter(3, signal.SIGTERM)
            options = {"epochs": 9, "batch_size": 32, "compile": "off"}
            fit(vae, digits, **options, out=tmp_path / "run", report=report)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
    fitted = fit(
        vae, digits, epochs=9, batch_size=32, compile="off", out=tmp_path / "run", resume=True
    )
    assert fitted.metrics[-1]["step"] == 18


def test_a_signal_in_the_last_step_is_not_swallowed(vae, digits, tmp_path):
    options = {"epochs": 2, "batch_size": 32, "compile": "off", "out": tmp_path / "run"}
    with pytest.raises(TrainingInterrupted):
        fit(vae, digits, **options, report=StopAfter(4))
    assert fit(vae, digits, **options, resume=True).stopped == "finished"
