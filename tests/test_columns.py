"""A table of mixed columns: one decoder, and in each column the likelihood that describes it."""

import math
from copy import deepcopy
from functools import partial

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from pyrovae.distributions import base, observed_log_prob
from pyrovae.evidence import integrated
from pyrovae.likelihoods import (
    LIKELIHOODS,
    Categorical,
    Columns,
    Normal,
    Poisson,
    read_columns,
    write_columns,
)
from pyrovae.networks import MLP, NETWORKS, Linear, TableInput
from pyrovae.objectives import Elbo
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.queries import impute
from pyrovae.runs import Spec, options_of, resolve
from pyrovae.training.staging import Staged
from pyrovae.vae import VAE
from tests.models import ELEMENTWISE
from tests.oracles import assert_reached, assert_within

TEXT = "normal(scale=dimension)+poisson+categorical(levels=3)+normal(scale=dimension)+bernoulli"
TEXT += "+log_normal+categorical(levels=4)+beta+poisson+negative_binomial+student_t(df=3;scale=0.5)"
COUNT = 11
OPTIONS = {
    "binomial": {"total_count": 3},
    "discretized_logistic": {"levels": 4},
    "categorical": {"levels": 4},
}


NETWORK = partial(MLP, hidden_dims=(16,))


def table(network=NETWORK):
    return Columns(2, (COUNT,), network, columns=TEXT)


def make_vae():
    return VAE(StandardNormal(2), table(), DiagonalNormal(2, (COUNT,), NETWORK))


def rows(count=200, seed=0):
    """A table from a known mixed model."""
    torch.manual_seed(seed)
    x = make_vae().sample(count)
    x[:, 0], x[:, 3] = 5 + 2 * x[:, 0], 0.1 * x[:, 3] - 1
    return x


class Counted(nn.Module):
    """A network that counts its calls."""

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.network, self.calls = Linear(in_shape, out_shape), 0

    @property
    def output_bias(self):
        return self.network.output_bias

    def forward(self, x):
        self.calls += 1
        return self.network(x)


@pytest.mark.parametrize("batch", [(), (7,), (3, 7)])
def test_log_p_is_the_sum_over_the_columns_of_their_own_likelihoods(batch):
    likelihood = table().double()
    p = likelihood(torch.randn(*batch, 2, dtype=torch.float64))
    assert (p.batch_shape, p.event_shape) == (batch, (COUNT,))
    x = p.sample((5,))
    assert x.dtype == torch.float64
    z = torch.randn(*batch, 2, dtype=torch.float64)
    output = likelihood.decoder(z)
    total, first = 0, 0
    for group, places in zip(likelihood.groups, likelihood.places, strict=True):
        size = math.prod(group.decoder.out_shape)
        part = output[..., first : first + size].unflatten(-1, group.decoder.out_shape)
        torch.testing.assert_close(group.decoder(z), part)
        total = total + group.elements(part).log_prob(x[..., places]).sum(-1)
        torch.testing.assert_close(group(z).mean, group.elements(part).mean)
        first += size
    assert first == output.shape[-1]
    torch.testing.assert_close(likelihood(z).log_prob(x), total, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_columns_of_one_kind_are_that_likelihood(name):
    options = OPTIONS.get(name, {})
    text = write_columns([(name, options)] * 3)
    torch.manual_seed(0)
    alone = LIKELIHOODS[name](2, (3,), Linear, **options)
    torch.manual_seed(0)
    together = Columns(2, (3,), Linear, columns=text)
    z = torch.randn(50, 2)
    x = alone(z).sample()
    for likelihood in (alone, together):
        likelihood.initialize(x)
    assert torch.equal(together(z).log_prob(x), alone(z).log_prob(x))
    assert together.of_column(2).remedy == alone.remedy


def test_the_decoder_is_evaluated_once_and_counted_once():
    likelihood = table(Counted)
    p = likelihood(torch.randn(7, 2))
    p.log_prob(p.sample())
    assert likelihood.decoder.calls == 1
    names = [name for name, _ in likelihood.named_parameters()]
    assert len(names) == len(set(names))
    assert {name for name in names if "network" in name} == {
        "decoder.network.layer.weight",
        "decoder.network.layer.bias",
    }
    assert len(likelihood.groups) == 9  # of eleven columns


@pytest.mark.parametrize("network", [n for n in NETWORKS if n != "conv"])
def test_it_starts_each_column_at_its_data(network):
    x = rows(4_000)
    likelihood = table(NETWORKS[network])
    likelihood.initialize(x)
    with torch.no_grad():
        for parameter in [*likelihood.decoder.parameters()]:
            if parameter.dim() == 2 and len(parameter) == likelihood.decoder.out_shape[0]:
                parameter.zero_()
    p = base(likelihood(torch.zeros(2)))
    numbers = [0, 1, 3, 4, 7, 8, 9]
    torch.testing.assert_close(p.mean[numbers], x.mean(0)[numbers], rtol=1e-3, atol=1e-3)
    shares = [(x[:, 2] == k).float().mean() for k in range(3)]
    assert p.mean[2] == torch.stack(shares).argmax()
    deviation = x.std(0)[[0, 3]]
    torch.testing.assert_close(p.variance[[0, 3]].sqrt(), deviation, rtol=0.01, atol=0)


def test_a_network_without_a_bias_keeps_its_start():
    likelihood = table(lambda a, b: nn.Linear(a[0], b[0]))
    before = likelihood.decoder.bias.clone()
    likelihood.initialize(rows())
    assert torch.equal(likelihood.decoder.bias, before)


def test_a_copy_and_a_saved_one_are_independent_of_the_original():
    a, b = table(), table()
    a.initialize(rows())
    z = torch.randn(5, 2)
    x = a(z).sample()
    b.load_state_dict(a.state_dict())
    c = deepcopy(a)
    expected = a(z).log_prob(x)
    assert torch.equal(b(z).log_prob(x), expected)
    b.initialize(rows(seed=3))
    c.initialize(rows(seed=3))
    assert torch.equal(a(z).log_prob(x), expected)
    assert torch.equal(b(z).log_prob(x), c(z).log_prob(x))
    assert not torch.equal(b(z).log_prob(x), expected)


def test_a_vae_takes_a_table_and_its_gradients_are_finite():
    vae, x = make_vae(), rows()
    vae.check_data(x)
    vae.likelihood.initialize(x)
    p = vae.likelihood(torch.randn(8, 2))
    p.log_prob(p.sample()).sum().backward()
    for name, parameter in vae.likelihood.named_parameters():
        assert_reached(parameter, name)
    Trace_ELBO().differentiable_loss(vae.model, vae.guide, x).backward()
    assert all(parameter.grad.isfinite().all() for parameter in vae.parameters())
    assert vae.sample(3).shape == vae.reconstruct(x[:3]).shape == (3, COUNT)
    x[4, 2] = 0.5
    with pytest.raises(
        ValueError, match=r"holds 0\.5, outside the support of Columns; each column"
    ):
        vae.check_data(x)


def test_missing_values_leave_out_their_factors():
    likelihood, x = table().double(), rows(20).double()
    p = likelihood(torch.randn(20, 2).double())
    observed = torch.rand(20, COUNT) < 0.6
    gappy = torch.where(observed, x, float("nan"))
    expected = (base(p).log_prob(x) * observed).sum(-1)
    torch.testing.assert_close(observed_log_prob(p, gappy), expected)
    likelihood.initialize(gappy)
    assert likelihood(torch.zeros(2).double()).log_prob(x).isfinite().all()


def test_quadrature_integrates_it_and_gaps_are_filled():
    torch.manual_seed(0)
    vae = make_vae()
    x = vae.sample(3)
    found = integrated(vae, x)
    with torch.no_grad():
        p = vae.likelihood(vae.prior().sample((50_000, 1))).log_prob(x).exp()  # (draws, 3)
    evidence = found.log_evidence.exp()
    assert_within(evidence, p.mean(0), p.std(0) / 50_000**0.5 + found.standard_error * evidence)
    observed = torch.arange(COUNT) % 2 == 0
    completed = impute(vae, x, observed, samples=500, completions=4).completions
    assert vae.likelihood(torch.zeros(2)).support.check(completed).all()
    assert torch.equal(completed[:, :, observed], x[:, None, observed].expand(3, 4, -1))


def test_a_training_step_is_recorded_without_constants_of_the_host():
    likelihood = Columns(2, (4,), NETWORK, columns="normal+poisson+categorical(levels=3)+beta")
    vae = VAE(StandardNormal(2), likelihood, DiagonalNormal(2, (4,), NETWORK))
    stage = Staged(Elbo(), vae).stage(vae.model, vae.guide, (vae.sample(64),), {})
    assert [node for node in stage.graph.graph.nodes if node.op == "get_attr"] == []


def test_a_table_with_gaps_is_read_by_its_encoder():
    vae, x = make_vae(), rows()
    levels = [
        len(options and [0] * int(options.get("levels", 0))) for _, options in read_columns(TEXT)
    ]
    network = partial(
        TableInput, network=MLP, levels=levels, loc=x.mean(0), scale=x.std(0), gaps=True
    )
    vae.posterior = DiagonalNormal(2, (COUNT,), network)
    x[::3, ::2] = float("nan")
    vae.posterior.initialize(x)
    assert vae.encode(x).shape == (200, 2)
    assert vae.encode(x).isfinite().all()


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("normal", [("normal", {})]),
        ("normal*2+poisson", [("normal", {}), ("normal", {}), ("poisson", {})]),
        (
            "student_t(df=3;scale=1e+05)*2",
            [("student_t", {"df": "3", "scale": "1e+05"})] * 2,
        ),
        (
            "categorical(levels=4)+categorical(levels=5)",
            [("categorical", {"levels": "4"}), ("categorical", {"levels": "5"})],
        ),
    ],
)
def test_a_text_is_read_and_written(text, columns):
    assert read_columns(text) == columns
    assert write_columns(columns) == text
    assert read_columns(f" {text.replace('+p', ' + p')} ") == columns
    spec, options = resolve("likelihood", Columns, Spec.parse(f"columns:columns={text}"), {})
    assert (str(spec), options) == (f"columns:columns={text}", {"columns": text})
    assert Spec.several(f"normal,columns:columns={text},poisson")[1] == f"columns:columns={text}"
    assert Spec.parse(str(spec)) == spec
    assert options_of(Columns)["columns"].describe() == "text or none"


def test_a_sequence_of_texts_and_classes_is_the_same_as_a_text():
    text = "normal(scale=0.5)*2+poisson+categorical(levels=3)"
    items = [
        "normal(scale=0.5)",
        partial(Normal, scale=0.5),
        Poisson,
        partial(Categorical, levels=3),
    ]
    torch.manual_seed(0)
    a = Columns(2, (4,), Linear, columns=text)
    torch.manual_seed(0)
    b = Columns(2, (4,), Linear, columns=items)
    z = torch.randn(5, 2)
    x = a(z).sample()
    assert torch.equal(a(z).log_prob(x), b(z).log_prob(x))
    assert a.places == b.places == [[0, 1], [2], [3]]
    assert a.of_column(1) is a.groups[0]
    assert a.nominal.tolist() == [False, False, False, True]
    with pytest.raises(IndexError, match="no column 4; x has 4"):
        a.of_column(4)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, "needs one likelihood for each of the 2 columns"),
        ("normal", r"describes 1 columns, and x has 2; give one likelihood for each, name\*3"),
        ("normal*3", "describes 3 columns, and x has 2"),
        ("normall*2", "likelihood of a column .*normall.*normal"),
        ("columns*2", "likelihood of a column .*columns"),
        ("normal(scal=1)*2", "has no option 'scal' .did you mean 'scale'"),
        ("poisson(scale=1)*2", "has no option 'scale'; it has no options"),
        ("normal(scale=shared)*2", "scale must be a positive number .* got 'shared'"),
        ("normal(scale=1.x)*2", "scale of the likelihood normal is a number, got '1.x'"),
        ("categorical(levels=2.5)*2", "levels of the likelihood categorical is a whole number"),
        ("categorical(levels=1)*2", "levels must be at least 2, got 1"),
        ("normal*0", r"cannot read 'normal\*0'"),
        ("normal+", "cannot read ''"),
        ("", "cannot read ''"),
        ("normal(scale)*2", "cannot read the option 'scale'"),
        ("normal(scale=1;scale=2)*2", "cannot read the option 'scale=2'"),
        ("normal(scale=1", r"cannot read 'normal\(scale=1'"),
        ("(normal)*2", r"cannot read '\(normal\)\*2'"),
        ([Normal, lambda *_: StandardNormal(2)], "and StandardNormal is none of"),
    ],
)
def test_what_describes_no_columns_is_refused_in_one_line(columns, message):
    with pytest.raises(ValueError, match=message) as caught:
        Columns(2, (2,), Linear, columns=columns)
    assert "\n" not in str(caught.value)


def test_images_have_no_columns():
    with pytest.raises(ValueError, match=r"whose examples are vectors, got .* \(1, 8, 8\)"):
        Columns(2, (1, 8, 8), Linear, columns="normal*64")
