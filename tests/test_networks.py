"""Networks map shapes to shapes, under any batch dimensions, and every parameter matters."""

import math
from typing import get_args

import pytest
import torch

from pyrovae.networks import (
    ACTIVATIONS,
    MLP,
    NETWORKS,
    Activation,
    Conv,
    Divided,
    Filled,
    TableInput,
)
from tests.oracles import assert_reached

VECTORS = [((3,), (2, 4)), ((3,), (5,)), ((2, 3), (7,))]
IMAGES = [((1, 8, 8), (2, 4)), ((3, 9, 7), (5,)), ((4,), (1, 8, 8)), ((4,), (2, 3, 9, 7))]


def cases() -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    return [
        (name, a, b)
        for name in NETWORKS
        for a, b in (IMAGES if name == "conv" else VECTORS + IMAGES)
    ]


@pytest.mark.contract
@pytest.mark.parametrize(("name", "in_shape", "out_shape"), cases())
@pytest.mark.parametrize("batch", [(), (6,), (5, 6), (2, 1, 3)])
def test_shapes_under_extra_batch_dimensions(name, in_shape, out_shape, batch):
    network = NETWORKS[name](in_shape, out_shape)
    assert network(torch.randn(*batch, *in_shape)).shape == (*batch, *out_shape)


@pytest.mark.parametrize(("name", "in_shape", "out_shape"), cases())
def test_batch_dimensions_are_independent(name, in_shape, out_shape):
    network = NETWORKS[name](in_shape, out_shape).double()
    x = torch.randn(2, 3, *in_shape, dtype=torch.float64)
    torch.testing.assert_close(network(x)[1, 2], network(x[1, 2]))


@pytest.mark.contract
@pytest.mark.parametrize(("name", "in_shape", "out_shape"), cases())
def test_gradients_reach_every_parameter(name, in_shape, out_shape):
    network = NETWORKS[name](in_shape, out_shape)
    network(torch.randn(4, *in_shape)).square().sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert_reached(parameter, parameter_name)


@pytest.mark.parametrize(("name", "in_shape", "out_shape"), cases())
def test_output_bias_shifts_each_output(name, in_shape, out_shape):
    network = NETWORKS[name](in_shape, out_shape)
    x = torch.randn(*in_shape)
    before = network(x)
    shift = torch.randn(out_shape)
    with torch.no_grad():
        network.output_bias.add_(shift.reshape(network.output_bias.shape))
    torch.testing.assert_close(network(x), before + shift)


@pytest.mark.parametrize(("name", "in_shape", "out_shape"), cases())
def test_input_weight_scales_the_input(name, in_shape, out_shape):
    network = NETWORKS[name](in_shape, out_shape)
    x = torch.randn(*in_shape)
    before = network(x)
    with torch.no_grad():
        network.input_weight.div_(4)
    torch.testing.assert_close(network(4 * x), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_divided_is_the_network_of_x_over_c(name):
    shapes = IMAGES[0] if name == "conv" else VECTORS[0]
    divided = Divided(*shapes, network=NETWORKS[name], divisor=8)
    x = torch.randn(5, 6, *shapes[0])
    torch.testing.assert_close(divided(8 * x), divided.network(x))
    assert divided.input_weight is divided.network.input_weight
    assert divided.output_bias is divided.network.output_bias


def test_divided_offers_no_more_than_its_network():
    divided = Divided((3,), (5,), network=lambda *_: torch.nn.Linear(3, 5), divisor=8)
    assert getattr(divided, "input_weight", None) is None
    assert getattr(divided, "output_bias", None) is None


@pytest.mark.parametrize("name", NETWORKS)
def test_filled_reads_zeros_and_the_mask(name):
    in_shape, out_shape = IMAGES[1] if name == "conv" else VECTORS[0]
    filled = Filled(in_shape, out_shape, network=NETWORKS[name])
    x = torch.randn(5, 6, *in_shape)
    observed = torch.rand_like(x) < 0.5
    gappy = torch.where(observed, x, float("nan"))
    axis = -len(in_shape)
    read = torch.cat([x * observed, observed.float()], axis)
    assert torch.equal(filled.prepared(gappy), read)
    assert torch.equal(filled(gappy), filled.network(read))
    assert filled(gappy).shape == (5, 6, *out_shape)
    assert filled.reads_gaps
    assert filled.input_weight is filled.network.input_weight


def table_input(**options):
    parts = {"levels": (0, 3, 0, 2), "loc": (10.0, 7.0, 0.0, 7.0), "scale": (2.0, 7.0, 0.0, 7.0)}
    return TableInput((4,), (2, 3), **({"network": MLP} | parts | options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_table_is_read_as_numbers_and_one_hot_vectors(dtype):
    x = torch.tensor([[12.0, 2, -1, 0], [4.0, 0, 3, 1]], dtype=dtype)
    expected = [[1.0, 0, 0, 1, -1, 1, 0], [-3.0, 1, 0, 0, 3, 0, 1]]
    reader = table_input().to(dtype)
    assert torch.equal(reader.prepared(x), torch.tensor(expected, dtype=dtype))
    assert reader(x).shape == (2, 2, 3)
    assert reader(x.expand(5, 2, 4)).shape == (5, 2, 2, 3)
    assert reader.output_bias is reader.network.output_bias


def test_a_gap_in_a_table_is_read_as_zeros_and_shown_by_the_mask():
    nan = float("nan")
    x = torch.tensor([[nan, nan, 1.0, 1.0], [10.0, 1.0, nan, nan]])
    numbers = torch.tensor([[0.0, 0, 0, 0, 1, 0, 1], [0.0, 0, 1, 0, 0, 0, 0]])
    assert torch.equal(table_input().prepared(x), numbers)
    mask = torch.tensor([[0.0, 0, 1, 1], [1, 1, 0, 0]])
    reader = table_input(gaps=True)
    assert torch.equal(reader.prepared(x), torch.cat([numbers, mask], -1))
    reader(x).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in reader.parameters())
    assert TableInput.reads_gaps


def test_numbers_far_outside_are_drawn_in_and_usual_ones_are_not():
    reader = TableInput((1,), (1,), network=MLP, levels=[0], loc=[0.0], scale=[1e-3])
    u = torch.cat([torch.linspace(0, 20, 2_001), 10 ** torch.linspace(1.4, 38, 200)])
    read = reader.prepared(1e-3 * u[:, None])[:, 0]
    usual = u < 4.99
    assert torch.equal(read[usual], (1e-3 * u / reader.scale)[usual])
    assert (read.diff() >= 0).all()
    assert (read.diff()[:2_000] > 0).all()
    assert read.max() < 100
    assert torch.equal(reader.prepared(-1e-3 * u[:, None])[:, 0], -read)
    x = torch.tensor([[3e38], [-3e38], [float("inf")], [5e-3]], requires_grad=True)
    reader.prepared(x).sum().backward()
    assert reader(x).isfinite().all()
    assert x.grad.isfinite().all()
    assert x.grad[3] == pytest.approx(1e3)  # smooth where it bends


def test_a_table_is_standardized_by_its_observed_values():
    x = torch.randn(500, 4) * 3 + 2
    gappy = torch.where(torch.rand_like(x) < 0.3, float("nan"), x)
    gappy[:, 3] = float("nan")
    reader = table_input()
    reader.initialize(gappy)
    for column in range(3):
        seen = gappy[:, column][~gappy[:, column].isnan()]
        torch.testing.assert_close(reader.loc[column], seen.mean())
        torch.testing.assert_close(reader.scale[column], seen.std(correction=0))
    assert (reader.loc[3], reader.scale[3]) == (0, 1)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.1, 1.0, 20.0, 1e4, 1e10])
def test_a_network_reads_data_in_a_unit_that_suits_them(name, size):
    shapes = IMAGES[0] if name == "conv" else VECTORS[0]
    network, loaded = NETWORKS[name](*shapes), NETWORKS[name](*shapes)
    x = size * torch.randn(100, *shapes[0])
    plain = network(x)
    network.initialize(x)
    if 0.1 <= size <= 20:
        assert network.unit is None
        assert torch.equal(network(x), plain)
    else:
        assert math.log2(network.unit).is_integer()
        assert 0.7 < network.prepared(x).square().mean().sqrt() < 1.42
    loaded.initialize(1e7 * x)
    loaded.load_state_dict(network.state_dict())
    assert torch.equal(loaded(x), network(x))


@pytest.mark.contract
@pytest.mark.parametrize("name", NETWORKS)
def test_save_and_load(name):
    shapes = IMAGES[0] if name == "conv" else VECTORS[0]
    a, b = NETWORKS[name](*shapes), NETWORKS[name](*shapes)
    b.load_state_dict(a.state_dict())
    x = torch.randn(3, *shapes[0])
    assert torch.equal(a(x), b(x))


def test_every_activation_can_be_named():
    assert set(ACTIVATIONS) == set(get_args(Activation))


def test_dropout_acts_in_training_only():
    network = MLP((8,), (3,), hidden_dims=(64,), dropout=0.5)
    x = torch.randn(8)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP((2,), (2,), hidden_dims=()), "hidden_dims must be one or more .* use linear"),
        (lambda: MLP((2,), (2,), hidden_dims=(4, 0)), "hidden_dims must be"),
        (lambda: MLP((2,), (2,), activation="sigmoidd"), "got 'sigmoidd'"),
        (lambda: MLP((2,), (2,), dropout=1.0), "dropout must be at least 0 and below 1, got 1.0"),
        (
            lambda: Divided((2,), (2,), network=MLP, divisor=0),
            "positive and finite, got 0; 1 leaves",
        ),
        (lambda: table_input(loc=(0.0,)), r"got x of shape \(4,\) and 1 loc"),
        (lambda: table_input(levels=[0] * 5), "and 5 levels"),
        (lambda: MLP((), (2,)), "at least one dimension"),
        (lambda: Conv((4,), (2,)), "for tables and vectors use mlp"),
        (lambda: Conv((1, 8, 8), (2,), channels=(4,) * 9), "too many for images of 8 x 8"),
    ],
)
def test_wrong_options_are_refused_with_the_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()
