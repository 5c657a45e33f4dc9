"""Bits are drawn with the stated probabilities, exactly."""

import numpy as np
import pytest
import torch
from scipy import stats

from pyrovae.data.transforms import Packed, Threshold, draw_bits, draw_bits_on_device
from tests.conftest import SEEDS


class EveryByte:
    """Stands for a generator: its random words hold every byte once, in order."""

    def __init__(self) -> None:
        self.redrawn = (0, 0)

    def integers(self, low: int, high: int, size: int, dtype: type) -> np.ndarray:
        if high == 1 << 64:
            assert size == 32
            return np.arange(256, dtype=np.uint8).view(np.uint64)
        self.redrawn = (high, size)
        return np.zeros(size, dtype)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))


@pytest.mark.parametrize("maximum", range(1, 257))
def test_each_count_turns_on_that_many_of_the_equally_likely_bytes(maximum: int) -> None:
    accepted = 256 - 256 % maximum
    for count in {0, 1, maximum // 2, maximum - 1, maximum}:
        rng = EveryByte()
        bits = draw_bits(np.full(256, count), maximum, rng)  # type: ignore[arg-type]
        assert bits[:accepted].sum() == count * (accepted // maximum)
        assert rng.redrawn == ((maximum, 256 - accepted) if accepted < 256 else (0, 0))


@pytest.mark.parametrize("maximum", [16, 255, 1000])
def test_bits_are_on_with_the_probability_of_their_pixel(maximum: int) -> None:
    draws, standard_errors = 40_000, 5
    x = np.unique(np.linspace(0, maximum, 17).astype(int))
    p = x / maximum
    mean = draw_bits(np.tile(x, (draws, 1)), maximum, generator()).mean(0)
    assert (np.abs(mean - p) <= standard_errors * np.sqrt(p * (1 - p) / draws)).all()
    assert mean[0] == 0
    assert mean[-1] == 1


def test_real_numbers_are_probabilities() -> None:
    draws, standard_errors = 40_000, 5
    p = np.array([0.0, 0.001, 0.3, 0.5, 0.999, 1.0])
    mean = draw_bits(np.tile(p, (draws, 1)), None, generator()).mean(0)
    assert (np.abs(mean - p) <= standard_errors * np.sqrt(p * (1 - p) / draws)).all()
    assert mean[0] == 0
    assert mean[-1] == 1


def test_the_number_of_bits_that_are_on_is_binomial() -> None:
    x = np.full((20_000, 12), 85, np.uint8)
    found = np.bincount(draw_bits(x, 255, generator()).sum(1), minlength=13)
    expected = stats.binom(12, 85 / 255).pmf(np.arange(13)) * len(x)
    keep = expected > 5
    observed = np.append(found[keep], found[~keep].sum())
    wanted = np.append(expected[keep], expected[~keep].sum())
    assert stats.chisquare(observed, wanted).pvalue > 1e-4


def test_threshold_is_strictly_above_half() -> None:
    assert Threshold(16)(np.array([7, 8, 9]), None).tolist() == [False, False, True]
    assert Threshold(255)(np.array([127, 128], np.uint8), None).tolist() == [False, True]
    assert Threshold(1)(np.array([False, True]), None).tolist() == [False, True]
    assert Threshold(None)(np.array([0.5, 0.51]), None).tolist() == [False, True]


def test_packed_bits_come_back_in_shape() -> None:
    bits = generator().random((5, 1, 3, 7)) < 0.5
    packed = np.packbits(bits.reshape(5, -1), axis=1)
    assert packed.shape == (5, 3)
    assert (Packed((1, 3, 7))(packed, None) == bits).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("maximum", [1, 16, 255, 1000, None])
def test_bits_drawn_on_a_device_have_the_probability_of_their_pixel(maximum, seed) -> None:
    draws, standard_errors = 40_000, 5
    x = np.unique(np.linspace(0, maximum or 1.0, 17).astype(int if maximum else float))
    p = x / (maximum or 1)
    torch.manual_seed(seed)
    bits = draw_bits_on_device(torch.from_numpy(x).expand(draws, -1), maximum)
    assert bits.dtype == torch.bool
    mean = bits.double().mean(0).numpy()
    assert (np.abs(mean - p) <= standard_errors * np.sqrt(p * (1 - p) / draws)).all()
    assert mean[0] == 0
    assert mean[-1] == 1


def test_bits_drawn_on_a_device_compare_63_bits_modulo_the_maximum(monkeypatch) -> None:
    """Every residue in turn turns on a pixel of x in exactly x of m cases."""
    x = torch.arange(256).repeat(255, 1).T  # (256, 255)
    high = 2**63 - 2**63 % 255 - 255  # so many above a multiple of 255, below 2^63
    words = (high + torch.arange(255)).expand(256, 255)
    monkeypatch.setattr(torch.Tensor, "random_", lambda self: self.copy_(words))
    bits = draw_bits_on_device(x[:256], 255)
    assert bits.sum(1).tolist() == list(range(256))
