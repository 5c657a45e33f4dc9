r"""The explorer: networks, codes and contours inside the page, which a script decodes and draws.

Python writes one JSON object and one block of numbers; ``explorer.js`` reads them. The numbers are
whole numbers of 24 bits, or of 16 in large models, with a scale for each row of a matrix, in planes
of bytes, compressed. With 16 bits this takes half the room of float32, and is off by at most 1 in
65,000 of the largest number of a row.
"""

import json
import math
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.resources import files
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import distributions as td

from pyrovae import diagnostics, distributions, likelihoods, networks, plots, posteriors
from pyrovae._process.isolation import evaluating, isolated
from pyrovae.data import Dataset
from pyrovae.estimates import batches
from pyrovae.report.findings import LIMIT, Findings
from pyrovae.report.page import plain, term
from pyrovae.vae import VAE

__all__ = ["Packed", "explorer", "obstacle"]

Array = NDArray[Any]
Layer = tuple[nn.Linear, str | None, bool]

POINTS = 200  # test examples that can be clicked
DRAWS = 256  # of the prior
SLIDERS = 10  # dimensions with a slider, at most
LARGEST = 2_000_000  # parameters of both networks: a page of about five megabytes
COARSE = 4_095  # of the encoder's weights: drawings are no measurements, and a page has a size
SMALL = 500_000  # parameters up to which a number has 24 bits

ACTIVATIONS: dict[type[nn.Module], str] = {
    kind: name for name, kind in networks.ACTIVATIONS.items()
}

FAMILIES: dict[type[nn.Module], str] = {
    likelihoods.Bernoulli: "bernoulli",
    likelihoods.Beta: "beta",
    likelihoods.BetaBinomial: "beta_binomial",
    likelihoods.Binomial: "binomial",
    likelihoods.Categorical: "categorical",
    likelihoods.ContinuousBernoulli: "continuous_bernoulli",
    likelihoods.DiscretizedLogistic: "discretized_logistic",
    likelihoods.Laplace: "laplace",
    likelihoods.LogNormal: "log_normal",
    likelihoods.NegativeBinomial: "negative_binomial",
    likelihoods.Normal: "normal",
    likelihoods.Poisson: "poisson",
    likelihoods.StudentT: "student_t",
}
"""The likelihoods that the script can compute, by the names it knows them by."""


class Packed:
    """Arrays in one block of bytes, as ``explorer.js`` reads them.

    Args:
        width: bytes of a number, 2 or 3.

    Example:
        >>> from pyrovae.report import Packed
        >>> block = Packed()
        >>> block.add(torch.eye(3)), block.add(torch.ones(2))
        (0, 1)
        >>> block.shapes
        [[3, 3], [1, 2]]
    """

    def __init__(self, width: int = 2) -> None:
        self.width, self.largest = width, 2 ** (8 * width - 1) - 1
        self.shapes: list[list[int]] = []
        self.parts: list[bytes] = []

    def add(self, values: Tensor | Array, largest: int | None = None) -> int:
        """Add an array; its rows are those of its first dimension, a vector is one row.

        Args:
            values: finite numbers.
            largest: whole number that the largest of a row becomes; None for the most that fits.

        Returns:
            Its number.
        """
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, float)
        rows = array.reshape(1, -1) if array.ndim < 2 else array.reshape(len(array), -1)
        largest = min(self.largest, largest or self.largest)
        scale = (np.abs(rows).max(1, initial=0.0) / largest).astype("<f4")
        whole = np.rint(rows / np.where(scale > 0, scale, 1)[:, None])
        whole = whole.clip(-largest, largest).astype(np.int64)
        shifts = range(8 * (self.width - 1), -1, -8)  # the highest byte first
        self.parts += [scale.tobytes()]
        self.parts += [((whole >> shift) & 255).astype(np.uint8).tobytes() for shift in shifts]
        self.shapes.append(list(rows.shape))
        return len(self.shapes) - 1

    def text(self) -> str:
        """All of it, compressed, in base64."""
        return b64encode(zlib.compress(b"".join(self.parts), 9)).decode()


def obstacle(vae: VAE) -> str | None:
    """Why a page cannot decode this model, as a sentence; None if it can.

    Args:
        vae: the model.

    Example:
        >>> from functools import partial
        >>> from pyrovae.likelihoods import Bernoulli
        >>> from pyrovae.networks import Conv
        >>> from pyrovae.report import obstacle
        >>> images = Bernoulli(2, (1, 8, 8), partial(Conv, channels=(4,)))
        >>> obstacle(vae), obstacle(pyrovae.VAE(vae.prior, images, vae.posterior))
        (None, 'The decoder is a Conv; a page can decode perceptrons ...')
    """
    likelihood: Any = vae.likelihood
    if not distributions.fills_space(vae.prior()):
        return "The explorer shows a z of real numbers, and here z is something else."
    groups = [group for group, _, _ in _groups(likelihood)]
    if not groups or any(type(group) not in FAMILIES for group in groups):
        return f"A page cannot compute the likelihood {type(likelihood).__name__}."
    decoder = likelihood.decoder
    if _layers(decoder) is None:
        return (
            f"The decoder is a {type(decoder).__name__}; a page can decode perceptrons (mlp, "
            "residual, gated, linear)."
        )
    shape = likelihood.event_shape
    if len(shape) not in (1, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
        return f"The explorer shows images and tables, and one example has the shape {shape}."
    if sum(p.numel() for p in decoder.parameters()) > LARGEST:
        return f"The decoder has more than {LARGEST:,} parameters, too many for a page."
    return None


@torch.no_grad()
def explorer(vae: VAE, dataset: Dataset, found: Findings, *, seed: int = 0) -> str:
    """The explorer as HTML, or a sentence on why there is none.

    Args:
        vae: the model.
        dataset: its data.
        found: as :func:`pyrovae.report.find` returns it.
        seed: of draws from prior and posteriors.

    Example:
        >>> from pyrovae.report import explorer, find
        >>> from pyrovae.runs import Run, start
        >>> network = "mlp:hidden_dims=4"
        >>> model = {"encoder": network, "decoder": network, "latent_dim": 2}
        >>> config, digits = pyrovae.Config.resolve({"model": model, "training": {"epochs": 1}})
        >>> run = Run.open(start(config, digits, None)[0])
        >>> summary = run.finish(run.vae(), digits, pyrovae.fit(vae, x, epochs=1), samples=2)
        >>> text = explorer(run.vae(), digits, find(run, run.vae(), digits))
        >>> text.count("<script"), len(text) < 500_000
        (2, True)
    """
    why_not = obstacle(vae)
    if why_not is not None:
        return f"<p>{plain(why_not)}</p>"
    block = Packed(3 if sum(p.numel() for p in vae.parameters()) <= SMALL else 2)
    with isolated(), evaluating(vae):
        torch.manual_seed(seed)
        data = _model(vae, block) | _space(vae, dataset, found, block)
    data |= {"numbers": block.text(), "shapes": block.shapes, "width": block.width}
    images = len(dataset.event_shape) == 3
    script = files("pyrovae.report").joinpath("explorer.js").read_text("utf-8")
    written = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return (
        "<p>The networks of this run are inside this page, with rounded weights. "
        f"{_about(data)} {_how(data, images)}</p>"
        '<div id="explorer"><noscript><p>It needs JavaScript.</p></noscript></div>'
        f'<script type="application/json" id="explorer-data">{written}</script>'
        f"<script>{script}</script>"
    )


def _about(data: Mapping[str, Any]) -> str:
    if data["plane"] is None:
        return "A slider moves z, and the page decodes it at once."
    first, second = (d + 1 for d in data["plane"]["dims"])
    rest = data["latent_dim"] - 2
    others = f" The other {rest} stay as they are; sliders move some of them." if rest > 0 else ""
    return (
        f"Move the pointer over the plane of z<sub>{first}</sub> and z<sub>{second}</sub>, and the "
        f"page decodes z at once.{others} Gray lines hold 50, 80 and 95 % of the prior p(z), "
        "colored ones of q(z), the codes of all test examples together. A dot is a test example."
    )


def _how(data: Mapping[str, Any], images: bool) -> str:
    click = f"Click a dot for its q(z|x) as an ellipse and its {term('kl', 'KL term')}."
    if not images:
        return click
    if data["encoder"] is None:
        return f"{click} {plain(data['no_encoder'])}"
    return f"{click} Or draw an image yourself: the encoder reads it after every stroke."


def _model(vae: VAE, block: Packed) -> dict[str, Any]:
    """The networks, the likelihood and the prior, as the script computes them."""
    likelihood: Any = vae.likelihood
    posterior: Any = vae.posterior
    why_not = _no_encoder(vae)
    return {
        "latent_dim": vae.latent_dim,
        "event_shape": list(likelihood.event_shape),
        "decoder": _network(likelihood.decoder, block),
        "groups": [
            _group(group, first, places, block) for group, first, places in _groups(likelihood)
        ],
        "encoder": None if why_not else _network(posterior.encoder, block, COARSE),
        "no_encoder": why_not,
        "posterior": "full" if isinstance(posterior, posteriors.FullNormal) else "diagonal",
        "prior": _prior(vae.prior(), block),
    }


def _no_encoder(vae: VAE) -> str | None:
    likelihood: Any = vae.likelihood
    posterior: Any = vae.posterior
    shape = likelihood.event_shape
    if type(posterior) not in (posteriors.DiagonalNormal, posteriors.FullNormal):
        return "To encode drawings, the page needs a posterior that is diagonal or full."
    if len(shape) != 3 or shape[0] != 1:
        return "Drawings are of gray images."
    if _layers(posterior.encoder) is None:
        return "To encode drawings, the page needs a perceptron as the encoder."
    if sum(p.numel() for p in vae.parameters()) > LARGEST:
        return "The encoder is too large for a page, so drawings cannot be encoded."
    return None


def _layers(network: Any) -> list[Layer] | None:
    """Affine maps, each with its activation and whether it is added; None for other networks."""
    if type(network) is networks.Linear:
        return [(network.layer, None, False)]
    if type(network) is networks.Residual:
        name = ACTIVATIONS[type(network.nonlinearity)]
        blocks: list[Layer] = [(cast("nn.Linear", block), name, True) for block in network.blocks]
        return [(network.first, name, False), *blocks, (network.last, None, False)]
    if type(network) not in (networks.MLP, networks.Gated):
        return None
    affine = [part for part in network.hidden if isinstance(part, nn.Linear)]
    between = [
        "glu" if isinstance(part, nn.GLU) else ACTIVATIONS[type(part)]
        for part in network.hidden
        if not isinstance(part, nn.Linear | nn.Dropout)
    ]
    hidden: list[Layer] = [(part, name, False) for part, name in zip(affine, between, strict=True)]
    return [*hidden, (network.last, None, False)]


def _network(network: Any, block: Packed, largest: int | None = None) -> dict[str, Any]:
    layers = _layers(network)
    assert layers is not None
    return {
        "unit": None if network.unit is None else float(network.unit),
        "layers": [
            [block.add(layer.weight, largest), block.add(layer.bias), name, added]
            for layer, name, added in layers
        ],
    }


def _groups(likelihood: Any) -> Iterator[tuple[Any, int, list[int]]]:
    """The likelihoods of elements of x, their first output of the decoder, and which elements."""
    if isinstance(likelihood, likelihoods.Columns):
        for group, places in zip(likelihood.groups, likelihood.places, strict=True):
            yield group, cast("Any", group).decoder.outputs.start, places
    elif type(likelihood) in FAMILIES:
        yield likelihood, 0, list(range(math.prod(likelihood.event_shape)))


def _group(group: Any, first: int, places: list[int], block: Packed) -> dict[str, Any]:
    spread = getattr(group, "spread", None)
    value = minimum = None
    if spread is not None and spread.kind == "decoder":
        minimum = float(spread.minimum)
    elif spread is not None:
        value = block.add(torch.as_tensor(spread.value).expand(group.event_shape).flatten())
    return {
        "family": FAMILIES[type(group)],
        "first": first,
        "places": places,
        "spread": value,
        "minimum": minimum,
        "levels": getattr(group, "levels", None),
        "total_count": getattr(group, "total_count", None),
        "df": getattr(group, "df", None),
    }


def _prior(p: Any, block: Packed) -> dict[str, Any]:
    """Draws, and the components where the prior is a normal or a mixture of normals."""
    found: dict[str, Any] = {"draws": block.add(p.sample((DRAWS,))), "weights": None}
    inner, logits = distributions.base(p), torch.zeros(1)
    if isinstance(inner, td.MixtureSameFamily):
        logits = inner.mixture_distribution.logits
        inner = distributions.base(inner.component_distribution)
    if isinstance(inner, td.Normal):
        size = (len(logits), p.event_shape[-1])
        found |= {
            "weights": block.add(logits.log_softmax(-1)),
            "loc": block.add(inner.loc.expand(size)),
            "scale": block.add(inner.scale.expand(size)),
        }
    return found


def _space(vae: VAE, dataset: Dataset, found: Findings, block: Packed) -> dict[str, Any]:
    """The plane and its contours, the sliders, and the test examples."""
    test = dataset.test
    x = torch.cat(list(batches(test, LIMIT, limit=found.examples)))
    q, p = vae.posterior(vae.place(x)), vae.prior()
    draws = p.sample((5_000,))
    kl = diagnostics.kl_per_dimension(q, p, draws)[0] if found.ledger else _spread(q)
    largest = np.argsort(-kl)
    active = [int(d) for d in largest[:SLIDERS] if kl[d] > diagnostics.ACTIVE] or [int(largest[0])]
    loc = np.asarray(distributions.moments(q)[0].cpu(), float)
    low = np.minimum(loc.min(0), np.quantile(draws.cpu(), 0.005, axis=0))
    high = np.maximum(loc.max(0), np.quantile(draws.cpu(), 0.995, axis=0))
    plane = covariance = None
    if vae.latent_dim > 1:
        dims = largest[:2]
        margin = 0.04 * (high - low)
        limits = np.stack([low - margin, high + margin], 1)[dims]
        plane, covariance = _plane(q, p, draws, dims, limits)
        covariance = covariance[:POINTS]
    shown = x[:POINTS]
    labels = None if test.labels is None else [int(at) for at in test.labels[:POINTS]]
    return {
        "plane": plane,
        "sliders": [[d, float(low[d]), float(high[d]), float(kl[d])] for d in active],
        "points": {
            "loc": block.add(loc[:POINTS]),
            "covariance": None if covariance is None else block.add(covariance),
            "kl": [
                round(float(at), 3) if math.isfinite(at) else None
                for at in found.bounds.kl[:POINTS]
            ],
            "labels": labels,
            "x": block.add(shown.nan_to_num()),
        },
        "range": [float(x.nan_to_num().min()), float(x.nan_to_num().max())],
        "columns": _columns(dataset, x) if x.ndim == 2 else None,
    }


def _spread(q: Any) -> Array:
    """For posteriors without a density: how far their means spread."""
    return np.asarray(distributions.moments(q)[0].var(0).cpu())


def _plane(
    q: Any, p: Any, draws: Tensor, dims: Array, limits: Array
) -> tuple[dict[str, Any], Array]:
    loc, covariance = diagnostics.marginal_moments(q, dims)
    of_prior: Callable[[Array], Array] = partial(diagnostics.marginal_density, p, draws, dims)
    lines = {"prior": plots.contour_lines(limits, np.asarray(draws[:, dims].cpu()), of_prior)}
    small = np.linalg.det(covariance) < 1e-12 * np.prod(np.ptp(limits, axis=1)) ** 2
    if not small.any():  # points have no density
        normal = td.MultivariateNormal(torch.from_numpy(loc), torch.from_numpy(covariance))
        lines["population"] = plots.contour_lines(
            limits, normal.sample((5,)).reshape(-1, 2).numpy(), partial(_average, normal)
        )
    path = {
        name: [[np.round(line, 3).tolist() for line in level] for level in levels]
        for name, levels in lines.items()
    }
    return {"dims": [int(d) for d in dims], "limits": limits.tolist(), "lines": path}, covariance


def _average(normal: td.MultivariateNormal, points: Array) -> Array:
    """The mean density of normals at points."""
    parts = torch.from_numpy(np.asarray(points, float)).split(2_000)
    density = [normal.log_prob(part[:, None]).logsumexp(1).exp() for part in parts]
    return np.asarray(torch.cat(density) / len(normal.loc))


def _columns(dataset: Dataset, x: Tensor) -> list[dict[str, Any]]:
    """Names, units and ranges of the columns of a table."""
    test, size = dataset.test, x.shape[1]
    zero, one = (np.asarray(test.original(np.full((1, size), at)), float)[0] for at in (0.0, 1.0))
    whole = np.asarray(test.original(x.numpy()), float)
    schema = dataset.schema
    found = []
    for d in range(size):
        column = None if schema is None else schema.columns[d]
        seen = whole[np.isfinite(whole[:, d]), d]
        found.append(
            {
                "name": f"x{d + 1}" if column is None else plain(column.name),
                "words": [] if column is None else [plain(word) for word in column.categories],
                "offset": zero[d],
                "factor": one[d] - zero[d],
                "low": float(seen.min(initial=math.inf)) if len(seen) else 0.0,
                "high": float(seen.max(initial=-math.inf)) if len(seen) else 1.0,
            }
        )
    return found
