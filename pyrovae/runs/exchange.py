r"""Encoder and decoder of a run for other programs: graphs of ``torch.export``, or ONNX files."""

import io
import json
import re
import warnings
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pyrovae._process.choices import check_choice
from pyrovae._process.files import atomic_file, write_text
from pyrovae._process.isolation import isolated
from pyrovae._process.optional_imports import import_for
from pyrovae.distributions import base, missing_values, name
from pyrovae.runs.run import Run
from pyrovae.training import MODEL
from pyrovae.vae import VAE

__all__ = ["FORMATS", "parameters", "write_networks"]

FORMATS = ("onnx", "torch")
"""Formats of a network outside of Python's own: ONNX, or a graph of ``torch.export``."""

ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-5  # of the largest number of an output, or of one
BATCHES = (1, 2, 5)  # sizes with which a file is run and compared
FOLDER = "export"


def parameters(d: Any) -> dict[str, Tensor]:
    """The numbers that a distribution was made from, by torch's names for them.

    Args:
        d: the distribution; what only reinterprets its dimensions is left out.

    Returns:
        Such as ``loc`` and ``scale`` of a normal; empty for one that has no such numbers, as a
        transformed distribution.

    Example:
        >>> from pyrovae.runs import parameters
        >>> {key: value.shape for key, value in parameters(vae.posterior(x)).items()}
        {'loc': torch.Size([64, 2]), 'scale': torch.Size([64, 2])}
    """
    inner = base(d)
    given = vars(inner)
    return {key: given[key] for key in inner.arg_constraints if isinstance(given.get(key), Tensor)}


class _Outputs(nn.Module):
    """A map to the numbers of the distribution that a component returns, and its mean if asked."""

    def __init__(self, component: Any, *, mean: bool) -> None:
        super().__init__()
        self.component, self.mean = component, mean

    def named(self, given: Tensor) -> dict[str, Tensor]:
        d = self.component(given)
        first = {"mean": d.mean} if self.mean else {}
        return first | parameters(d)

    def forward(self, given: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(given).values())


def write_networks(
    run: Run,
    format: str,
    vae: VAE | None = None,
    out: Path | None = None,
) -> list[Path]:
    """Write the encoder and the decoder of a run, each run and compared before it is kept.

    The encoder maps x, as the model takes it, to the parameters of q(z | x); the decoder maps z to
    the mean and the parameters of p(x | z). Both take any number of examples, all without missing
    values. ``export.json`` beside them has the names and shapes of inputs and outputs, the
    treatment of x, and the digest of the run's weights.

    Args:
        run: the run.
        format: one of ``FORMATS``; ``"onnx"`` needs ``pip install 'pyrovae[onnx]'``.
        vae: its VAE; None loads it.
        out: folder of the files; None for ``export`` in the run's folder.

    Returns:
        The files.

    Raises:
        ValueError: if the posterior has no parameters, such as a flow; the format lacks an
            operation of the model; or a file gives other numbers than the model.
        ImportError: if a package of the format is missing.

    Example:
        >>> from pyrovae.runs import Run, start, write_networks
        >>> network = "mlp:hidden_dims=4"
        >>> model = {"encoder": network, "decoder": network, "latent_dim": 2}
        >>> config, digits = pyrovae.Config.resolve({"model": model, "training": {"epochs": 1}})
        >>> run = Run.open(start(config, digits, None)[0])
        >>> [path.name for path in write_networks(run, "torch")]
        ['encoder.pt2', 'decoder.pt2', 'export.json']
    """
    check_choice("format", format, FORMATS)
    vae = (run.vae() if vae is None else vae).cpu().eval()
    folder = run.folder / FOLDER if out is None else out
    write = _onnx if format == "onnx" else _torch
    about: dict[str, Any] = {
        "format": format,
        "run": run.folder.name,
        "weights_sha256": sha256((run.folder / MODEL).read_bytes()).hexdigest(),
        "x": _treatment(run),
    }
    contents = {}
    with torch.no_grad(), isolated(), missing_values(False), pyro.validation_enabled(False):
        torch.manual_seed(0)
        z = vae.prior().sample((max(BATCHES),))
        x = vae.likelihood(z).sample()
        for part, input_name, given, network in (
            ("encoder", "x", x, _Outputs(vae.posterior, mean=False)),
            ("decoder", "z", z, _Outputs(vae.likelihood, mean=True)),
        ):
            d = network.component(given)
            expected = network.named(given)
            if not expected:
                raise ValueError(
                    f"the {part} returns a {name(d)}, which has no parameters that a file could "
                    "return; use pyrovae encode, or train with another posterior"
                )
            contents[part] = write(network, part, input_name, given, expected)
            about[part] = {
                "file": f"{part}{ENDINGS[format]}",
                "input": {input_name: ["batch", *given.shape[1:]]},
                "outputs": {key: _shape(at, given) for key, at in expected.items()},
                "distribution": name(d),
            }
    files = []
    for part, content in contents.items():
        files.append(folder / f"{part}{ENDINGS[format]}")
        with atomic_file(files[-1]) as file:
            file.write(content)
    files.append(folder / "export.json")
    write_text(files[-1], json.dumps(about, indent=2) + "\n")
    return files


def _shape(output: Tensor, given: Tensor) -> list[str | int]:
    batched = output.dim() > 0 and len(output) == len(given)
    return ["batch", *output.shape[1:]] if batched else list(output.shape)


def _treatment(run: Run) -> dict[str, Any]:
    """How the numbers of the data become x."""
    data = run.config.data
    found: dict[str, Any] = {"binarization": data["binarization"], "scaling": data["scaling"]}
    if data["scaling"] == "unit":
        found["divided_by"] = data["maximum"]
    return found | {key: at.tolist() for key, at in run.statistics().items()}


def _exported(network: nn.Module, given: Tensor) -> ExportedProgram:
    with warnings.catch_warnings(action="ignore"):  # torch warns of its own code
        program = torch.export.export(
            network, (given[:3],), dynamic_shapes=({0: Dim("batch")},), strict=False
        )
    program.graph_module.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _torch(
    network: _Outputs, part: str, input_name: str, given: Tensor, expected: dict[str, Tensor]
) -> bytes:
    program = _exported(network, given)
    _compare(part, program.module(), given, expected)
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(program, file)
    return file.getvalue()


def _onnx(
    network: _Outputs, part: str, input_name: str, given: Tensor, expected: dict[str, Tensor]
) -> bytes:
    for module in ("onnx", "onnxscript"):
        import_for(module, module, "the format onnx")
    runtime = import_for("onnxruntime", "onnxruntime", "the format onnx")
    program = _exported(network, given)
    try:
        with warnings.catch_warnings(action="ignore"):
            written = torch.onnx.export(
                program,
                input_names=[input_name],
                output_names=list(expected),
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        operation = re.search(r"aten\.(\w+)", str(error))
        lacks = f"the operation {operation[1]}" if operation else "an operation"
        raise ValueError(
            f"ONNX lacks {lacks} of the {part}; use --format torch, or a component without it"
        ) from error
    assert written is not None
    content: bytes = written.model_proto.SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(values: Tensor) -> Sequence[Tensor]:
        return [torch.as_tensor(at) for at in session.run(None, {input_name: values.numpy()})]

    _compare(part, run, given, expected)
    return content


def _compare(
    part: str,
    run: Callable[[Tensor], Sequence[Tensor]],
    given: Tensor,
    expected: dict[str, Tensor],
) -> None:
    """Run a file with batches of several sizes, and refuse it if it gives other numbers."""
    for size in BATCHES:
        for (key, whole), found in zip(expected.items(), run(given[:size]), strict=True):
            right = whole[:size] if _shape(whole, given)[:1] == ["batch"] else whole
            unit = max(1.0, float(right.abs().max()))
            worst = float((found - right).abs().max())
            if not worst <= TOLERANCE * unit:
                raise ValueError(
                    f"the exported {part} is off by {worst:.1e} in {key}; use the other format"
                )
