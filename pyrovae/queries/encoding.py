r"""Codes: the moments of q(z | x) for each example of a dataset, and codes from a file."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import torch
from torch import Tensor

from pyrovae._process.files import check_regular, expanded
from pyrovae._process.isolation import evaluating, isolated
from pyrovae.distributions import moments
from pyrovae.estimates import AnyExamples, as_examples, batches
from pyrovae.vae import VAE

__all__ = ["encodings", "read_codes"]

NAMES = ("z", "loc")  # of codes in an .npz file


@torch.no_grad()
def encodings(
    vae: VAE, data: AnyExamples, *, progress: Callable[[int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the mean and standard deviation of q(z | x) for each example, in order.

    Args:
        vae: whose posterior to use; evaluated in eval mode.
        data: the examples, a split or as :func:`pyrovae.data.as_split` takes them.
        progress: callback, called with the number of examples finished.

    Returns:
        Means and standard deviations, each ``(examples, latent_dim)``.

    Example:
        >>> from pyrovae.queries import encodings
        >>> loc, scale = encodings(vae, data)
        >>> loc.shape, bool((scale > 0).all())
        (torch.Size([64, 2]), True)
    """
    loc, scale = [], []
    with isolated(), evaluating(vae):
        torch.manual_seed(0)  # for posteriors whose moments come from draws
        for x in batches(as_examples(data), 1_000):
            mean, variance = moments(vae.posterior(vae.place(x)))
            loc.append(mean)
            scale.append(variance.sqrt())
            if progress is not None:
                progress(len(x))
    return torch.cat(loc), torch.cat(scale)


def read_codes(path: str | os.PathLike[str], latent_dim: int) -> Tensor:
    """Read codes from a file: one z in each row.

    Args:
        path: ``.npy`` with an array; ``.npz`` with an array ``z`` or ``loc``; or ``.csv`` with
            columns ``z1``, ``z2``, ..., such as ``pyrovae encode`` writes, beside others.
        latent_dim: dimensions of z.

    Returns:
        Codes ``(n, latent_dim)``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or holds other than n finite vectors of that length.

    Example:
        >>> import numpy as np
        >>> from pyrovae.queries import read_codes
        >>> np.save("z.npy", np.zeros((3, 2)))
        >>> read_codes("z.npy", 2).shape
        torch.Size([3, 2])
    """
    file = expanded(path)
    if not file.exists():
        raise FileNotFoundError(f"there is no file {file}; pyrovae encode writes codes")
    check_regular(file)
    try:
        codes = _read(file, latent_dim)
    except (OSError, EOFError, KeyError, ValueError) as error:
        raise ValueError(
            f"{file} holds no codes that can be read ({' '.join(str(error).split())}); give .npy, "
            f".npz with an array {' or '.join(NAMES)}, or .csv with columns z1 to z{latent_dim}"
        ) from error
    if codes.dtype.kind not in "uif" or codes.ndim != 2 or codes.shape[1] != latent_dim:
        raise ValueError(
            f"{file} holds {codes.dtype} of shape {codes.shape}; codes are numbers of shape "
            f"(n, {latent_dim}), a row for each z"
        )
    if not len(codes) or not np.isfinite(codes).all():
        raise ValueError(f"{file} must hold at least one code, and finite numbers only")
    return torch.from_numpy(codes.astype(np.float64))


def _read(file: Path, latent_dim: int) -> np.ndarray:
    if file.suffix == ".csv":
        names = [f"z{d + 1}" for d in range(latent_dim)]
        return pandas.read_csv(file, usecols=names)[names].to_numpy()
    held = np.load(file, allow_pickle=False)
    if isinstance(held, np.ndarray):
        return held
    with held:
        return np.asarray(held[next((name for name in NAMES if name in held), NAMES[0])])
