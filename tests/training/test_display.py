"""Progress is a live line in a terminal, and whole plain lines elsewhere."""

import io

import pytest
from rich.console import Console

from pyrovae.training import progress
from pyrovae.training.progress import Progress, TrainingDisplay, counting, numbers

MIDDLE = Progress(
    epochs=10,
    steps_per_epoch=4,
    epoch=3,
    position=2,
    step=14,
    seconds=7.0,
    images=200,
    epoch_seconds=0.5,
    reconstruction=-20_000.0,
    kl=2_000.0,
    squares=2_420_200.0,  # batches of 100 with -109 and -111 nats per example
    best_validation_elbo=-111.0,
    best_validation_error=0.5,
)


def console(**options):
    return Console(file=io.StringIO(), width=80, **options)


def test_plain_lines_say_everything_and_are_not_wrapped(monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    out = console()
    with TrainingDisplay("about " + "x" * 100, out) as shown:
        shown(MIDDLE)
    about, line = out.file.getvalue().splitlines()
    assert about == "about " + "x" * 100
    assert line == (
        "epoch 4/10  elbo -110.00 +- 1.00 = reconstruction -100.00 - kl 10.00  400 images/s  "
        "best validation elbo -111.00 +- 0.50  0:13 left"
    )


def test_plain_lines_are_few():
    out = console()
    with TrainingDisplay("about", out) as shown:
        shown.shown = float("inf")
        for _ in range(100):
            shown(MIDDLE)
    assert out.file.getvalue() == "about\n"


def test_nothing_is_shown_before_training_begins():
    out = console()
    with pytest.raises(ValueError, match="refused"), TrainingDisplay("about", out):
        raise ValueError("refused")
    assert out.file.getvalue() == ""


def test_a_narrow_terminal_has_everything_on_one_line():
    out = console(force_terminal=True)
    with TrainingDisplay("about", out) as shown:
        shown(MIDDLE)
        shown.bars.refresh()
    text = out.file.getvalue()
    for part in ("epoch 4/10", "elbo -110.00 +- 1.00 = rec -100.00 - kl 10.00", "400/s"):
        assert part in text


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_numbers_fit(width):
    assert len(numbers(MIDDLE, width)) <= width - 22


def test_an_epoch_that_has_just_ended_shows_its_own_numbers():
    row = {"reconstruction": -90.0, "kl": 9.0, "images_per_second": 1234.0}
    assert numbers(Progress(10, 4, epoch=1, metrics=[row])).startswith("elbo -99.00 = ")
    row["elbo_error"] = 0.4
    assert numbers(Progress(10, 4, epoch=1, metrics=[row])).startswith("elbo -99.00 +- 0.40 = ")
    assert numbers(Progress(10, 4)) == ""


def test_counting_has_plain_lines_outside_a_terminal(monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    out = console()
    with counting("5 samples each", 2_000, out) as advance:
        advance(500)
        advance(1_500)
    lines = out.file.getvalue().splitlines()
    assert lines[0].startswith("5 samples each  500/2,000  ")
    assert lines[1].startswith("5 samples each  2,000/2,000  0:00 left")


def test_counting_has_a_bar_in_a_terminal():
    out = console(force_terminal=True)
    with counting("5 samples each", 2_000, out) as advance:
        advance(2_000)
    assert "2,000/2,000" in out.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_training_goes_on_when_its_terminal_is_closed(monkeypatch, terminal):
    class Closed(io.StringIO):
        def isatty(self):
            return terminal

        def write(self, text=""):
            raise OSError(5, "Input/output error")

        flush = write

    monkeypatch.setattr("sys.stderr", Closed())
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with TrainingDisplay("64 digits") as display, counting("digits", 3) as count:
        display(Progress(epochs=1, steps_per_epoch=2))
        count(3)
