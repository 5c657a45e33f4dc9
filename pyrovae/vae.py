r"""The variational autoencoder: three distributions, and the two Pyro programs they make."""

from collections.abc import Callable, Iterable
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn

from pyrovae._process.isolation import evaluating
from pyrovae.distributions import moments
from pyrovae.posteriors import POSTERIORS
from pyrovae.priors import PRIORS

__all__ = ["VAE"]

_DRAWS = 100  # by which two supports are compared


class VAE(nn.Module):
    r"""A latent variable model and the amortised posterior that is fitted to it.

    .. math::
        p(x, z) = p(z) \, p(x \mid z) \qquad q(z \mid x) \approx p(z \mid x)

    The generative story of one datum: draw z from the prior, then x from the likelihood given z.
    Each datum has a z of its own. :meth:`model` and :meth:`guide` are ordinary Pyro programs over
    a batch of independent data, for Pyro's own ``SVI``, ELBOs, ``Predictive``, ``NUTS`` and
    handlers.

    References:
        Kingma and Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114

    Args:
        prior: p(z), called with nothing; returns a Pyro distribution of event_dim 1.
        likelihood: p(x | z), called with z ``(*batch, latent_dim)``; returns a Pyro distribution
            over x ``(*batch, *event_shape)``.
        posterior: q(z | x), called with x ``(*batch, *event_shape)``; returns a Pyro distribution
            over z ``(*batch, latent_dim)``.

    Raises:
        TypeError: if the prior does not return a Pyro distribution over vectors.
        ValueError: if the prior is made of a posterior, and that is another object.
    """

    def __init__(
        self,
        prior: Callable[[], dist.Distribution],
        likelihood: Callable[[Tensor], dist.Distribution],
        posterior: Callable[[Tensor], dist.Distribution],
    ) -> None:
        super().__init__()
        shared = getattr(prior, "posterior", posterior)
        if shared is not posterior:
            raise ValueError(
                f"the {type(prior).__name__} is made of a {type(shared).__name__} that is not the "
                "VAE's posterior, and would not be trained; give both the same object"
            )
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior
        self.latent_dim: int = _event_shape_of_prior(prior)[0]

    def model(self, x: Tensor) -> None:
        """p(x, z) = p(z) p(x | z), with x observed.

        Args:
            x: data ``(batch, *event_shape)``.
        """
        self.declare("prior", "likelihood")
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x).

        Args:
            x: data ``(batch, *event_shape)``.
        """
        self.declare("posterior")
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))

    def log_joint(
        self,
        x: Tensor,
        z: Tensor,
        *,
        prior: dist.Distribution | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        r"""The log density of each pair of x and z, in nats.

        .. math:: \log p(x, z) = \log p(z) + \log p(x \mid z)

        Args:
            x: data ``(*batch, *event_shape)``.
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
        log_prior: Tensor = p.log_prob(z)
        log_likelihood: Tensor = self.likelihood(z).log_prob(x)
        return log_prior.to(dtype) + log_likelihood.to(dtype)

    def declare(self, *roles: str) -> None:
        """Tell Pyro of the parameters that a program uses, by ``pyro.module``, role by role.

        In Pyro's store they are ``prior$$$...``, ``likelihood$$$...`` and ``posterior$$$...``. A
        prior that is made of the posterior uses its parameters too.

        Args:
            roles: ``"prior"``, ``"likelihood"`` or ``"posterior"``; one that is no module has no
                parameters.
        """
        parts = {role: getattr(self, role) for role in roles}
        if hasattr(parts.get("prior"), "posterior"):
            parts["posterior"] = self.posterior
        for role, part in parts.items():
            if isinstance(part, nn.Module):
                pyro.module(role, part)

    def encode(self, x: Tensor) -> Tensor:
        """The mean of q(z | x): by formula, else of 1,000 draws.

        Args:
            x: data ``(*batch, *event_shape)``.

        Returns:
            ``(*batch, latent_dim)``.
        """
        return moments(self.posterior(x))[0]

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x | z).

        Args:
            z: latents ``(*batch, latent_dim)``.

        Returns:
            ``(*batch, *event_shape)``.
        """
        return self.likelihood(z).mean

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x | z) at one draw of z from q(z | x).

        Args:
            x: data ``(*batch, *event_shape)``.

        Returns:
            ``(*batch, *event_shape)``.
        """
        return self.decode(self.posterior(x).sample())

    def sample(self, n: int) -> Tensor:
        """Draw observations: z from p(z), then x from p(x | z).

        The means of p(x | z) at such draws, which look smoother and are no samples, are
        ``vae.decode(vae.prior().sample((n,)))``.

        Args:
            n: number of observations.

        Returns:
            ``(n, *event_shape)``.
        """
        z = self.prior().sample((n,))
        return self.likelihood(z).sample()

    def place(self, x: Tensor) -> Tensor:
        """x on the device and in the dtype of the parameters.

        Args:
            x: data ``(*batch, *event_shape)``, of any numeric type.

        Returns:
            The same numbers, ``(*batch, *event_shape)``.
        """
        parameter = next(self.parameters(), None)
        return x.float() if parameter is None else x.to(parameter)

    @torch.no_grad()
    def check_data(self, x: Tensor) -> None:
        """Refuse data that the likelihood does not describe, and a posterior off the prior's space.

        Args:
            x: data ``(batch, *event_shape)``.

        Raises:
            ValueError: if the shape differs, or a value lies outside the support of p(x | z),
                with that value and the remedy; if draws of q(z | x) lie outside the support of
                p(z), or the other way round, naming both.
        """
        with torch.random.fork_rng():
            likelihood = self.likelihood(self.prior().sample())
        event_shape = tuple(likelihood.event_shape)
        if tuple(x.shape[1:]) != event_shape:
            raise ValueError(
                f"the likelihood describes observations of shape {event_shape}, the data's have "
                f"{tuple(x.shape[1:])}; reshape the data, or build the networks for its shape"
            )
        inside = likelihood.support.check(x)  # (batch,): the event dims are reduced
        if not inside.all():
            elementwise = _elementwise(likelihood).support.check(x)
            raise ValueError(
                f"the data holds {x[~elementwise].flatten()[0].item():.6g}, outside the support of "
                f"{type(self.likelihood).__name__}; "
                + getattr(self.likelihood, "remedy", "choose a likelihood whose support holds it")
            )
        self._check_pair(x[:2])

    def _check_pair(self, x: Tensor) -> None:
        x = x / x.abs().max().clamp_min(1)  # an encoder that knows no unit yet may overflow
        try:
            with torch.random.fork_rng(), evaluating(self):
                p, q = self.prior(), self.posterior(x)
                same = q.event_shape == p.event_shape and bool(
                    p.support.check(q.sample((_DRAWS,))).all()
                    and q.support.check(p.sample((_DRAWS,))).all()
                )
        except NotImplementedError:  # a distribution of the user's own that declares no support
            return
        if not same:
            raise ValueError(
                f"the prior {type(self.prior).__name__} is over {_space(p)}, the posterior "
                f"{type(self.posterior).__name__} over {_space(q)}; they must be over the same "
                f"space. Over real vectors are the priors {_but(PRIORS, 'sphere', 'categorical')} "
                f"and the posteriors {_but(POSTERIORS, 'power_spherical', 'relaxed_categorical')}; "
                "each pair works but vamp with point. On the sphere are the priors sphere and vamp "
                "with the posterior power_spherical. Over one-hot vectors are the priors "
                "categorical and vamp with the posterior relaxed_categorical, of the same classes"
            )


def _elementwise(distribution: Any) -> Any:
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    return distribution


def _but(family: Iterable[str], *names: str) -> str:
    return ", ".join(entry for entry in family if entry not in names)


def _space(distribution: Any) -> str:
    support = distribution.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    kind = type(support).__name__.strip("_")
    words = _SPACES.get(kind, f"vectors of {kind}")
    if hasattr(support, "classes"):
        words += f" of {support.classes} classes each"
    return f"{words} of shape {tuple(distribution.event_shape)}"


_SPACES = {
    "Real": "real vectors",
    "Simplex": "points of the simplex",
    "Sphere": "points of the unit sphere",
    "OneHot": "one-hot vectors",
    "OneHotVectors": "one-hot vectors side by side",
}


def _event_shape_of_prior(prior: Callable[[], dist.Distribution]) -> tuple[int, ...]:
    with torch.no_grad():
        distribution = prior()
    if not isinstance(distribution, dist.Distribution):
        raise TypeError(
            f"a prior returns a Pyro distribution when called, got {type(distribution).__name__} "
            f"from {type(prior).__name__}; take the same name from pyro.distributions"
        )
    if len(distribution.event_shape) != 1 or distribution.batch_shape:
        raise TypeError(
            f"a prior is one distribution over vectors z: event_shape (latent_dim,) and no batch, "
            f"got event_shape {tuple(distribution.event_shape)} and batch_shape "
            f"{tuple(distribution.batch_shape)}; add .to_event(1)"
        )
    return tuple(distribution.event_shape)
