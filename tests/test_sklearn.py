"""The estimator keeps scikit-learn's contract, and its scores are those of models known exactly."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from pyrovae.sklearn import VariationalAutoencoder
from tests.conftest import EXPENSIVE_SEEDS

SMALL = {"encoder": "mlp:hidden_dims=8", "decoder": "mlp:hidden_dims=8", "epochs": 2, "samples": 5}
IRIS = StandardScaler().fit_transform(load_iris().data)


def kept(estimator):
    """Every check of scikit-learn's passes; only that of other array libraries may be left out."""
    rows = check_estimator(estimator, on_skip=None)
    failed = [row["check_name"] for row in rows if row["status"] != "passed"]
    assert set(failed) <= {"check_array_api_input"}
    assert len(rows) > 40


@pytest.mark.filterwarnings("ignore::UserWarning")  # of scikit-learn's own checks
def test_the_contract_of_scikit_learn_is_kept():
    kept(VariationalAutoencoder(**SMALL))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_contract_is_kept_as_it_is_by_default():
    kept(VariationalAutoencoder())


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_a_linear_vae_has_the_score_of_pca(seed):
    """Its maximum of the likelihood is that of PCA, which q of full covariance reaches."""
    linear = {"encoder": "linear", "decoder": "linear", "posterior": "full"}
    settings = {"epochs": 250, "batch_size": 150, "learning_rate": 0.1}
    vae = VariationalAutoencoder(2, **linear, **settings, random_state=seed).fit(IRIS)
    assert vae.score(IRIS) == pytest.approx(PCA(2).fit(IRIS).score(IRIS), abs=0.01)


def test_a_grid_search_in_a_pipeline_finds_the_better_dimension():
    """Of digits, with linear networks, eight dimensions are better than one, as in PCA."""
    settings = {"encoder": "linear", "decoder": "linear", "epochs": 25, "learning_rate": 0.05}
    vae = VariationalAutoencoder(**settings, samples=20, random_state=0)
    search = GridSearchCV(
        Pipeline([("scale", MinMaxScaler()), ("vae", vae)]), {"vae__latent_dim": [1, 8]}, cv=2
    ).fit(load_digits().data[:100])
    assert search.best_params_ == {"vae__latent_dim": 8}


def test_a_data_frame_keeps_its_names_and_gives_frames():
    frame = pd.DataFrame(IRIS, columns=["a", "b", "c", "d"])
    vae = VariationalAutoencoder(3, **SMALL, random_state=0).set_output(transform="pandas")
    codes = make_pipeline(StandardScaler().set_output(transform="pandas"), vae).fit_transform(frame)
    assert list(codes.columns) == [f"variationalautoencoder{i}" for i in range(3)]
    assert list(vae.feature_names_in_) == ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match="feature names should match"):
        vae.transform(frame[["b", "a", "c", "d"]])


def test_one_random_state_gives_one_result_and_nothing_global_changes(capsys):
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    vae = VariationalAutoencoder(**SMALL, random_state=3)
    first, again = (clone(vae).fit(IRIS) for _ in range(2))
    np.testing.assert_array_equal(first.transform(IRIS), again.transform(IRIS))
    np.testing.assert_array_equal(first.score_samples(IRIS), again.score_samples(IRIS))
    other = clone(vae).set_params(random_state=4).fit(IRIS)
    assert not np.array_equal(first.transform(IRIS), other.transform(IRIS))
    draws = first.sample(7, random_state=0)
    np.testing.assert_array_equal(draws, first.sample(7, random_state=0))
    assert draws.shape == (7, 4)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert capsys.readouterr() == ("", "")


def test_codes_decode_to_rows_in_the_dtype_given():
    vae = VariationalAutoencoder(**SMALL, random_state=0).fit(IRIS)
    for dtype in (np.float32, np.float64):
        codes = vae.transform(IRIS.astype(dtype))
        rows = vae.inverse_transform(codes)
        assert codes.dtype == rows.dtype == dtype
        assert rows.shape == IRIS.shape
    with torch.no_grad():
        expected = vae.vae_.decode(vae.vae_.encode(torch.from_numpy(IRIS)))
    np.testing.assert_allclose(rows, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"prior": "norml"}, "did you mean 'normal'"),
        ({"likelihood": "bernoulli"}, "bernoulli|outside the support"),
        ({"epochs": 0}, "epochs must be"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_what_cannot_be_used_is_refused_when_it_is_fitted(options, message):
    with pytest.raises(ValueError, match=message):
        VariationalAutoencoder(**SMALL | options).fit(IRIS)


def test_codes_of_another_width_are_refused():
    vae = VariationalAutoencoder(**SMALL, random_state=0).fit(IRIS)
    with pytest.raises(ValueError, match="have 2 columns, one for each dimension of z; got 4"):
        vae.inverse_transform(IRIS)
