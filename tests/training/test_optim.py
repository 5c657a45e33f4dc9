"""One fused update for all parameters equals torch's AdamW, and its state is exact."""

import math
import weakref
from itertools import pairwise

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from pyrovae.training.optim import FusedAdam, MovingAverage, NonFiniteGradientError
from tests.conftest import SEEDS
from tests.oracles import assert_finite


@pytest.fixture
def parameters():
    return [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4))]


def fill(parameters, step):
    generator = torch.Generator().manual_seed(step)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)


def test_equals_torchs_adamw_without_schedule(parameters):
    copies = [nn.Parameter(p.detach().clone()) for p in parameters]
    ours = FusedAdam(
        parameters, learning_rate=0.1, total_steps=20, schedule="constant", weight_decay=0.05
    )
    theirs = torch.optim.AdamW(
        [{"params": copies[:1], "weight_decay": 0.05}, {"params": copies[1:], "weight_decay": 0.0}],
        lr=0.1,
    )
    for step in range(20):
        fill(parameters, step)
        fill(copies, step)
        ours(set(parameters))
        theirs.step()
    for a, b in zip(parameters, copies, strict=True):
        torch.testing.assert_close(a, b)


def test_schedule_rises_linearly_and_falls_by_a_cosine_to_zero(parameters):
    optimizer = FusedAdam(parameters, learning_rate=2.0, total_steps=100, warmup=0.1)
    rates = []
    for _ in range(101):
        rates.append(optimizer.current_learning_rate())
        optimizer.steps += 1
    assert all(0 < b - a < 0.2 for a, b in pairwise(rates[:10]))
    assert rates[10] == 2.0 == max(rates)
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_clipping_bounds_the_norm_per_example(parameters, monkeypatch):
    optimizer = FusedAdam(parameters, learning_rate=0.1, total_steps=1, clip_norm=0.5)
    optimizer.examples = 8
    fill(parameters, 0)
    for p in parameters:
        p.grad *= 1e3
    before = [p.grad.clone() for p in parameters]
    after = []
    monkeypatch.setattr(optimizer.adam, "step", lambda: after.extend(p.grad for p in parameters))
    optimizer(set(parameters))
    norm = math.sqrt(sum(g.square().sum().item() for g in after))
    assert norm == pytest.approx(0.5 * 8, rel=1e-4)
    ratio = after[0] / before[0]
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(parameters, value):
    optimizer = FusedAdam(parameters, learning_rate=0.1, total_steps=5)
    fill(parameters, 0)
    parameters[0].grad[1, 2] = value
    before = [p.detach().clone() for p in parameters]
    with pytest.raises(NonFiniteGradientError):
        optimizer(set(parameters))
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))
    assert optimizer.steps == 0


def test_state_taken_up_continues_to_the_bit(parameters):
    copies = [nn.Parameter(p.detach().clone()) for p in parameters]
    options = {"learning_rate": 0.1, "total_steps": 10, "warmup": 0.2, "weight_decay": 0.01}
    whole, first = FusedAdam(parameters, **options), FusedAdam(copies, **options)
    second = FusedAdam(copies, **options)
    for step in range(10):
        fill(parameters, step)
        fill(copies, step)
        whole(set(parameters))
        if step == 4:
            first(set(copies))
            second.set_state(first.get_state())
        else:
            (first if step < 4 else second)(set(copies))
    assert all(torch.equal(a, b) for a, b in zip(parameters, copies, strict=True))


def test_a_parameter_of_the_program_alone_is_refused(vae, digits):
    def model(x):
        pyro.param("stray", torch.ones(3))
        vae.model(x)

    optimizer = FusedAdam(vae.parameters(), learning_rate=0.1, total_steps=5)
    svi = SVI(model, vae.guide, optimizer, Trace_ELBO())
    with pytest.raises(ValueError, match=r"shape \(3,\) that the VAE does not own; make them"):
        svi.step(digits)


def test_works_in_a_bare_svi(vae, digits):
    optimizer = FusedAdam(vae.parameters(), learning_rate=1e-2, total_steps=60)
    svi = SVI(vae.model, vae.guide, optimizer, Trace_ELBO())
    losses = [svi.step(digits) for _ in range(60)]
    assert_finite(losses)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_moving_average_is_the_recursion(seed):
    """In float64 against its definition; the latest buffers come along."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    average = MovingAverage(module, 0.8)
    expected = {}
    for n in range(30):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_()
        module(torch.randn(4, 3).double())
        average.update()
        decay = min(0.8, (1 + n) / (10 + n)) if n else 0.0
        for name, value in module.named_parameters():
            before = expected.get(name, torch.zeros_like(value))
            expected[name] = decay * before + (1 - decay) * value.detach()
    for name, value in average.module.named_parameters():
        assert torch.allclose(value, expected[name], rtol=1e-12)
    for copied, buffer in zip(average.module.buffers(), module.buffers(), strict=True):
        assert torch.equal(copied, buffer)


def test_an_average_goes_on_from_its_state():
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    first = MovingAverage(module, 0.9)
    first.update()
    second = MovingAverage(module, 0.9)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        module.weight.add_(1)
    for average in (first, second):
        average.update()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_moments_do_not_linger_below_the_smallest_normal_number():
    """As behind a ReLU that is never active again: a gradient, and then none for 2,000 steps."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(50, 20))
    optimizer = FusedAdam([parameter], learning_rate=1e-3, total_steps=3_000)
    smallest = torch.finfo(torch.float32).tiny
    for step in range(2_000):
        parameter.grad = torch.randn_like(parameter) if step == 0 else torch.zeros_like(parameter)
        optimizer([parameter])
        for moments in optimizer.adam.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                size = moments[name].abs()
                assert not ((size > 0) & (size < smallest)).any(), step
    assert not optimizer.adam.state[parameter]["exp_avg"].any()


def test_gradients_are_kept_from_the_allocator_until_they_are_released(parameters):
    optimizer = FusedAdam(parameters, learning_rate=0.1, total_steps=2)
    fill(parameters, 0)
    kept = [weakref.ref(p.grad) for p in parameters]
    optimizer(parameters)
    assert [p.grad for p in parameters] == [None, None]
    assert all(gradient() is not None for gradient in kept)
    optimizer.release()
    assert [gradient() for gradient in kept] == [None, None]
