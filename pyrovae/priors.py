r"""Priors p(z): modules whose ``forward()`` returns a Pyro distribution over z.

Any ``nn.Module`` whose ``forward()`` does the same takes their place: there is no base class and
nothing to register.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from pyrovae.distributions import (
    FlowDistribution,
    Logistic,
    OneHots,
    RelaxedOneHots,
    UniformSphere,
    cholesky_factor,
    moments,
    number_of_variables,
    zuko_flows,
)
from pyrovae.networks import Shape

__all__ = [
    "PRIORS",
    "Categorical",
    "Flow",
    "GaussianMixture",
    "Laplace",
    "LearnedNormal",
    "LogisticPrior",
    "Sphere",
    "StandardNormal",
    "StudentT",
    "VampPrior",
]

Posterior = Callable[[Tensor], dist.Distribution]

FOR_NORMAL = "for p(z) = N(0, I) use StandardNormal (--prior normal)"


class StandardNormal(nn.Module):
    r"""The standard normal.

    .. math:: p(z) = \mathcal{N}(z \mid 0, I)

    Args:
        latent_dim: number of dimensions of z.

    Raises:
        ValueError: if ``latent_dim`` is not positive.
    """

    loc: torch.Tensor
    scale: torch.Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        _positive("latent_dim", latent_dim)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.loc, self.scale).to_event(1)


class LearnedNormal(nn.Module):
    r"""A normal with learned mean and covariance, diagonal or full.

    .. math:: p(z) = \mathcal{N}(z \mid \mu, L L^\top)

    L is diagonal or lower triangular, with a positive diagonal. It starts from N(0, I).

    Args:
        latent_dim: number of dimensions of z.
        covariance: ``"diagonal"`` or ``"full"``.

    Raises:
        ValueError: if ``latent_dim`` is not positive, or ``covariance`` is neither.
    """

    def __init__(
        self, latent_dim: int, *, covariance: Literal["diagonal", "full"] = "diagonal"
    ) -> None:
        super().__init__()
        _positive("latent_dim", latent_dim)
        _one_of("covariance", covariance, ("diagonal", "full"))
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))
        entries = latent_dim * (latent_dim - 1) // 2
        self.below = nn.Parameter(torch.zeros(entries)) if covariance == "full" else None

    def forward(self) -> dist.Distribution:
        if self.below is None:
            return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MultivariateNormal(
            self.loc, scale_tril=cholesky_factor(self.log_scale, self.below)
        )


class Laplace(nn.Module):
    r"""Independent Laplace variables: sharper at zero and with heavier tails than a normal.

    .. math:: p(z) = \prod_{d} \frac{1}{2b} \exp\left(-\frac{|z_d|}{b}\right)

    Args:
        latent_dim: number of dimensions of z.
        scale: :math:`b`; the variance of each dimension is :math:`2 b^2`.

    Raises:
        ValueError: if ``latent_dim`` or ``scale`` is not positive.
    """

    loc: torch.Tensor

    def __init__(self, latent_dim: int, *, scale: float = 1.0) -> None:
        super().__init__()
        _positive("latent_dim", latent_dim)
        _positive("scale", scale)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.scale = scale

    def forward(self) -> dist.Distribution:
        return dist.Laplace(self.loc, self.scale).to_event(1)


class StudentT(nn.Module):
    r"""Independent Student t variables: tails that fall as a power.

    .. math:: p(z) \propto \prod_{d} \left(1 + \frac{z_d^2}{\nu s^2}\right)^{-(\nu + 1) / 2}

    Args:
        latent_dim: number of dimensions of z.
        df: degrees of freedom :math:`\nu`; the variance is finite above 2.
        scale: :math:`s`; the variance of each dimension is :math:`s^2 \nu / (\nu - 2)`.

    Raises:
        ValueError: if ``latent_dim``, ``df`` or ``scale`` is not positive.
    """

    loc: torch.Tensor

    def __init__(self, latent_dim: int, *, df: float = 5.0, scale: float = 1.0) -> None:
        super().__init__()
        _positive("latent_dim", latent_dim)
        _positive("df", df)
        _positive("scale", scale)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.df = df
        self.scale = scale

    def forward(self) -> dist.Distribution:
        return dist.StudentT(self.df, self.loc, self.scale).to_event(1)


class LogisticPrior(nn.Module):
    r"""Independent logistic variables: near a normal in the middle, with exponential tails.

    .. math:: p(z) = \prod_{d} \frac{e^{-z_d / s}}{s \, (1 + e^{-z_d / s})^2}

    Args:
        latent_dim: number of dimensions of z.
        scale: :math:`s`; the variance of each dimension is :math:`\pi^2 s^2 / 3`.

    Raises:
        ValueError: if ``latent_dim`` or ``scale`` is not positive.
    """

    loc: torch.Tensor

    def __init__(self, latent_dim: int, *, scale: float = 1.0) -> None:
        super().__init__()
        _positive("latent_dim", latent_dim)
        _positive("scale", scale)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.scale = scale

    def forward(self) -> dist.Distribution:
        return Logistic(self.loc, self.scale).to_event(1)


class GaussianMixture(nn.Module):
    r"""A mixture of diagonal normals with learned weights, means and scales.

    .. math::
        p(z) = \sum_{c=1}^{C} \pi_c \, \mathcal{N}(z \mid \mu_c, \operatorname{diag} \sigma_c^2)

    It starts from equal weights, unit scales and means drawn from N(0, I). With ``start="data"``
    the means become the encodings of C training data when :meth:`initialize` is called.

    Args:
        latent_dim: number of dimensions of z.
        posterior: q(z | x), the same object the VAE uses; needed for ``start="data"`` alone, and
            no part of this module.
        components: number C of normals.
        start: of the means, ``"random"`` or ``"data"``.

    Raises:
        ValueError: if ``latent_dim`` or ``components`` is not positive, ``start`` is neither, or
            it is ``"data"`` without a posterior.
    """

    def __init__(
        self,
        latent_dim: int,
        posterior: Posterior | None = None,
        *,
        components: int = 10,
        start: Literal["random", "data"] = "random",
    ) -> None:
        super().__init__()
        _positive("latent_dim", latent_dim)
        _positive("components", components, FOR_NORMAL)
        _one_of("start", start, ("random", "data"))
        if start == "data" and posterior is None:
            raise ValueError(
                "start='data' needs the posterior whose encodings the means start from, got None; "
                "give posterior=, or start='random'"
            )
        self._encoders = (posterior,) if start == "data" else ()  # a tuple registers nothing
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self) -> dist.Distribution:
        weights = dist.Categorical(logits=self.logits)
        normals = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(weights, normals)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """With ``start="data"``, put the means where the posterior puts C of the data.

        Args:
            x: training data ``(batch, *event_shape)``, at least C.

        Raises:
            ValueError: if there are fewer.
        """
        for posterior in self._encoders:
            assert posterior is not None
            loc, _ = moments(posterior(_choose(x, len(self.loc))))
            self.loc.copy_(loc)


class VampPrior(nn.Module):
    r"""A mixture of the posterior at learned pseudo-inputs.

    .. math:: p(z) = \sum_{c=1}^{C} \pi_c \, q(z \mid u_c)

    The posterior is the VAE's own and is trained by both its uses. It is registered with the VAE
    and is no submodule here, so that each of its parameters has one name. Pseudo-inputs are
    unconstrained numbers on the scale of x. They start uniform between 0 and 1, and
    :meth:`initialize` replaces them by training data.

    References:
        Tomczak and Welling (2018), VAE with a VampPrior, arXiv:1705.07120

    Args:
        posterior: q(z | x), the same object the VAE uses.
        event_shape: shape of one observation.
        components: number C of pseudo-inputs.
        weights: ``"equal"``, :math:`\pi_c = 1 / C`, or ``"learned"``.

    Raises:
        ValueError: if ``components`` is not positive, ``weights`` is neither, or, when called, the
            posterior is a point, which has no density.
    """

    logits: Tensor

    def __init__(
        self,
        posterior: Posterior,
        event_shape: Shape,
        *,
        components: int = 100,
        weights: Literal["equal", "learned"] = "equal",
    ) -> None:
        super().__init__()
        _positive("components", components, FOR_NORMAL)
        _one_of("weights", weights, ("equal", "learned"))
        self._shared = (posterior,)  # a tuple registers nothing
        self.pseudo_inputs = nn.Parameter(torch.rand(components, *event_shape))
        if weights == "learned":
            self.logits = nn.Parameter(torch.zeros(components))
        else:
            self.register_buffer("logits", torch.zeros(components), persistent=False)

    @property
    def posterior(self) -> Posterior:
        """The q(z | x) that the components are made of."""
        return self._shared[0]

    def forward(self) -> dist.Distribution:
        components = self.posterior(self.pseudo_inputs)
        if isinstance(components, dist.Delta):
            raise ValueError(
                f"a mixture of the points of {type(self.posterior).__name__} has no density; take "
                "a posterior with one (diagonal, full, low_rank, laplace), or another prior"
            )
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Start the pseudo-inputs from C of the training data.

        Args:
            x: training data ``(batch, *event_shape)``, at least C.

        Raises:
            ValueError: if there are fewer.
        """
        self.pseudo_inputs.copy_(_choose(x, len(self.pseudo_inputs)))


class Flow(nn.Module):
    r"""A normalising flow: a learned invertible map of N(0, I), with density and draws.

    .. math:: \log p(z) = \log \mathcal{N}(f(z) \mid 0, I) + \log \left| \det \nabla f(z) \right|

    ``nsf`` and ``maf`` are autoregressive: a density takes one pass, a draw one for each dimension.
    ``realnvp`` couples two halves: both take one pass. The splines of ``nsf`` act between -5 and 5
    and leave larger values as they are.

    References:
        Durkan, Bekasov, Murray and Papamakarios (2019), Neural Spline Flows, arXiv:1906.04032;
        Papamakarios, Pavlakou and Murray (2017), Masked Autoregressive Flow, arXiv:1705.07057;
        Dinh, Sohl-Dickstein and Bengio (2017), Density Estimation Using Real NVP, arXiv:1605.08803

    Args:
        latent_dim: number of dimensions of z.
        kind: of the transforms.
        transforms: how many there are, one after the other.
        hidden_dims: widths of the network in each.

    Raises:
        ValueError: if ``latent_dim``, ``transforms`` or a width is not positive, or ``kind`` is
            none of the three.
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_dim: int,
        *,
        kind: Literal["nsf", "maf", "realnvp"] = "nsf",
        transforms: int = 3,
        hidden_dims: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__()
        _positive("latent_dim", latent_dim)
        _one_of("kind", kind, ("nsf", "maf", "realnvp"))
        _positive("transforms", transforms, FOR_NORMAL)
        for width in hidden_dims:
            _positive("hidden_dims", width)
        flows = zuko_flows()
        make = {"nsf": flows.NSF, "maf": flows.MAF, "realnvp": flows.RealNVP}[kind]
        flow = make(latent_dim, transforms=transforms, hidden_features=tuple(hidden_dims))
        self.to_normal = flow.transform
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        base = dist.Normal(self.loc, self.scale).to_event(1)
        return FlowDistribution(base, self.to_normal().inv)


class Sphere(nn.Module):
    r"""Uniform on the unit sphere; it goes with the posterior power_spherical.

    .. math:: p(z) = \frac{\Gamma(n / 2)}{2 \pi^{n / 2}}, \qquad |z| = 1, \; z \in \mathbb{R}^n

    References:
        Davidson, Falorsi, De Cao, Kipf and Tomczak (2018), Hyperspherical Variational
        Auto-Encoders, arXiv:1804.00891

    Args:
        latent_dim: number n of coordinates of z, one more than the sphere has dimensions.

    Raises:
        ValueError: if ``latent_dim`` is below 2.
    """

    zero: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(
                f"latent_dim must be at least 2 on a sphere, which is a circle then, got "
                f"{latent_dim}"
            )
        self.register_buffer("zero", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return UniformSphere(self.zero)


class Categorical(nn.Module):
    r"""L one-hot variables of K classes, relaxed in training; with relaxed_categorical.

    .. math::
        p(z) = \prod_{l=1}^{L} \prod_{k=1}^{K} \pi_{lk}^{z_{lk}}, \qquad LK = \text{latent\_dim}

    In eval mode, in which everything is reported, drawn and shown, it is this: z is L one-hot
    vectors laid side by side. In training mode it is the Concrete relaxation of it, whose draws can
    be differentiated. What training maximises is thus a bound on the evidence of the relaxed model,
    with a likelihood of the same weights, and no bound on that of the discrete one.

    References:
        Maddison, Mnih and Teh (2017), The Concrete Distribution, arXiv:1611.00712;
        Jang, Gu and Poole (2017), Categorical Reparameterization with Gumbel-Softmax,
        arXiv:1611.01144

    Args:
        latent_dim: number L * K of dimensions of z.
        classes: K, the same as the posterior's.
        weights: ``"equal"``, :math:`\pi_{lk} = 1 / K`, or ``"learned"``.
        temperature: of the relaxation.

    Raises:
        ValueError: if ``classes`` is below 2 or does not divide ``latent_dim``, ``weights`` is
            neither, or ``temperature`` is not positive and finite.
    """

    logits: Tensor

    def __init__(
        self,
        latent_dim: int,
        *,
        classes: int = 2,
        weights: Literal["equal", "learned"] = "equal",
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        _one_of("weights", weights, ("equal", "learned"))
        _positive("temperature", temperature)
        if math.isinf(temperature):
            raise ValueError(f"temperature must be finite, got {temperature}")
        logits = torch.zeros(number_of_variables(latent_dim, classes), classes)
        self.temperature = temperature
        if weights == "learned":
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)

    def forward(self) -> dist.Distribution:
        if self.training:
            return RelaxedOneHots(self.logits, self.temperature)
        return OneHots(self.logits)


def _choose(x: Tensor, count: int) -> Tensor:
    if count > len(x):
        raise ValueError(
            f"components is {count}, and there are {len(x)} data to start them from; take "
            f"components={len(x)} or fewer"
        )
    return x[torch.randperm(len(x))[:count].to(x.device)]


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _positive(name: str, value: float, remedy: str = "") -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}" + (remedy and f"; {remedy}"))


PRIORS: dict[str, type[nn.Module]] = {
    "normal": StandardNormal,
    "learned_normal": LearnedNormal,
    "laplace": Laplace,
    "student_t": StudentT,
    "logistic": LogisticPrior,
    "mixture": GaussianMixture,
    "vamp": VampPrior,
    "flow": Flow,
    "sphere": Sphere,
    "categorical": Categorical,
}
