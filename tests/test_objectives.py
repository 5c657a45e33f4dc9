"""A recorded objective is the same objective, with the two parts of the bound beside it."""

import pyro
import pytest
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from pyrovae.objectives import recording

OBJECTIVES = [
    Trace_ELBO(),
    Trace_ELBO(num_particles=3),
    Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    TraceMeanField_ELBO(),
    TraceGraph_ELBO(),
    RenyiELBO(alpha=0, num_particles=3, vectorize_particles=True, max_plate_nesting=1),
]


def gradients(objective, vae, x):
    torch.manual_seed(1)
    vae.zero_grad()
    with pyro.get_param_store().scope():
        loss = objective.loss_and_grads(vae.model, vae.guide, x)
    return loss, [p.grad.clone() for p in vae.parameters()]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_recording_changes_neither_loss_nor_gradients(vae, digits, objective):
    watched, _ = recording(objective)
    loss, expected = gradients(objective, vae, digits)
    same_loss, found = gradients(watched, vae, digits)
    assert loss == same_loss
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("objective", OBJECTIVES[:3], ids=lambda o: type(o).__name__)
def test_the_two_parts_make_the_elbo(vae, digits, objective):
    watched, record = recording(objective)
    loss = watched.loss(vae.model, vae.guide, digits)
    assert -loss == pytest.approx(float(record.terms.reconstruction - record.terms.kl), rel=1e-5)


def test_the_parts_are_the_terms_of_the_draw(vae, digits):
    watched, record = recording(Trace_ELBO())
    torch.manual_seed(2)
    watched.loss(vae.model, vae.guide, digits)
    torch.manual_seed(2)
    q = vae.posterior(digits)
    z = q.rsample()
    reconstruction = vae.likelihood(z).log_prob(digits).sum()
    kl = (q.log_prob(z) - vae.prior().log_prob(z)).sum()
    torch.testing.assert_close(record.terms.reconstruction, reconstruction.detach())
    torch.testing.assert_close(record.terms.kl, kl.detach())


def test_the_callers_object_is_untouched_and_each_step_is_new(vae, digits):
    objective = Trace_ELBO()
    watched, record = recording(objective)
    assert type(objective) is Trace_ELBO
    assert not hasattr(objective, "record")
    assert isinstance(watched, Trace_ELBO)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.0}), watched)
    for _ in range(3):
        loss = svi.step(digits)
        assert loss == pytest.approx(float(record.terms.kl - record.terms.reconstruction), rel=1e-5)
