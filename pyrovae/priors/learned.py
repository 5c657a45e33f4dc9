r"""Priors with parameters that are trained together with the VAE, or can be."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae._process.allocation import within_memory
from pyrovae._process.choices import check_choice
from pyrovae._process.memory import check_layers
from pyrovae.networks import Shape
from pyrovae.priors.fixed import Centered, positive

__all__ = ["Categorical", "Flow", "GaussianMixture", "LearnedNormal", "VampPrior"]

Posterior = Callable[[Tensor], dist.Distribution]

FOR_NORMAL = "for p(z) = N(0, I) use StandardNormal (--prior normal)"


class LearnedNormal(nn.Module):
    r"""A normal distribution with learned mean and covariance, diagonal or full.

    .. math:: p(z) = \mathcal{N}(z \mid \mu, L L^\top)

    L is diagonal or lower triangular, with a positive diagonal. The prior starts as N(0, I).

    Args:
        latent_dim: number of dimensions of z.
        covariance: ``"diagonal"`` or ``"full"``.

    Raises:
        ValueError: if ``latent_dim`` is not positive, or ``covariance`` is neither.

    Example:
        >>> from pyrovae.priors import LearnedNormal
        >>> torch.equal(LearnedNormal(2, covariance="full")().covariance_matrix, torch.eye(2))
        True
    """

    @within_memory
    def __init__(
        self, latent_dim: int, *, covariance: Literal["diagonal", "full"] = "diagonal"
    ) -> None:
        super().__init__()
        positive("latent_dim", latent_dim)
        check_choice("covariance", covariance, ("diagonal", "full"))
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))
        entries = latent_dim * (latent_dim - 1) // 2
        self.below = nn.Parameter(torch.zeros(entries)) if covariance == "full" else None

    def forward(self) -> dist.Distribution:
        if self.below is None:
            return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MultivariateNormal(
            self.loc, scale_tril=distributions.cholesky_factor(self.log_scale, self.below)
        )


class GaussianMixture(nn.Module):
    r"""A mixture of diagonal normal distributions with learned weights, means and scales.

    .. math::
        p(z) = \sum_{c=1}^{C} \pi_c \, \mathcal{N}(z \mid \mu_c, \operatorname{diag} \sigma_c^2)

    It starts with equal weights, unit scales and means drawn from N(0, I). With ``start="data"``
    the means become the encodings of C training examples when :meth:`initialize` is called.

    Args:
        latent_dim: number of dimensions of z.
        posterior: q(z | x), the same object the VAE uses; needed only for ``start="data"``, and not
            registered as a submodule.
        components: number C of components.
        start: start of the means, ``"random"`` or ``"data"``.

    Raises:
        ValueError: if ``latent_dim`` or ``components`` is not positive, ``start`` is neither, or
            it is ``"data"`` without a posterior.

    Example:
        >>> from pyrovae.priors import GaussianMixture
        >>> prior = GaussianMixture(2, vae.posterior, components=8, start="data")
        >>> prior.initialize(x)
        >>> prior().component_distribution.batch_shape
        torch.Size([8])
    """

    @within_memory
    def __init__(
        self,
        latent_dim: int,
        posterior: Posterior | None = None,
        *,
        components: int = 10,
        start: Literal["random", "data"] = "random",
    ) -> None:
        super().__init__()
        positive("latent_dim", latent_dim)
        positive("components", components, FOR_NORMAL)
        check_choice("start", start, ("random", "data"))
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
        return distributions.Mixture(weights, normals)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """With ``start="data"``, set the means to the encodings of C randomly chosen examples.

        Args:
            x: training data ``(batch, *event_shape)``, at least C examples.

        Raises:
            ValueError: if there are fewer.
        """
        for posterior in self._encoders:
            assert posterior is not None
            loc, _ = distributions.moments(posterior(_choose(x, len(self.loc))))
            self.loc.copy_(loc)


class _Weighted(nn.Module):
    """A prior whose weights are equal or learned."""

    logits: Tensor

    def weigh(self, weights: str, logits: Tensor) -> None:
        """Start with these logits of the weights, a parameter if the weights are learned."""
        check_choice("weights", weights, ("equal", "learned"))
        if weights == "learned":
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)


class VampPrior(_Weighted):
    r"""A mixture of the posterior at learned pseudo-inputs.

    .. math:: p(z) = \sum_{c=1}^{C} \pi_c \, q(z \mid u_c)

    The posterior is the VAE's own, and both of its uses train it. The VAE registers it, and the
    prior does not, so that each parameter has a single name. Pseudo-inputs are unconstrained
    numbers on the scale of x. They start uniform between 0 and 1, and :meth:`initialize` replaces
    them with training data.

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

    Example:
        >>> from pyrovae.priors import VampPrior
        >>> prior = VampPrior(vae.posterior, (1, 8, 8), components=20)
        >>> prior.initialize(x)
        >>> pyrovae.VAE(prior, vae.likelihood, vae.posterior).sample(5).shape
        torch.Size([5, 1, 8, 8])
    """

    @within_memory
    def __init__(
        self,
        posterior: Posterior,
        event_shape: Shape,
        *,
        components: int = 100,
        weights: Literal["equal", "learned"] = "equal",
    ) -> None:
        super().__init__()
        positive("components", components, FOR_NORMAL)
        self._shared = (posterior,)  # a tuple registers nothing
        self.pseudo_inputs = nn.Parameter(torch.rand(components, *event_shape))
        self.weigh(weights, torch.zeros(components))

    @property
    def posterior(self) -> Posterior:
        """The q(z | x) at whose pseudo-inputs the components are."""
        return self._shared[0]

    def forward(self) -> dist.Distribution:
        components = self.posterior(self.pseudo_inputs)
        if isinstance(components, dist.Delta):
            raise ValueError(
                f"a mixture of the points of {type(self.posterior).__name__} has no density; take "
                "a posterior with one (diagonal, full, low_rank, laplace), or another prior"
            )
        return distributions.Mixture(dist.Categorical(logits=self.logits), components)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the pseudo-inputs to C randomly chosen training examples.

        Args:
            x: training data ``(batch, *event_shape)``, at least C examples.

        Raises:
            ValueError: if there are fewer.
        """
        self.pseudo_inputs.copy_(_choose(x, len(self.pseudo_inputs)))


class Flow(Centered):
    r"""A normalizing flow: a learned invertible map of N(0, I), with density and draws.

    .. math:: \log p(z) = \log \mathcal{N}(f(z) \mid 0, I) + \log \left| \det \nabla f(z) \right|

    ``nsf`` and ``maf`` are autoregressive: a density takes one pass, a draw one pass for each
    dimension. ``realnvp`` couples two halves: both take one pass. The splines of ``nsf`` act
    between -5 and 5 and leave other values unchanged.

    References:
        Durkan, Bekasov, Murray and Papamakarios (2019), Neural Spline Flows, arXiv:1906.04032;
        Papamakarios, Pavlakou and Murray (2017), Masked Autoregressive Flow, arXiv:1705.07057;
        Dinh, Sohl-Dickstein and Bengio (2017), Density Estimation Using Real NVP, arXiv:1605.08803

    Args:
        latent_dim: number of dimensions of z.
        kind: kind of the transforms, ``"nsf"``, ``"maf"`` or ``"realnvp"``.
        transforms: number of transforms, applied one after the other.
        hidden_dims: widths of the hidden layers in each transform.

    Raises:
        ValueError: if ``latent_dim``, ``transforms`` or a width is not positive, or ``kind`` is
            none of the three.

    Example:
        >>> from pyrovae.priors import Flow
        >>> p = Flow(2, kind="realnvp")()
        >>> p.log_prob(p.sample((5,))).shape
        torch.Size([5])
    """

    scale: Tensor

    def __init__(
        self,
        latent_dim: int,
        *,
        kind: Literal["nsf", "maf", "realnvp"] = "nsf",
        transforms: int = 3,
        hidden_dims: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__(latent_dim)
        check_choice("kind", kind, ("nsf", "maf", "realnvp"))
        positive("transforms", transforms, FOR_NORMAL)
        for width in hidden_dims:
            positive("hidden_dims", width)
        check_layers("flow", (latent_dim, *hidden_dims, 23 * latent_dim), transforms)
        flows = distributions.zuko_flows()
        make = {"nsf": flows.NSF, "maf": flows.MAF, "realnvp": flows.RealNVP}[kind]
        flow = make(latent_dim, transforms=transforms, hidden_features=tuple(hidden_dims))
        self.to_normal = flow.transform
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        base = dist.Normal(self.loc, self.scale).to_event(1)
        return distributions.FlowDistribution(base, self.to_normal().inv)


class Categorical(_Weighted):
    r"""L one-hot variables with K classes, relaxed in training, for ``relaxed_categorical``.

    .. math::
        p(z) = \prod_{l=1}^{L} \prod_{k=1}^{K} \pi_{lk}^{z_{lk}}, \qquad LK = \text{latent\_dim}

    In eval mode, which is used for all reported numbers, samples and figures, this is p: z is L
    one-hot vectors side by side. In training mode it is the Concrete relaxation, whose draws are
    differentiable. Training therefore maximizes a bound on the evidence of the relaxed model, with
    a likelihood of the same weights, which is no bound on the evidence of the discrete one.

    References:
        Maddison, Mnih and Teh (2017), The Concrete Distribution, arXiv:1611.00712;
        Jang, Gu and Poole (2017), Categorical Reparameterization with Gumbel-Softmax,
        arXiv:1611.01144

    Args:
        latent_dim: number L * K of dimensions of z.
        classes: K, the same as the posterior's.
        weights: ``"equal"``, :math:`\pi_{lk} = 1 / K`, or ``"learned"``.
        temperature: temperature of the relaxation.

    Raises:
        ValueError: if ``classes`` is below 2 or does not divide ``latent_dim``, ``weights`` is
            neither, or ``temperature`` is not positive and finite.

    Example:
        >>> from pyrovae.priors import Categorical
        >>> Categorical(6, classes=3).eval()().sample((5,)).sum(-1)  # two one-hot vectors
        tensor([2., 2., 2., 2., 2.])
    """

    @within_memory
    def __init__(
        self,
        latent_dim: int,
        *,
        classes: int = 2,
        weights: Literal["equal", "learned"] = "equal",
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        positive("temperature", temperature)
        if math.isinf(temperature):
            raise ValueError(f"temperature must be finite, got {temperature}")
        variables = distributions.number_of_variables(latent_dim, classes)
        self.temperature = temperature
        self.weigh(weights, torch.zeros(variables, classes))

    def forward(self) -> dist.Distribution:
        if self.training:
            return distributions.RelaxedOneHots(self.logits, self.temperature)
        return distributions.OneHots(self.logits)


def _choose(x: Tensor, count: int) -> Tensor:
    if count > len(x):
        raise ValueError(
            f"components is {count}, and there are {len(x)} data to start them from; take "
            f"components={len(x)} or fewer"
        )
    return x[torch.randperm(len(x))[:count].to(x.device)]
