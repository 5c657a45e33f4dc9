"""Running statistics of averaged weights, such as the means of batch normalization.

An average of weights computes other activations than any of the weights it averages, so the means
and variances that were gathered along the way are not those of its own activations. They are
gathered anew, in a pass over training batches.

References:
    Izmailov et al. (2018), Averaging Weights Leads to Wider Optima and Better Generalization,
    arXiv:1803.05407, section 3.2
"""

import copy
from collections.abc import Iterable

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pyrovae.vae import VAE

__all__: list[str] = []


@torch.no_grad()
def has_running_statistics(vae: VAE, objective: ELBO, x: Tensor) -> bool:
    """Whether a batch changes buffers of the VAE in train mode.

    Args:
        vae: left unchanged.
        objective: of the training steps.
        x: a batch ``(batch, *event_shape)``.
    """
    before = list(vae.buffers())
    if not before:
        return False
    trial = copy.deepcopy(vae).train()
    with pyro.get_param_store().scope():
        objective.loss(trial.model, trial.guide, x)
    return any(not torch.equal(*pair) for pair in zip(before, trial.buffers(), strict=True))


@torch.no_grad()
def renew_statistics(vae: VAE, objective: ELBO, batches: Iterable[Tensor]) -> None:
    """Gather the running statistics of the current weights, in train mode.

    Batch normalization forgets its means and variances, and takes the plain mean over the batches.
    Other buffers are updated by their own rule, from where they stand.

    Args:
        vae: its buffers change, its weights do not.
        objective: of the training steps, each of which computes its loss.
        batches: of training data, each ``(batch, *event_shape)``.
    """
    mode = vae.training
    vae.train()
    norms = (layer for layer in vae.modules() if isinstance(layer, _BatchNorm) and layer.training)
    layers = [layer for layer in norms if layer.num_batches_tracked is not None]
    kept = [(layer.momentum, copy.deepcopy(dict(layer.named_buffers()))) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # for torch, the plain mean
    try:
        with pyro.get_param_store().scope():
            for x in batches:
                objective.loss(vae.model, vae.guide, x)
    finally:
        for layer, (momentum, buffers) in zip(layers, kept, strict=True):
            layer.momentum = momentum
            if not layer.num_batches_tracked:  # no batch came through this layer
                for name, buffer in layer.named_buffers():
                    buffer.copy_(buffers[name])
        vae.train(mode)
