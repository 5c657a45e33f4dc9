"""Masks by name and from files: true is observed, a name says what is hidden."""

import numpy as np
import pytest
from PIL import Image

from pyrovae.queries.masks import mask

SHAPE = (1, 5, 4)


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("lower", np.s_[:, 3:]),
        ("upper", np.s_[:, :2]),
        ("left", np.s_[:, :, :2]),
        ("right", np.s_[:, :, 2:]),
    ],
)
def test_a_half_is_hidden(name, hidden):
    observed = mask(name, SHAPE, 7)
    assert observed.shape == SHAPE
    assert not observed[hidden].any()
    assert observed.sum() == 20 - observed[hidden].size


def test_random_pixels_are_hidden_in_all_channels_and_by_the_seed():
    """The share within 5 standard errors."""
    observed = mask("random:0.3", (3, 20, 20), 50, seed=1)
    assert observed.shape == (50, 3, 20, 20)
    assert (observed == observed[:, :1]).all()
    assert not (observed[0] == observed[1]).all()
    assert abs(observed.mean() - 0.7) < 5 * (0.3 * 0.7 / (50 * 400)) ** 0.5
    assert (observed == mask("random:0.3", (3, 20, 20), 50, seed=1)).all()
    assert mask("random:0", (4,), 2).all()
    assert not mask("random:1", (4,), 2).any()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("shape", [SHAPE, SHAPE[1:], (6, *SHAPE)])
def test_a_file_is_true_where_a_pixel_is_observed(shape, dtype, tmp_path):
    truth = np.random.default_rng(0).random(shape) < 0.5
    np.save(tmp_path / "mask.npy", truth.astype(dtype))
    np.savez(tmp_path / "one.npz", truth.astype(dtype))
    np.savez(tmp_path / "two.npz", x=np.zeros(3), mask=truth.astype(dtype))
    expected = np.broadcast_to(truth, SHAPE) if truth.ndim == 2 else truth
    for name in ("mask.npy", "one.npz", "two.npz"):
        observed = mask(tmp_path / name, SHAPE, 6)
        assert observed.dtype == bool
        assert (observed == expected).all()


def test_a_picture_is_white_where_a_pixel_is_observed(tmp_path):
    truth = np.random.default_rng(0).random((5, 4)) < 0.5
    Image.fromarray(np.uint8(255 * truth)).save(tmp_path / "mask.png")
    assert (mask(tmp_path / "mask.png", SHAPE, 6) == truth).all()
    assert mask(tmp_path / "mask.png", (3, 5, 4), 6).shape == (3, 5, 4)


def test_what_is_no_mask_is_refused(tmp_path):
    np.save(tmp_path / "grey.npy", np.full(SHAPE, 0.5))
    np.save(tmp_path / "other.npy", np.ones((1, 4, 5)))
    np.save(tmp_path / "few.npy", np.ones((5, *SHAPE)))
    np.savez(tmp_path / "two.npz", a=np.ones(2), b=np.ones(2))
    (tmp_path / "broken.npy").write_bytes(b"no array")
    Image.fromarray(np.full((5, 4), 99, np.uint8)).save(tmp_path / "grey.png")
    for spec, message in (
        ("top", "unknown mask 'top'; allowed are lower, upper, left, right or random:FRACTION"),
        ("random:2", r"cannot read the mask 'random:2'; .* such as random:0.5"),
        ("random:half", "cannot read the mask"),
        (tmp_path / "grey.npy", "values other than 0 and 1; a mask is true, or 1, at observed"),
        (tmp_path / "grey.png", "other than 0 and 1"),
        (
            tmp_path / "other.npy",
            r"shape \(1, 4, 5\); .* \(1, 5, 4\), or of all examples, \(6, 1, 5",
        ),
        (tmp_path / "few.npy", r"shape \(5, 1, 5, 4\); it must have"),
        (tmp_path / "two.npz", "holds the arrays a, b; name the array with the mask 'mask'"),
        (tmp_path / "broken.npy", "cannot be read"),
    ):
        with pytest.raises(ValueError, match=message):
            mask(spec, SHAPE, 6)
    with pytest.raises(FileNotFoundError, match="no file at"):
        mask(tmp_path / "none.npy", SHAPE, 6)
    with pytest.raises(ValueError, match=r"lower is half of an image, .* shape \(7,\)"):
        mask("lower", (7,), 6)
