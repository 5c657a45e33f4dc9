"""Tables with gaps and with columns of several kinds, from the file to what the model says."""

import math
from functools import partial

import numpy as np
import pandas
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_wine

from pyrovae.data import Split
from pyrovae.evidence import evaluate
from pyrovae.likelihoods import Columns, Normal
from pyrovae.networks import MLP, Filled, Linear
from pyrovae.objectives import IWAE
from pyrovae.posteriors import FullNormal
from pyrovae.priors import StandardNormal
from pyrovae.runs import Config
from pyrovae.training import fit
from pyrovae.vae import VAE
from tests.conftest import EXPENSIVE_SEEDS, SEEDS
from tests.oracles import ppca_maximum

KINDS = {
    "height": "real",
    "income": "positive",
    "share": "proportion",
    "visits": "count",
    "member": "boolean",
    "city": "category",
}
CITIES = np.array(["Basel", "Lyon", "Turin"])


def table(rows, seed):
    """A table of six kinds of columns, all of which depend on two hidden numbers."""
    r = np.random.default_rng(seed)
    z = r.normal(size=(rows, 2))
    logits = z @ np.array([[1.0, -0.5, 0.3], [0.2, 0.8, -1.0]])
    mean = 1 / (1 + np.exp(-0.8 * z[:, 1]))
    return pandas.DataFrame(
        {
            "height": 170 + 8 * z[:, 0] + 4 * r.normal(size=rows),
            "income": np.exp(8 + 0.7 * z[:, 0] - 0.5 * z[:, 1] + 0.6 * r.normal(size=rows)),
            "share": r.beta(8 * mean, 8 * (1 - mean)),
            "visits": r.poisson(np.exp(1 + 0.5 * z[:, 1])),
            "member": r.random(rows) < 1 / (1 + np.exp(-1.5 * z[:, 0])),
            "city": CITIES[(logits + r.gumbel(size=(rows, 3))).argmax(1)],
        }
    )


def test_each_column_of_a_table_is_described_by_its_kind(tmp_path):
    table(300, 0).to_csv(tmp_path / "t.csv", index=False)
    config, data = Config.resolve({"data": {"name": str(tmp_path / "t.csv")}})
    assert {column.name: column.kind for column in data.schema.columns} == KINDS
    assert config.model["likelihood"].startswith("columns")


@pytest.mark.slow
@pytest.mark.parametrize("gaps", [False, True])
def test_the_columns_of_drawn_rows_are_distributed_as_those_of_the_data(gaps, tmp_path):
    """Two-sample tests of 10,000 drawn rows and the data, at 1% for all columns together."""
    frame = table(3_000, 0)
    if gaps:
        hidden = np.random.default_rng(1).random(frame.shape) < 0.2
        frame = frame.mask(hidden).convert_dtypes()  # counts stay whole numbers beside gaps
    frame.to_csv(tmp_path / "t.csv", index=False)
    settings = {"data": {"name": str(tmp_path / "t.csv")}, "model": {"latent_dim": 2}}
    config, data = Config.resolve(settings)
    assert {column.name: column.kind for column in data.schema.columns} == KINDS
    vae = config.build()
    fit(vae, data, epochs=80, batch_size=64, learning_rate=2e-3, averaging=0.99, seed=0)
    torch.manual_seed(0)
    drawn = vae.sample(10_000).numpy()
    held = data.train.batch(np.arange(len(data.train))).numpy()
    low = 0.01 / len(KINDS)
    for place, (name, kind) in enumerate(KINDS.items()):
        a, b = drawn[:, place], held[:, place]
        b = b[~np.isnan(b)]
        if kind in ("real", "positive", "proportion"):
            p = stats.ks_2samp(a, b).pvalue
        else:
            most = int(np.quantile(b, 0.99))
            counts = [np.bincount(v.clip(0, most).astype(int), minlength=most + 1) for v in (a, b)]
            p = stats.chi2_contingency(counts).pvalue
        assert p > low, f"{name} is distributed otherwise: p = {p:.2g}"


def holed(x, share, seed):
    gone = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share
    return torch.where(gone, torch.full_like(x, math.nan), x)


@pytest.mark.parametrize("seed", EXPENSIVE_SEEDS)
def test_a_linear_vae_reaches_the_maximum_of_ppca_on_wine_with_gaps(seed):
    """Of the mean log p(x_obs) that EM finds, within 0.05 nats, with 20% of values missing."""
    x = torch.tensor(load_wine().data)
    x = holed(((x - x.mean(0)) / x.std(0)).float(), 0.2, seed)
    best = ppca_maximum(x, 2)
    torch.manual_seed(seed)
    encoder = partial(Filled, network=partial(MLP, hidden_dims=(64,)))
    vae = VAE(StandardNormal(2), Normal(2, (13,), Linear), FullNormal(2, (13,), encoder))
    split = Split.from_array(x.numpy())
    fit(vae, split, epochs=300, batch_size=60, learning_rate=5e-3, averaging=0.98)
    found = evaluate(vae, split, method="exact").log_evidence.value
    assert best - 0.05 < found < best + 1e-4


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mixed", [False, True])
def test_with_gaps_the_importance_weighted_objective_is_that_of_miwae(mixed, seed):
    r"""By hand: log of the mean over draws of p(x_obs | z) p(z) / q(z | x_obs and mask).

    Mattei and Frellsen (2019), MIWAE, arXiv:1812.02633, equation 4.
    """
    torch.manual_seed(seed)
    text = "normal+poisson+bernoulli+log_normal"
    likelihood = Columns(2, (4,), MLP, columns=text) if mixed else Normal(2, (4,), MLP)
    encoder = partial(Filled, network=partial(MLP, hidden_dims=(8,)))
    vae = VAE(StandardNormal(2), likelihood, FullNormal(2, (4,), encoder))
    x = holed(vae.sample(20), 0.5, seed)
    torch.manual_seed(7)
    loss = IWAE(particles=5).loss(vae.model, vae.guide, x)
    torch.manual_seed(7)
    with torch.no_grad():
        seen = ~x.isnan()
        read = torch.cat([torch.where(seen, x, torch.zeros(())), seen.float()], -1)
        out = vae.posterior.encoder.network(read)
        q = vae.posterior(x)
        torch.testing.assert_close(q.loc, out[:, :2])
        z = q.sample((5,))
        inside = torch.where(seen, x, likelihood(z[0]).sample())  # any value in the support
        each = likelihood(z).base_dist.log_prob(inside)
        log_p = torch.where(seen, each, torch.zeros(())).sum(-1)
        log_w = log_p + vae.prior().log_prob(z) - q.log_prob(z)
        bound = (log_w.logsumexp(0) - math.log(5)).sum()
    assert loss == pytest.approx(-bound.item(), rel=1e-5)
