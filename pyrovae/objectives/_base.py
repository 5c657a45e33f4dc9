"""What most objectives here share: a differentiable loss of vectorized draws."""

from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from pyrovae.objectives._traces import draws

__all__ = ["Differentiable"]


class Differentiable(TraceMeanField_ELBO):
    """An objective that autograd differentiates, for posteriors with reparameterized draws.

    A subclass defines ``_differentiable_loss_particle``, from the traces of model and guide to the
    loss as a number and as a tensor with the gradient.

    Args:
        particles: number of draws of z.

    Raises:
        ValueError: if ``particles`` is not positive.
    """

    _get_trace = Trace_ELBO._get_trace  # without Pyro's check for a mean-field guide

    def __init__(self, *, particles: int = 1) -> None:
        super().__init__(**draws(particles))
