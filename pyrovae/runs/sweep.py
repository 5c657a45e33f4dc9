r"""Rate and distortion over the weight of the KL term.

.. math::
    -\mathrm{ELBO} = D + R, \qquad
    D = -\mathbb{E}_{q} \log p(x \mid z), \qquad R = \mathrm{KL}(q(z \mid x) \,\|\, p(z))

With the objective :math:`-D - \beta R` the same model settles at another pair of the two for each
:math:`\beta`. Where the ELBO is the same D and R can be anything that has the same sum: the ELBO
alone does not say how much a code tells.

References:
    Alemi, Poole, Fischer, Dillon, Saurous and Murphy (2018), Fixing a Broken ELBO,
    arXiv:1711.00464
"""

import math
from collections.abc import Sequence
from typing import Any

from pyrovae._process.files import write_text
from pyrovae.runs.comparison import Counting, Reporting, compare
from pyrovae.runs.export import as_json
from pyrovae.runs.run import Run

__all__ = ["BETAS", "check_weights", "sweep_betas", "sweep_table"]

BETAS = (0.1, 0.5, 1.0, 2.0, 4.0)
"""Weights of the KL term where no others are asked for."""

SAMPLES = 100


def sweep_betas(
    run: Run,
    *,
    betas: Sequence[float] = BETAS,
    epochs: int | None = None,
    seeds: int = 1,
    data_dir: str | None = None,
    limit: int | None = None,
    reporting: Reporting | None = None,
    counting: Counting | None = None,
) -> dict[str, Any]:
    """Train a run's configuration anew with the objective beta at several weights.

    The runs are ordinary ones in ``RUN/sweep``. Those that are there are taken as they are, and one
    that was stopped goes on, as in :func:`pyrovae.runs.compare`.

    Args:
        run: whose configuration is trained; its own objective is left aside.
        betas: the weights.
        epochs: of each training; None for as many as the run had.
        seeds: runs of each weight, from the run's own seed upwards.
        data_dir: where named datasets are now, if not where they were.
        limit: only the first so many test examples.
        reporting, counting: as for :func:`pyrovae.runs.compare`.

    Returns:
        ``rows``, in order of the weight: ``beta``, ``rate``, ``distortion``, ``elbo`` and
        ``log_evidence``, each with ``estimate`` and ``standard_error`` over test examples and
        seeds, and ``active_units``; ``seeds``, ``epochs``, ``samples``, ``images``, ``latent_dim``,
        ``kind`` of the bound ``log_evidence``, ``data``, ``folder``. The same is in
        ``RUN/sweep/sweep.json``. In nats per example.

    Raises:
        ValueError: if there are no weights, or one is listed twice, negative or not finite.
    """
    check_weights(betas)
    chosen = sorted(betas)
    changes = {} if data_dir is None else {"data_dir": data_dir}
    settings = run.settings_to_resume(changes)
    if epochs is not None:
        settings["training"]["epochs"] = epochs
    folder = run.folder / "sweep"
    summary = compare(
        settings,
        {"objective": [f"beta:beta={beta:g}" for beta in chosen]},
        seeds=seeds,
        samples=SAMPLES,
        limit=limit,
        out=folder,
        trusted=run.trusted,
        reporting=reporting,
        counting=counting,
    )
    names = ("rate", "distortion", "elbo", "log_evidence", "active_units")
    rows = [
        {"beta": beta} | {name: row[name] for name in names}
        for beta, row in zip(chosen, summary["rows"], strict=True)
    ]
    first = summary["rows"][0]
    result = {
        "rows": rows,
        "seeds": seeds,
        "epochs": settings["training"]["epochs"],
        "samples": SAMPLES,
        "images": summary["images"],
        "latent_dim": first["latent_dim"],
        "kind": first["kind"],
        "data": summary["data"],
        "folder": str(folder),
    }
    write_text(folder / "sweep.json", as_json(result, indent=2) + "\n")
    return result


def check_weights(betas: Sequence[float]) -> None:
    """Refuse what cannot be swept over.

    Args:
        betas: weights of the KL term.

    Raises:
        ValueError: if there are none, or one is listed twice, negative or not finite.
    """
    if not betas or len(set(betas)) < len(betas):
        raise ValueError(f"betas must be one or more different weights, got {list(betas)}")
    if not all(0 <= beta < math.inf for beta in betas):
        raise ValueError(f"betas must be finite and not negative, got {list(betas)}")


def sweep_table(result: dict[str, Any]) -> list[str]:
    """Lines for what :func:`sweep_betas` gives.

    Args:
        result: of it.
    """
    seeds = f"{result['seeds']} seeds" if result["seeds"] > 1 else "one seed"
    lines = [
        f"{result['epochs']} epochs, {seeds}, {result['images']:,} test examples; nats per example",
        f"{'beta':>8}  {'rate':>16}  {'distortion':>18}  {'ELBO':>18}  {'active':>8}",
    ]
    for row in result["rows"]:
        rate, distortion, elbo = (_with_error(row[n]) for n in ("rate", "distortion", "elbo"))
        active = f"{row['active_units']:.3g} of {result['latent_dim']}"
        lines.append(f"{row['beta']:>8g}  {rate:>16}  {distortion:>18}  {elbo:>18}  {active:>8}")
    return lines


def _with_error(number: dict[str, float | None]) -> str:
    error = number["standard_error"]
    return f"{number['estimate']:.2f}" + ("" if error is None else f" +- {error:.2f}")
