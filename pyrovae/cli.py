r"""The command line. Only click is imported before a command needs more."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

import pyrovae

if TYPE_CHECKING:
    from pyrovae.run import Run

__all__ = ["cli", "main"]

ROLES = ("prior", "likelihood", "posterior", "encoder", "decoder")
SUMMARY_SAMPLES = 100

F = TypeVar("F", bound=Callable[..., Any])


def main() -> NoReturn:
    """Run the command line; what goes wrong is one line on standard error.

    Exit status 0 on success, 2 for bad input, 1 if training diverged, 130 if interrupted.
    """
    try:
        status = cli(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ArithmeticError as error:
        _fail(str(error), 1)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("PYROVAE_TRACEBACK"):
            raise
        _fail(str(error), 2)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"pyrovae: {' '.join(message.split())}", err=True)
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(pyrovae.__version__)
def cli() -> None:
    """Variational autoencoders as Bayesian models, in Pyro.

    Components are written NAME or NAME:KEY=VALUE,KEY=VALUE, and module:Class for code of your own;
    "pyrovae components" lists them with their options.
    """


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_data_dir = click.option("--data-dir", metavar="DIR", help="Folder of torchvision's data sets.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_seed = click.option("--seed", type=int, default=0, show_default=True, help="Of all draws.")
_limit = click.option("--limit", type=int, metavar="N", help="Only the first N examples.")

_run = _options(
    click.argument("run", metavar="RUN"),
    *(
        click.option(
            f"--{role}", metavar="SPEC", help=f"Name the run's own {role} module:Class, to run it."
        )
        for role in ROLES
    ),
)


@cli.command()
@click.option("--data", metavar="NAME|PATH", help="Data set, file, or folder of images. [digits]")
@_data_dir
@click.option("--image-size", type=int, metavar="N", help="Resize a folder's images to N x N.")
@click.option("--binarization", metavar="HOW", help="dynamic, static, threshold or none.")
@click.option("--scaling", metavar="HOW", help="none, unit or standardize.")
@click.option("--prior", metavar="SPEC", help="p(z). [normal]")
@click.option("--likelihood", metavar="SPEC", help="p(x|z). [by the data]")
@click.option("--posterior", metavar="SPEC", help="q(z|x). [diagonal]")
@click.option("--encoder", metavar="SPEC", help="Network of q(z|x). [by the data]")
@click.option("--decoder", metavar="SPEC", help="Network of p(x|z). [by the data]")
@click.option("--latent-dim", type=int, metavar="N", help="Dimensions of z. [by the data]")
@click.option("--epochs", type=int, metavar="N", help="Passes over the training data.")
@click.option("--batch-size", type=int, metavar="N", help="Examples per step.")
@click.option("--learning-rate", type=float, metavar="X", help="Largest step size of Adam.")
@click.option("--warmup", type=float, metavar="X", help="Fraction of steps with a rising rate.")
@click.option("--schedule", metavar="NAME", help="cosine or constant, after the warm-up.")
@click.option("--weight-decay", type=float, metavar="X", help="Decoupled, of matrices.")
@click.option("--clip-norm", metavar="X|none", help="Largest gradient norm per example.")
@click.option("--averaging", type=float, metavar="X", help="Decay of the average of weights.")
@click.option("--validate-every", type=int, metavar="N", help="Epochs between validation bounds.")
@click.option("--patience", metavar="N|none", help="Validation bounds without gain before a stop.")
@click.option("--max-minutes", metavar="X|none", help="Stop, resumable, after so long.")
@click.option("--device", metavar="NAME", help="auto, cpu or cuda.")
@click.option("--seed", type=int, metavar="N", help="Of weights, order and draws. [0]")
@click.option("--config", metavar="FILE", help="TOML that fills what is not given here.")
@click.option("--out", metavar="DIR", help="Folder of the run. [runs/<data>-<prior>-<n>]")
@click.option("--resume", metavar="RUN", help="Go on with a run that was stopped.")
@_json
def fit(
    config: str | None, out: str | None, resume: str | None, as_json: bool, **given: Any
) -> None:
    """Train a VAE, evaluate it, draw pictures; all into one folder.

    With no options: the 1,797 handwritten digits that come with scikit-learn. What is not given is
    taken from --config, then from the recipe of the data, then from the defaults.
    """
    from pyrovae.config import DATA_SETTINGS, MODEL_SETTINGS, TRAINING_SETTINGS, Config
    from pyrovae.display import TrainingDisplay
    from pyrovae.run import Run, next_folder, start
    from pyrovae.training import TrainingInterrupted

    given = {name: value for name, value in given.items() if value is not None}
    trusted = _own_code(given)
    if resume is not None:
        settings = _settings_of_resumption(resume, given, config, out)
        folder = Path(resume)
    else:
        settings = {} if config is None else Config.read(Path(config))
        if "data" in given:
            given["name"] = given.pop("data")
        for table, names in (
            ("data", DATA_SETTINGS),
            ("model", MODEL_SETTINGS),
            ("training", TRAINING_SETTINGS),
        ):
            changes = {name: value for name, value in given.items() if name in names}
            settings[table] = dict(settings.get(table, {})) | changes
    resolved, dataset = Config.resolve(settings, trusted=trusted)
    if resume is None:
        folder = Path(out) if out else next_folder(resolved.data["name"], resolved.model["prior"])
    _note(
        f"{dataset.name}: {len(dataset.train):,} train, {len(dataset.validation):,} validation, "
        f"{len(dataset.test):,} test; {_summary_of(resolved)}"
    )
    try:
        with TrainingDisplay() as display:
            vae, trained = start(
                resolved,
                dataset,
                folder,
                trusted=trusted,
                resume=resume is not None,
                report=display,
            )
    except TrainingInterrupted:
        _fail(f"interrupted; go on with: pyrovae fit --resume {folder}", 130)
    run = Run.open(folder, trusted=trusted)
    summary = run.finish(vae, dataset, trained, samples=SUMMARY_SAMPLES)
    if trained.stopped == "max_minutes":
        _note(f"stopped at max_minutes; go on with: pyrovae fit --resume {folder} --max-minutes N")
    if as_json:
        click.echo(json.dumps(summary))
        return
    _print_evaluation(summary)
    click.echo(
        f"{trained.seconds:.1f} s of training; weights of epoch {trained.best_epoch}, "
        f"figures and report in {folder}"
    )


@cli.command()
@_run
@click.option("--samples", type=int, default=1_000, show_default=True, help="K, draws per example.")
@_limit
@_seed
@_data_dir
@_json
def evaluate(
    run: str,
    samples: int,
    limit: int | None,
    seed: int,
    data_dir: str | None,
    as_json: bool,
    **own: str | None,
) -> None:
    """The ELBO, its parts, and the importance-weighted bound on log p(x), on the test set."""
    from pyrovae.display import counting

    opened = _open(run, own)
    dataset, vae = opened.dataset(data_dir), opened.vae()
    total = len(dataset.test) if limit is None else min(limit, len(dataset.test))
    with counting(f"{samples:,} samples each", total) as advance:
        result = opened.evaluate(
            vae, dataset, samples=samples, limit=limit, seed=seed, advance=advance
        )
    if as_json:
        click.echo(json.dumps(result))
    else:
        _print_evaluation(result)


@cli.command()
@_run
@click.option("--count", type=int, default=64, show_default=True, help="How many.")
@click.option("--means", is_flag=True, help="Means of p(x|z) instead of draws from it.")
@click.option("--out", metavar="FILE", help=".png, .npy, .npz or .csv. [RUN/figures/drawn.png]")
@_seed
def sample(
    run: str, count: int, means: bool, out: str | None, seed: int, **own: str | None
) -> None:
    """Draw observations: z from p(z), then x from p(x|z)."""
    import torch

    from pyrovae import figures

    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    opened = _open(run, own)
    vae = opened.vae()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        x = vae.decode(vae.prior().sample((count,))) if means else vae.sample(count)
    image = len(opened.config.data["event_shape"]) == 3
    path = _output(out, opened.folder / ("figures/drawn.png" if image else "drawn.csv"))
    kind = "means of $p(x|z)$" if means else "draws $x \\sim p(x|z)$"
    _write_arrays(
        path, {"x": x.numpy()}, lambda: figures.images(x.numpy(), f"{kind}, $z \\sim p(z)$")
    )


@cli.command()
@_run
@click.option("--data", metavar="NAME|PATH", help="Other data. [the run's test set]")
@_data_dir
@click.option("--count", type=int, default=20, show_default=True, help="The first so many.")
@click.option("--out", metavar="FILE", help=".png, .npz. [RUN/figures/reconstructed.png]")
@_seed
def reconstruct(
    run: str,
    data: str | None,
    data_dir: str | None,
    count: int,
    out: str | None,
    seed: int,
    **own: str | None,
) -> None:
    """Observations beside the mean of p(x|z) at a draw of z from q(z|x)."""
    import numpy as np
    import torch

    from pyrovae import figures

    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    opened = _open(run, own)
    split = opened.dataset(data_dir).test if data is None else opened.treat(data, data_dir)
    vae = opened.vae()
    x = split.batch(np.arange(min(count, len(split))))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        means = vae.reconstruct(x)
    path = _output(out, opened.folder / "figures/reconstructed.png")
    _write_arrays(
        path,
        {"x": x.numpy(), "reconstruction": means.numpy()},
        lambda: figures.reconstructions(x.numpy(), means.numpy()),
    )


@cli.command()
@_run
@click.option("--data", metavar="NAME|PATH", required=True, help="What to encode; all of it.")
@_data_dir
@click.option("--out", metavar="FILE", required=True, help=".npz with loc, scale and labels.")
def encode(run: str, data: str, data_dir: str | None, out: str, **own: str | None) -> None:
    """Mean and standard deviation of q(z|x) for all rows of a data set, in order."""
    import torch

    from pyrovae.display import counting

    opened = _open(run, own)
    path = _output(out, Path(out))
    split = opened.treat(data, data_dir)
    vae = opened.vae()
    loc, scale = [], []
    with torch.no_grad(), counting("encoding", len(split)) as advance:
        for x in split.batches(1_000):
            q = vae.posterior(x)
            loc.append(q.mean)
            scale.append(q.stddev)
            advance(len(x))
    arrays = {"loc": torch.cat(loc).numpy(), "scale": torch.cat(scale).numpy()}
    if split.labels is not None:
        arrays["labels"] = split.labels
    _write_arrays(path, arrays, None)


@cli.command()
@_run
def show(run: str, **own: str | None) -> None:
    """What a run is: roles, distributions, shapes, parameters, and a drawing of its programs."""
    from pyrovae.summary import describe, draw_programs

    opened = _open(run, own)
    vae = opened.vae()
    for line in describe(opened, vae):
        click.echo(line)
    click.echo(draw_programs(vae, opened.config.data["event_shape"], opened.folder / "figures"))


@cli.command()
@_json
def components(as_json: bool) -> None:
    """Every prior, posterior, likelihood and network, with its options and their defaults."""
    from pyrovae.summary import catalogue

    families = catalogue()
    if as_json:
        click.echo(json.dumps(families))
        return
    for role, family in families.items():
        click.echo(click.style(role, bold=True))
        for name, entry in family.items():
            click.echo(f"  {name:<20} {entry['about']}")
            for key, option in entry["options"].items():
                click.echo(f"    {name}:{key}={option['default']}  ({option['takes']})")


def _own_code(given: dict[str, Any]) -> frozenset[str]:
    from pyrovae.components import Spec

    specs = [Spec.parse(given[role]) for role in ROLES if given.get(role)]
    return frozenset(spec.name for spec in specs if spec.is_users_own)


def _open(run: str, own: dict[str, str | None]) -> "Run":
    from pyrovae.components import Spec
    from pyrovae.run import Run

    opened = Run.open(run, trusted=_own_code(own))
    for role, text in own.items():
        written = Spec.parse(opened.config.model[role])
        if text is not None and Spec.parse(text).name != written.name:
            raise ValueError(
                f"the {role} of {run} is {written}, not {text}; here --{role} only names code of "
                "your own that the run was trained with"
            )
    return opened


def _settings_of_resumption(
    run: str, given: dict[str, Any], config: str | None, out: str | None
) -> dict[str, dict[str, Any]]:
    """The run's own settings, with what may differ the second time: device, time, place of data."""
    opened = _open(run, {role: given.get(role) for role in ROLES})
    changeable = ("device", "max_minutes")
    fixed = [name for name in given if name not in (*changeable, "data_dir", *ROLES)]
    fixed += [name for name, value in (("config", config), ("out", out)) if value is not None]
    if fixed:
        option = "--" + fixed[0].replace("_", "-")
        raise ValueError(
            f"a resumed run keeps the settings it began with; leave out {option} "
            f"(--data-dir, --device and --max-minutes may change), or start a new run with "
            f"--config {run}/config.toml"
        )
    settings = {
        "data": dict(opened.config.data),
        "model": dict(opened.config.model),
        "training": dict(opened.config.training) | {"max_minutes": None},
    }
    if "data_dir" in given:
        settings["data"]["data_dir"] = given["data_dir"]
    settings["training"] |= {name: given[name] for name in changeable if name in given}
    return settings


def _summary_of(config: Any) -> str:
    model = config.model
    return (
        f"prior {model['prior']}, likelihood {model['likelihood']}, posterior "
        f"{model['posterior']}, {model['latent_dim']} latent dimensions"
    )


def _note(text: str) -> None:
    click.echo(text, err=True)


def _print_evaluation(result: dict[str, Any]) -> None:
    def line(name: str, about: str) -> str:
        value, error = result[name]["estimate"], result[name]["standard_error"]
        plus_minus = "" if error is None else f" +- {error:.2f}"
        return f"  {about:<24} {value:10.2f}{plus_minus}"

    evidence = result["log_evidence"]
    click.echo(f"test, {result['images']:,} examples, nats per example (+- standard error):")
    click.echo(line("elbo", "ELBO"))
    click.echo(line("reconstruction", "  reconstruction"))
    click.echo(line("kl", "  - KL(q(z|x) || p(z))"))
    click.echo(
        line("log_evidence", "log p(x) is at least") + f"  ({evidence['samples']:,} samples)"
    )


def _output(out: str | None, default: Path) -> Path:
    path = Path(out) if out else default
    if not path.parent.is_dir():
        if out:
            raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into")
        path.parent.mkdir(parents=True)
    return path


def _write_arrays(path: Path, arrays: dict[str, Any], figure: Callable[[], Any] | None) -> None:
    """Write arrays, or the picture of them, in the format that the file's ending asks for."""
    import numpy as np

    from pyrovae.checkpoint import atomic_file

    first = next(iter(arrays.values()))
    allowed = [".npz", ".npy"] if len(arrays) == 1 else [".npz"]
    allowed += [".png"] if figure is not None else []
    allowed += [".csv"] if len(arrays) == 1 and first.ndim == 2 else []
    if path.suffix not in allowed:
        raise ValueError(f"cannot write {path.name}: use one of {', '.join(allowed)}")
    if path.suffix == ".png" and figure is not None:
        from pyrovae import figures

        figures.save(figure(), path)
    else:
        with atomic_file(path) as file:
            if path.suffix == ".npz":
                np.savez(file, **arrays)
            elif path.suffix == ".npy":
                np.save(file, first)
            else:
                np.savetxt(file, first, delimiter=",", fmt="%.8g")
    click.echo(str(path))
