r"""The variational autoencoder: three distributions, and the two Pyro programs that they make.

:class:`Prior`, :class:`Likelihood` and :class:`Posterior` say what a component must do. There is no
base class and nothing to register: any object that meets one of them can take its place.
"""

from typing import Protocol

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn

from pyrovae._process.isolation import alone, evaluating, isolated
from pyrovae._process.memory import check_memory
from pyrovae.distributions import (
    base,
    check_component,
    moments,
    observed_log_prob,
    observed_part,
    returned,
    space,
    vector_size,
)
from pyrovae.estimates import AnyExamples, as_tensor, html_table
from pyrovae.likelihoods import LIKELIHOODS
from pyrovae.posteriors import POSTERIORS
from pyrovae.priors import PRIORS

__all__ = ["VAE", "Likelihood", "Posterior", "Prior", "SpaceError"]

_AT_ONCE = 100_000  # examples that are drawn at a time
_BYTES = 28  # for each number of a drawn example: as it is drawn, in its units, and as written
_DRAWS = 100  # number of draws by which two supports are compared

_REMEDY = (
    "if the data were scaled, leave them as they are (scaling none: --scaling none, or scaling = "
    '"none" in the class of the likelihood); else choose a likelihood whose support holds it'
)


class Prior(Protocol):
    """p(z): an object that returns a distribution when it is called, such as an ``nn.Module``.

    The distribution needs ``log_prob``, ``sample`` and ``expand``. If it declares its ``support``,
    the posterior's must be the same.

    Where a prior also has these, they are used: ``initialize(x)``, called by :func:`pyrovae.fit`
    with training data; ``at(progress)`` and ``scheduled``, a method that sets a scheduled number
    for the fraction of training that is done, and the names of the attributes that it sets;
    ``posterior``, the VAE's posterior, for a prior made from it. Such a prior must not register the
    posterior as a submodule.

    Example:
        >>> from pyro.distributions import Gumbel
        >>> def prior():
        ...     return Gumbel(torch.zeros(2), torch.ones(2)).to_event(1)
        >>> pyrovae.VAE(prior, vae.likelihood, vae.posterior).latent_dim
        2
    """

    def __call__(self) -> dist.Distribution:
        """One distribution over vectors z: event_shape ``(latent_dim,)`` and no batch."""


class Likelihood(Protocol):
    """p(x | z): an object that returns a distribution over x when it is called with z.

    The distribution needs ``log_prob`` with its normalizing constant, ``sample`` and ``mean``.

    Where a likelihood also has these, they are used: ``initialize(x)``, ``at(progress)`` and
    ``scheduled`` as for :class:`Prior`; ``scaling``, how to scale integer pixels for it (``"none"``
    or ``"unit"``); ``remedy``, what to do with data outside its support, for the error message.

    Example:
        >>> from pyro.distributions import Bernoulli
        >>> def likelihood(z):
        ...     return Bernoulli(logits=vae.likelihood.decoder(z)).to_event(3)
        >>> pyrovae.VAE(vae.prior, likelihood, vae.posterior).decode(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 8, 8])
    """

    def __call__(self, z: Tensor, /) -> dist.Distribution:
        """For z ``(*batch, latent_dim)``, a distribution over x ``(*batch, *event_shape)``."""


class Posterior(Protocol):
    """q(z | x): an object that returns a distribution over z when it is called with x.

    The distribution needs ``log_prob`` and ``sample``, and ``rsample`` for most objectives.

    Where a posterior also has these, they are used: ``initialize(x)``, ``at(progress)`` and
    ``scheduled`` as for :class:`Prior`; ``encoder``, its network.

    Example:
        >>> from pyro.distributions import Normal
        >>> def posterior(x):
        ...     return Normal(vae.encode(x), 0.1).to_event(1)
        >>> pyrovae.VAE(vae.prior, vae.likelihood, posterior).reconstruct(x).shape
        torch.Size([64, 1, 8, 8])
    """

    def __call__(self, x: Tensor, /) -> dist.Distribution:
        """For x ``(*batch, *event_shape)``, a distribution over z ``(*batch, latent_dim)``."""


class SpaceError(ValueError):
    """The prior and the posterior are over different spaces.

    Example:
        >>> from pyrovae.priors import Sphere
        >>> pyrovae.VAE(Sphere(2), vae.likelihood, vae.posterior).check_spaces(x)
        Traceback (most recent call last):
        pyrovae.vae.SpaceError: the prior Sphere is over points of the unit sphere of shape ...
    """


class VAE(nn.Module):
    r"""A latent variable model and the amortized posterior that is fitted to it.

    .. math::
        p(x, z) = p(z) \, p(x \mid z) \qquad q(z \mid x) \approx p(z \mid x)

    The generative story of one example: draw z from the prior, then x from the likelihood given z.
    Each example has its own z. :meth:`model` and :meth:`guide` are ordinary Pyro programs over a
    batch of independent examples, for Pyro's own ``SVI``, ELBOs, ``Predictive``, ``NUTS`` and
    handlers.

    References:
        Kingma and Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114

    Args:
        prior: p(z), called without arguments; returns a Pyro distribution with event_dim 1.
        likelihood: p(x | z), called with z ``(*batch, latent_dim)``; returns a Pyro distribution
            over x ``(*batch, *event_shape)``.
        posterior: q(z | x), called with x ``(*batch, *event_shape)``; returns a Pyro distribution
            over z ``(*batch, latent_dim)``.

    Raises:
        TypeError: if one of the three cannot be called, or does not return a Pyro distribution, or
            the prior's is not over vectors.
        ValueError: if the prior is made from a posterior that is another object, or the three do
            not share one ``latent_dim`` and one ``event_shape``.

    Example:
        >>> from functools import partial
        >>> from pyrovae.likelihoods import Bernoulli
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import DiagonalNormal
        >>> from pyrovae.priors import StandardNormal
        >>> components = Bernoulli(2, (1, 8, 8), MLP), DiagonalNormal(2, (1, 8, 8), MLP)
        >>> pyrovae.VAE(StandardNormal(2), *components).sample(10).shape
        torch.Size([10, 1, 8, 8])
    """

    def __init__(self, prior: Prior, likelihood: Likelihood, posterior: Posterior) -> None:
        super().__init__()
        for call, component, family in (
            ("prior()", prior, PRIORS),
            ("likelihood(z)", likelihood, LIKELIHOODS),
            ("posterior(x)", posterior, POSTERIORS),
        ):
            check_component(call, component, family)
        shared = getattr(prior, "posterior", posterior)
        if shared is not posterior:
            raise ValueError(
                f"the {type(prior).__name__} is made from a {type(shared).__name__} that is not "
                "the VAE's posterior and would not be trained; give both the same object"
            )
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior
        self.latent_dim: int = vector_size(prior)
        self._check_shapes()

    def _repr_html_(self) -> str:
        """A table for notebooks: the three roles and their classes."""
        rows = [("prior", "p(z)"), ("likelihood", "p(x|z)"), ("posterior", "q(z|x)")]
        return html_table("VAE", [(*row, type(getattr(self, row[0])).__name__) for row in rows])

    def model(self, x: Tensor) -> None:
        """The Pyro program of p(x, z) = p(z) p(x | z), with x observed.

        Args:
            x: data ``(batch, *event_shape)``. The factor of a value that is NaN, a missing one, is
                masked.
        """
        self.declare("prior", "likelihood")
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            likelihood, value = observed_part(self.likelihood(z), x)
            pyro.sample("x", likelihood, obs=value)

    def guide(self, x: Tensor) -> None:
        """The Pyro program of q(z | x).

        Args:
            x: data ``(batch, *event_shape)``.
        """
        self.declare("posterior")
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))

    def log_joint(
        self,
        x: AnyExamples,
        z: Tensor,
        *,
        prior: dist.Distribution | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        r"""The log density of each pair of x and z, in nats.

        .. math:: \log p(x, z) = \log p(z) + \log p(x \mid z)

        Args:
            x: data ``(*batch, *event_shape)``, or as :meth:`place` takes them.
            z: latents ``(*sample_shape, *batch, latent_dim)``.
            prior: p(z) as ``self.prior()`` returned it, to save building it again; None builds it.
            dtype: type in which the two terms are added; by default their own.

        Returns:
            ``(*sample_shape, *batch)``.

        Example:
            >>> vae.log_joint(x, torch.zeros(64, 2)).shape
            torch.Size([64])
            >>> vae.log_joint(x, torch.zeros(100, 64, 2), dtype=torch.float64).shape
            torch.Size([100, 64])
        """
        p = self.prior() if prior is None else prior
        return p.log_prob(z).to(dtype) + self.log_likelihood(x, z).to(dtype)

    def log_likelihood(self, x: AnyExamples, z: Tensor) -> Tensor:
        """log p(x | z) of each pair of x and z, in nats, where NaN in x is a missing value.

        Args:
            x: data ``(*batch, *event_shape)``, or as :meth:`place` takes them.
            z: latents ``(*sample_shape, *batch, latent_dim)``.

        Returns:
            ``(*sample_shape, *batch)``.

        Raises:
            ValueError: if values are missing and the likelihood is not a product over them, or as
                :meth:`check_data`.

        Example:
            >>> gaps = torch.full((64, 1, 8, 8), float("nan"))
            >>> bool((vae.log_likelihood(gaps, torch.zeros(64, 2)) == 0).all())
            True
        """
        x = x if isinstance(x, Tensor) else self.place(x)
        likelihood = self.likelihood(z)
        try:
            return observed_log_prob(likelihood, x)
        except ValueError:
            self.check_data(x.reshape(-1, *x.shape[x.dim() - len(likelihood.event_shape) :]))
            raise

    def declare(self, *roles: str) -> None:
        """Register the parameters that a program uses with Pyro, by ``pyro.module``.

        In Pyro's param store they are named ``prior$$$...``, ``likelihood$$$...`` and
        ``posterior$$$...``. A prior that is made from the posterior uses its parameters too.

        Args:
            roles: ``"prior"``, ``"likelihood"`` or ``"posterior"``; a component that is no module
                has no parameters.
        """
        parts = {role: getattr(self, role) for role in roles}
        if hasattr(parts.get("prior"), "posterior"):
            parts["posterior"] = self.posterior
        for role, part in parts.items():
            if isinstance(part, nn.Module):
                pyro.module(role, part)

    @alone()
    def encode(self, x: AnyExamples) -> Tensor:
        """The mean of q(z | x), by formula or else from 1,000 draws.

        Args:
            x: data ``(*batch, *event_shape)``, or as :meth:`place` takes them.

        Returns:
            ``(*batch, latent_dim)``.
        """
        return moments(self.posterior(self.place(x)))[0]

    def decode(self, z: AnyExamples) -> Tensor:
        """The mean of p(x | z).

        Args:
            z: latents ``(*batch, latent_dim)``, or as :meth:`place` takes them.

        Returns:
            ``(*batch, *event_shape)``.
        """
        return self.likelihood(self.place(z)).mean

    @alone()
    def reconstruct(self, x: AnyExamples) -> Tensor:
        """The mean of p(x | z) at one draw of z from q(z | x).

        Args:
            x: data ``(*batch, *event_shape)``, or as :meth:`place` takes them.

        Returns:
            ``(*batch, *event_shape)``.
        """
        return self.decode(self.posterior(self.place(x)).sample())

    @alone()
    def sample(self, n: int) -> Tensor:
        """Draw examples: z from p(z), then x from p(x | z).

        The means of p(x | z) at such z look smoother but are not samples; they are
        ``vae.decode(vae.prior().sample((n,)))``.

        Args:
            n: number of examples.

        Returns:
            ``(n, *event_shape)``.

        Raises:
            ValueError: if n is negative, or memory cannot hold as many.
        """
        z = self.sample_prior(n)
        return torch.cat([self.likelihood(part).sample() for part in z.split(_AT_ONCE)])

    def sample_prior(self, n: int) -> Tensor:
        """Draw z from p(z), after a check that memory holds as many examples.

        Args:
            n: number of draws.

        Returns:
            ``(n, latent_dim)``.

        Raises:
            ValueError: if n is negative, or memory cannot hold n examples.
        """
        if n < 0:
            raise ValueError(f"n must not be negative, got {n}")
        prior = self.prior()
        with torch.no_grad(), isolated(), evaluating(self):
            shape = self.likelihood(prior.sample(torch.Size([1]))).event_shape
        size = n * (4 * self.latent_dim + _BYTES * shape.numel())
        check_memory(f"{n} examples of shape {tuple(shape)}", size, "draw fewer")
        return prior.sample(torch.Size([n]))

    def place(self, x: AnyExamples) -> Tensor:
        """Make one tensor of data, on the device and in the dtype of the parameters.

        Args:
            x: data ``(*batch, *event_shape)``, a tensor of any numeric type, or examples as
                :func:`pyrovae.data.as_split` takes them: arrays, tables, sparse matrices, datasets.

        Returns:
            The same numbers, ``(*batch, *event_shape)``.

        Raises:
            TypeError, ValueError: as :func:`pyrovae.data.as_split`.

        Example:
            >>> import numpy
            >>> vae.place(numpy.ones((5, 1, 8, 8), numpy.uint8)).dtype
            torch.float32
        """
        x = as_tensor(x)
        parameter = next(self.parameters(), None)
        return x.float() if parameter is None else x.to(parameter)

    @torch.no_grad()
    def check_data(self, x: AnyExamples) -> None:
        """Refuse data outside the likelihood's support, and a posterior outside the prior's space.

        Args:
            x: data ``(batch, *event_shape)``, or as :meth:`place` takes them.

        Raises:
            ValueError: if the shape differs, or a value lies outside the support of p(x | z), with
                that value and the remedy.
            SpaceError: as :meth:`check_spaces`.
        """
        x = self.place(x)
        with isolated(), evaluating(self):  # batch normalization has one z here
            likelihood = self.likelihood(self.prior().sample(torch.Size([1])))
        event_shape = tuple(likelihood.event_shape)
        if tuple(x.shape[1:]) != event_shape:
            raise ValueError(
                f"the likelihood describes examples of shape {event_shape}, the data's have "
                f"{tuple(x.shape[1:])}; reshape the data, or build the networks for its shape"
            )
        _, x = observed_part(likelihood, x)  # a missing value lies in any support
        inside = likelihood.support.check(x)  # (batch,): the event dims are reduced
        if not inside.all():
            elementwise = base(likelihood).support.check(x)
            raise ValueError(
                f"the data holds {x[~elementwise].flatten()[0].item():.6g}, outside the support of "
                f"{type(self.likelihood).__name__}; " + getattr(self.likelihood, "remedy", _REMEDY)
            )
        self.check_spaces(x[:2])

    @torch.no_grad()
    def _check_shapes(self) -> None:
        """Refuse components that were not built for one latent_dim and one event_shape."""
        with isolated(), evaluating(self):
            prior = self.prior()
            z = prior.sample(torch.Size([2]))
            p = returned("the likelihood", self.likelihood, z, "as the prior draws it")
            x = torch.zeros(2, *p.event_shape, dtype=z.dtype)
            q = returned("the posterior", self.posterior, x, "as the likelihood describes it")
        if q.event_shape != prior.event_shape:
            raise SpaceError(
                f"the prior {type(self.prior).__name__} is over z of shape "
                f"{tuple(prior.event_shape)}, the posterior {type(self.posterior).__name__} over z "
                f"of shape {tuple(q.event_shape)}; build both, and the likelihood, with the same "
                "latent_dim"
            )

    @torch.no_grad()
    def check_spaces(self, x: Tensor) -> None:
        """Refuse a posterior that is not over the same space as the prior.

        Args:
            x: data ``(batch, *event_shape)``; a few examples suffice.

        Raises:
            SpaceError: if draws of q(z | x) lie outside the support of p(z), or the other way
                round, naming both spaces.
        """
        x = x / x.abs().max().clamp_min(1)  # an encoder before initialization may overflow
        try:
            with isolated(), evaluating(self):
                p, q = self.prior(), self.posterior(x)
                same = q.event_shape == p.event_shape and bool(
                    p.support.check(q.sample((_DRAWS,))).all()
                    and q.support.check(p.sample((_DRAWS,))).all()
                )
        except NotImplementedError:  # a user-defined distribution that declares no support
            return
        if not same:
            raise SpaceError(
                f"the prior {type(self.prior).__name__} is over {space(p)}, the posterior "
                f"{type(self.posterior).__name__} over {space(q)}; they must be over the same "
                "space"
            )
