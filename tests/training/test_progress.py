"""The history of a training has a column for each metric, and prints as a table."""

import numpy as np
import pytest

from pyrovae.training import History, fit
from pyrovae.training.progress import Progress


def row(epoch, validation_elbo):
    return {
        "epoch": epoch,
        "step": 4 * epoch,
        "elbo": -100.0 + epoch,
        "reconstruction": -90.0 + epoch,
        "kl": 10.0,
        "objective": -100.0 + epoch,
        "validation_elbo": validation_elbo,
        "seconds": 0.5 * epoch,
        "images_per_second": 1234.5,
    }


def test_columns_are_the_metrics_of_fit(vae, digits):
    fitted = fit(vae, digits, epochs=3, batch_size=32, device="cpu")
    history = fitted.history
    assert len(history) == 3
    assert set(history.to_dict()) == set(fitted.metrics[0])
    for name, column in history.to_dict().items():
        assert column == [each[name] for each in fitted.metrics]
        assert np.array_equal(history[name], getattr(history, name), equal_nan=True)
    assert np.isnan(history.validation_elbo).all()
    assert repr(fitted).startswith("Fit(3 epochs, elbo=-")
    assert fitted.to_dict()["metrics"] == fitted.metrics


def test_a_long_history_prints_its_ends():
    history = History.of([row(epoch, -95.0 if epoch % 2 else None) for epoch in range(1, 21)])
    lines = repr(history).splitlines()
    assert [line.split()[0] for line in lines] == [
        *("epoch", "1", "2", "3", "...", "18", "19", "20"),
    ]
    assert lines[1].split() == ["1", "-99.00", "-89.00", "10.00", "-99.00", "-95.00"]
    assert len({len(line) for line in lines if "..." not in line}) == 1


def test_no_epochs_are_a_table_without_rows():
    assert len(History.of([])) == 0
    assert len(repr(History.of([])).splitlines()) == 1


def test_an_unknown_column_is_refused_with_those_there_are():
    with pytest.raises(KeyError, match=r"no column 'loss'; the columns are epoch, step, elbo"):
        History.of([])["loss"]


@pytest.mark.parametrize("absurd", [-np.inf, np.nan])
def test_a_bound_that_is_not_finite_is_the_worst_and_no_better_than_the_next(absurd):
    progress = Progress(epochs=9, steps_per_epoch=1)
    assert [progress.validate(elbo) for elbo in (absurd, absurd, -9.0, absurd, -8.0, -8.5)] == [
        *(True, True, True, False, True, False)
    ]
    assert progress.best_validation_elbo == -8.0
