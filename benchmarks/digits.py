"""How the likelihood of the digits' recipe was chosen: on validation data, three seeds.

    python benchmarks/digits.py --json digits.json
    python benchmarks/digits.py --json digits.json --read --markdown

Each likelihood is trained by the recipe, and log p(x) of the validation images is estimated with
draws from q refined for each of them. Differences are from the first likelihood, for the same
images and seeds. Models that are in FILE already are not trained again.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from report import describe, in_words, table

import pyrovae
from pyrovae.runs import Config, SeedEstimate, start

LIKELIHOODS = (
    "binomial",
    "beta_binomial:dispersion=learned",
    "beta_binomial:dispersion=dimension",
    "beta_binomial:dispersion=decoder",
    "discretized_logistic",
)


def measured(likelihood: str, seed: int, epochs: int | None) -> dict[str, Any]:
    """Train a model and evaluate it on the validation images."""
    training = {"seed": seed} | ({} if epochs is None else {"epochs": epochs})
    settings = {"model": {"likelihood": likelihood}, "training": training}
    config, data = Config.resolve(settings)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        _, vae, _ = start(config, data, Path(folder, "run"))
    seconds = time.monotonic() - began
    found = pyrovae.evaluate(vae, data.validation, samples=500, proposal="refined")
    return {
        "log_evidence": found.per_example.log_evidence.tolist(),
        "elbo": found.elbo.value,
        "kl": found.kl.value,
        "unreliable": found.weights.unreliable if found.weights is not None else None,
        "seconds": round(seconds, 1),
    }


def rows(found: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, ...]]:
    """By likelihood: means over images and seeds, and the difference from the first one."""
    stacked = {
        name: torch.tensor([run["log_evidence"] for run in runs]) for name, runs in found.items()
    }
    first = next(iter(stacked.values()))
    for name, runs in found.items():
        difference = SeedEstimate.from_runs(stacked[name] - first)
        text = (
            ""
            if stacked[name] is first or difference.interval is None
            else (
                f"{difference.value:+.2f} ({difference.interval[0]:+.2f} to "
                f"{difference.interval[1]:+.2f})"
            )
        )
        means = [sum(run[key] for run in runs) / len(runs) for key in ("elbo", "kl", "seconds")]
        yield (
            name,
            str(SeedEstimate.from_runs(stacked[name])),
            text,
            f"{means[0]:.2f}",
            f"{means[1]:.1f}",
            f"{100 * max(run['unreliable'] for run in runs):.1f} %",
            f"{means[2]:.0f}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--likelihoods", nargs="+", default=list(LIKELIHOODS), metavar="SPEC")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="in place of the recipe's")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--read", action="store_true", help="print what FILE has, train nothing")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    state: dict[str, Any] = {"machine": describe(), "found": {}}
    if options.json.exists():
        state = json.loads(options.json.read_text())
    for seed in range(0 if options.read else options.seeds):
        for likelihood in options.likelihoods:
            runs = state["found"].setdefault(likelihood, [])
            if len(runs) > seed:
                continue
            runs.append(measured(likelihood, seed, options.epochs))
            options.json.write_text(json.dumps(state))
    print(in_words(state["machine"]))
    count = min(map(len, state["found"].values()))
    titles = ("likelihood", "log p(x) at least", "against the first, 95 % interval", "ELBO", "KL")
    complete = {name: runs[:count] for name, runs in state["found"].items()}
    table((*titles, "k-hat too large", "seconds"), list(rows(complete)), options.markdown)


if __name__ == "__main__":
    main()
