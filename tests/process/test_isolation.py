"""What looks at a VAE leaves it in the mode that it was in, part by part."""

import pytest
import torch

from pyrovae._process import isolation
from pyrovae._process.isolation import evaluating
from pyrovae.data import Split
from pyrovae.diagnostics import activity, compare_gradients
from pyrovae.evidence import evaluate
from pyrovae.kl import ledger


@pytest.mark.parametrize(
    "look",
    [
        lambda vae, data: evaluate(vae, data, samples=2),
        lambda vae, data: ledger(vae, data, samples=(2,)),
        lambda vae, data: compare_gradients(vae, data, draws=2),
        lambda vae, data: activity(vae, data),
        lambda vae, data: vae.check_data(next(data.batches(10))),
    ],
    ids=["evaluate", "ledger", "gradients", "activity", "check_data"],
)
def test_each_part_is_left_in_its_mode(look, vae, digits):
    """Such as an encoder that is kept in eval mode while the rest is trained."""
    vae.train()
    vae.posterior.eval()
    modes = {name: part.training for name, part in vae.named_modules()}
    assert len(set(modes.values())) == 2
    look(vae, Split.from_array(digits[:20]))
    assert {name: part.training for name, part in vae.named_modules()} == modes


def test_the_modes_are_put_back_after_an_error(vae):
    vae.train()

    def fail():
        with evaluating(vae):
            assert not any(part.training for part in vae.modules())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert all(part.training for part in vae.modules())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_convolutions_of_a_gpu_repeat_inside_of_the_block_alone(monkeypatch, device):
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", True)
    before = cudnn.deterministic, cudnn.benchmark

    def fail():
        with isolation.isolated(torch.device(device)):
            seen.append((cudnn.deterministic, cudnn.benchmark))
            raise RuntimeError

    seen = []
    with pytest.raises(RuntimeError):
        fail()
    assert seen == [(True, False) if device == "cuda" else before]
    assert (cudnn.deterministic, cudnn.benchmark) == before
