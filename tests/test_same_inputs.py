"""Every function takes the same kinds of data, and gives the same for the same numbers."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from torch.utils.data import DataLoader, TensorDataset

import pyrovae
from pyrovae import diagnostics, evidence, kl, queries
from pyrovae.data import as_split
from pyrovae.likelihoods import Normal
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import Laplace, StandardNormal
from pyrovae.vae import VAE

X = np.random.default_rng(0).integers(-2, 3, (12, 3))  # the same numbers in every type

INPUTS = {
    "float64 tensor": lambda: torch.tensor(X, dtype=torch.float64),
    "integer tensor": lambda: torch.tensor(X),
    "float64 array": lambda: X.astype(np.float64),
    "integer array": lambda: X,
    "float16 array": lambda: X.astype(np.float16),
    "frame": lambda: pd.DataFrame(X.astype(float), columns=list("abc")),
    "sparse matrix": lambda: scipy.sparse.csr_matrix(X.astype(float)),
    "sparse array": lambda: scipy.sparse.coo_array(X.astype(float)),
    "split": lambda: as_split(X),
    "dataset": lambda: TensorDataset(torch.tensor(X).float()),
    "loader": lambda: DataLoader(TensorDataset(torch.tensor(X).float()), batch_size=5),
}

Z = torch.zeros(12, 2)

FUNCTIONS = {
    "fit": lambda vae, x: pyrovae.fit(vae, x, epochs=1, compile="off").metrics[0]["elbo"],
    "evaluate": lambda vae, x: pyrovae.evaluate(vae, x, samples=2).per_example.elbo,
    "encode": lambda vae, x: vae.encode(x),
    "reconstruct": lambda vae, x: vae.reconstruct(x),
    "log_likelihood": lambda vae, x: vae.log_likelihood(x, Z),
    "log_joint": lambda vae, x: vae.log_joint(x, Z),
    "check_data": lambda vae, x: vae.check_data(x),
    "place": lambda vae, x: vae.place(x),
    "score": lambda vae, x: queries.score(vae, x, samples=4).log_evidence,
    "encodings": lambda vae, x: torch.cat(queries.encodings(vae, x)),
    "impute": lambda vae, x: queries.impute(vae, x, X > -2, samples=40).mean,
    "kl": lambda vae, x: kl.ledger(vae, x, samples=(2,)).closed_form.value,
    "gap": lambda vae, x: (
        diagnostics.gap(vae, x, images=2, samples=4, steps=2, nuts=None).elbo.value
    ),
    "compare_gradients": lambda vae, x: (
        diagnostics.compare_gradients(vae, x, draws=2).estimators[0].noise.variance.value
    ),
    "aggregate_draws": lambda vae, x: diagnostics.aggregate_draws(vae, x, draws=2).z,
    "per_example": lambda vae, x: evidence.per_example(vae, x, samples=2).elbo,
    "importance_weighted": lambda vae, x: (
        evidence.importance_weighted(vae, x, samples=2).log_evidence
    ),
    "annealed": lambda vae, x: evidence.annealed(vae, x, samples=2, temperatures=2).log_evidence,
    "integrated": lambda vae, x: evidence.integrated(vae, x).log_evidence,
}

# of these the default tier takes two inputs
HEAVY = ("fit", "integrated", "gap", "impute", "annealed", "compare_gradients")


def built():
    torch.manual_seed(0)

    def network(inside, outside):
        return MLP(inside, outside, hidden_dims=(4,))

    return VAE(StandardNormal(2), Normal(2, (3,), network), DiagonalNormal(2, (3,), network))


@pytest.mark.filterwarnings("ignore:the effective sample size:UserWarning")
@pytest.mark.filterwarnings("ignore:the weights of:UserWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "integrated" else [])
        for name in FUNCTIONS
    ],
)
def test_every_function_takes_every_kind_of_data(name):
    def result(x):
        vae = built()
        torch.manual_seed(1)
        with torch.enable_grad() if name in ("fit", "gap") else torch.no_grad():
            return FUNCTIONS[name](vae, x)

    truth = result(torch.tensor(X).float())
    for kind in ["float64 array", "frame"] if name in HEAVY else INPUTS:
        if (name, kind) == ("reconstruct", "loader"):  # a loader draws a seed of its own
            continue
        found = result(INPUTS[kind]())
        if truth is not None:
            same = torch.as_tensor(found).float(), torch.as_tensor(truth).float()
            torch.testing.assert_close(*same, msg=lambda text, kind=kind: f"{kind}: {text}")


def test_decode_takes_arrays_of_codes():
    vae, z = built(), np.ones((4, 2))
    assert torch.equal(vae.decode(z), vae.decode(torch.ones(4, 2)))


@pytest.mark.parametrize("data", [None, "rows.npy", X[0], X.astype(complex), X[:0]])
@pytest.mark.parametrize("name", ["fit", "evaluate", "encode", "score", "integrated"])
def test_what_is_no_data_is_refused_in_one_line(name, data):
    with pytest.raises((TypeError, ValueError)) as caught:
        FUNCTIONS[name](built(), data)
    assert "\n" not in str(caught.value)
    assert "no attribute" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("place", "impute")])
def test_data_of_another_width_are_refused_with_both_shapes(name):
    with pytest.raises(ValueError, match=r"\(2,\)|, 2\)"):
        FUNCTIONS[name](built(), np.zeros((12, 2)))


def test_parts_that_do_not_fit_are_refused_by_the_vae():
    likelihood, posterior = built().likelihood, built().posterior
    for prior, message in (
        ("laplace", r"'laplace', .* write pyrovae.priors.Laplace\(latent_dim\)"),
        ("mixture:components=5", r"write pyrovae.priors.GaussianMixture\(latent_dim\)"),
        ("nonsense", "make an object of a class first"),
        (pyrovae.priors.Laplace, "the class Laplace; make an object"),
        (torch.distributions.Normal(0.0, 1.0), "a distribution, Normal; give a function"),
    ):
        with pytest.raises(TypeError, match=message):
            VAE(prior, likelihood, posterior)
    with pytest.raises(TypeError, match=r"write pyrovae.likelihoods.Normal\(latent_dim, event"):
        VAE(Laplace(2), "normal", posterior)
    with pytest.raises(TypeError, match=r"write pyrovae.posteriors.DiagonalNormal\(latent_dim"):
        VAE(Laplace(2), likelihood, "diagonal")
    with pytest.raises(ValueError, match=r"Normal fails on shape \(2, 3\).*\(\*batch, 2"):
        VAE(Laplace(3), likelihood, posterior)
    with pytest.raises(ValueError, match=r"z of shape \(2,\), .* \(4,\); build both"):
        VAE(Laplace(2), likelihood, DiagonalNormal(4, (3,), MLP))
    with pytest.raises(ValueError, match=r"posterior DiagonalNormal fails on shape \(2, 3\)"):
        VAE(Laplace(2), likelihood, DiagonalNormal(2, (5,), MLP))
    with pytest.raises(TypeError, match=r"network must be a factory.*got 'mlp'"):
        DiagonalNormal(2, (3,), "mlp")
    with pytest.raises(TypeError, match=r"network must be a factory.*got a MLP"):
        DiagonalNormal(2, (3,), MLP((3,), (2, 2)))


class Flattening(torch.nn.Module):
    """A network that takes the first dimension for the batch, and the others for one example."""

    def __init__(self, inside, outside):
        super().__init__()
        self.outside = outside
        self.map = torch.nn.Linear(int(np.prod(inside)), int(np.prod(outside)))

    def forward(self, x):
        return self.map(x.reshape(len(x), -1)).reshape(len(x), *self.outside)


@pytest.mark.parametrize("method", ["iw", "ais", "quadrature"])
def test_a_network_that_flattens_is_told_the_contract(method):
    vae = VAE(StandardNormal(2), Normal(2, (3,), Flattening), DiagonalNormal(2, (3,), Flattening))
    pyrovae.fit(vae, X, epochs=1, compile="off")
    options = {"ais": {"samples": 2, "temperatures": 2}, "iw": {"samples": 2}}.get(method, {})
    with pytest.raises(ValueError, match=r"\(\*batch, \*in_shape\) to \(\*batch, \*out_shape\)"):
        pyrovae.evaluate(vae, X, method=method, **options)


class OwnPoisson(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = MLP((2,), (1, 8, 8), hidden_dims=(4,))

    def forward(self, z):
        return pyrovae.distributions.Poisson(self.decoder(z).exp()).to_event(3)


def test_scaled_counts_are_named_as_such():
    vae = VAE(StandardNormal(2), OwnPoisson(), DiagonalNormal(2, (1, 8, 8), MLP))
    digits = pyrovae.data.load("digits", scaling="unit")
    for call in (
        lambda: pyrovae.fit(vae, digits, epochs=1),
        lambda: pyrovae.evaluate(vae, digits.test, samples=2),
        lambda: vae.log_likelihood(digits.test, torch.zeros(len(digits.test), 2)),
    ):
        with pytest.raises(ValueError, match=r"holds 0.*if the data were scaled, leave them"):
            call()
