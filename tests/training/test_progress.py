"""The history of a training has a column for each metric, and prints as a table."""

import numpy as np
import pytest

from pyrovae.data import load
from pyrovae.evidence import evaluate
from pyrovae.training import History, fit
from pyrovae.training.progress import Progress
from tests.conftest import SEEDS
from tests.oracles import assert_within


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
    assert np.isnan(history.validation_error).all()
    assert repr(fitted).startswith("Fit(3 epochs, elbo=-")
    assert fitted.to_dict()["metrics"] == fitted.metrics


@pytest.mark.parametrize("seed", SEEDS)
def test_the_error_of_an_epoch_is_that_over_its_examples(vae, seed):
    """Of 1,258 in 79 batches, whose spread is known to 8 %; the weights hardly move."""
    data = load("digits").train
    binary = (data.batch(np.arange(len(data))) > 7).float()
    fitted = fit(vae, binary, epochs=3, batch_size=16, learning_rate=1e-12, seed=seed)
    expected = evaluate(vae, binary, samples=1, seed=seed).elbo.standard_error
    for error in fitted.history.elbo_error:
        assert_within(error, expected, 0.08 * expected)


def test_one_batch_has_no_error(vae, digits):
    assert np.isnan(fit(vae, digits, epochs=2, batch_size=64).history.elbo_error).all()


def test_metrics_of_older_versions_have_no_errors():
    history = History.of([row(1, -95.0), row(2, None)])
    assert np.isnan(history.elbo_error).all()
    assert history.to_dict()["validation_error"] == [None, None]


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


def test_a_history_is_a_data_frame_and_a_table_in_notebooks(vae, digits):
    history = fit(vae, digits, epochs=12).history
    frame = history.to_pandas()
    assert list(frame.columns) == list(history.to_dict())
    assert frame["elbo"].tolist() == history.elbo.tolist()
    shown = history._repr_html_()
    assert shown.count("<tr>") == 11  # five epochs at either end, and dots between them
    assert "NaN" not in shown
    assert fit(vae, digits, epochs=1)._repr_html_().startswith("<table")
    assert vae._repr_html_().count("<tr>") == 3
