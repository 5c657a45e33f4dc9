"""Every example runs, small, and the docs show each as it is."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from tests.conftest import SEEDS
from tests.oracles import assert_within

pytestmark = pytest.mark.xdist_group("examples")  # one process runs each example once

ROOT = Path(__file__).parents[1]

ARGUMENTS = {
    "aggregate_posterior": ["--epochs", "1"],
    "anomaly": ["--epochs", "1", "--samples", "2", "--count", "20"],
    "autoencoder_vs_vae": ["--epochs", "1", "--count", "2"],
    "beta_rate_distortion": ["--epochs", "1"],
    "blur": ["--epochs", "1"],
    "docs_figures": ["--epochs", "2"],
    "evaluating": ["--epochs", "1", "--samples", "100", "--limit", "40"],
    "evidence_identity": ["--epochs", "2"],
    "exact_posterior": ["--epochs", "2"],
    "impute": ["--epochs", "1", "--count", "2"],
    "input_or_output": ["--epochs", "1"],
    "kl_analytic_vs_monte_carlo": ["--epochs", "1", "--limit", "20"],
    "kl_term": ["--epochs", "1"],
    "missing_values": ["--epochs", "2", "--samples", "20", "--count", "4"],
    "nuts_vs_guide": ["--epochs", "2", "--draws", "20"],
    "overlap": ["--epochs", "2", "--images", "40"],
    "own_likelihood": ["--epochs", "1"],
    "own_prior": ["--epochs", "1"],
    "posterior_ellipses": ["--epochs", "1"],
    "quickstart": ["--epochs", "2", "--samples", "5"],
    "random_or_not": ["--epochs", "1"],
    "swap_prior": ["--epochs", "1"],
    "wrong_formulas": ["--epochs", "1", "--samples", "2"],
}

EXAMPLES = [  # those that are slow take five minutes
    name if name == "quickstart" else pytest.param(name, marks=pytest.mark.slow)
    for name in ARGUMENTS
]

BY_COMMANDS = {"comparison", "rate_distortion"}  # pictures of compare.md


def loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def regenerate():
    return loaded(ROOT / "docs" / "regenerate.py")


@pytest.fixture(scope="module")
def anomaly():
    return loaded(ROOT / "examples" / "anomaly.py")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs an example once, in an empty folder; its output and the folder."""
    done = {}

    def run_once(name):
        if name not in done:
            folder = tmp_path_factory.mktemp("example")
            command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *ARGUMENTS[name]]
            environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
            result = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True
            )
            assert result.returncode == 0, result.stderr
            done[name] = result.stdout, folder
        return done[name]

    return run_once


def test_every_example_has_arguments_for_a_small_run():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_and_prints_its_result(run, name):
    output, _ = run(name)
    assert re.search(r"-\d+\.\d+ \+- \d+\.\d+", output)


def test_impute_draws_its_picture(run):
    output, folder = run("impute")
    assert output.count("log p(upper half)") == 2
    with Image.open(folder / "figures" / "impute.png") as picture:
        assert min(picture.size) > 300


@pytest.mark.slow
def test_anomaly_scores_both_ways_round(run):
    output, folder = run("anomaly")
    for data, other in (("digits", "shapes"), ("shapes", "digits")):
        table = output.partition(f"trained on {data}")[2].partition("trained on")[0]
        assert re.search(
            rf"^{other}  .*( +[01]\.\d{{3}} \+- \d\.\d{{3}}){{3}}$", table, re.MULTILINE
        )
        assert (folder / "figures" / f"anomaly-{data}.png").is_file()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ties", [False, True])
def test_the_area_is_scikit_learns(anomaly, seed, ties):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0.7, 1, 60), rng.normal(0, 2, 90)
    if ties:
        a, b = a.round(), b.round()
    truth = np.repeat([1, 0], [60, 90])
    assert anomaly.auc(a, b)[0] == pytest.approx(roc_auc_score(truth, np.concatenate([a, b])))
    assert anomaly.auc(b, a)[0] == pytest.approx(1 - anomaly.auc(a, b)[0])
    assert anomaly.auc(b, a)[1] == pytest.approx(anomaly.auc(a, b)[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_standard_error_is_the_spread_of_areas_of_new_data(anomaly, seed):
    """Within 5 standard errors of a standard deviation of 500 repetitions."""
    rng = np.random.default_rng(seed)
    found = np.array([anomaly.auc(rng.normal(1, 1, 50), rng.normal(0, 2, 80)) for _ in range(500)])
    spread = found[:, 0].std(ddof=1)
    assert_within(found[:, 1].mean(), spread, spread / np.sqrt(2 * 500), 5)


def test_kinds_apart_have_area_one_or_zero_and_equal_ones_a_half(anomaly):
    low, high = np.arange(5.0), np.arange(5.0) + 10
    assert anomaly.auc(high, low) == (1.0, 0.0)
    assert anomaly.auc(low, high) == (0.0, 0.0)
    assert anomaly.auc(np.ones(4), np.ones(7)) == (0.5, 0.0)


@pytest.mark.parametrize("values", [np.array([1.0]), np.array([1.0, np.nan])])
def test_too_few_numbers_or_nan_are_refused(anomaly, values):
    with pytest.raises(ValueError, match="at least two numbers of each kind and no NaN"):
        anomaly.auc(values, np.arange(3.0))


def test_quickstart_compares_four_priors(run):
    rows = run("quickstart")[0].splitlines()[1:]
    assert [row.split()[0] for row in rows] == [
        "StandardNormal",
        "Laplace",
        "GaussianMixture",
        "Gumbel",
    ]
    for row in rows:
        elbo, evidence = (float(number) for number in re.findall(r"(-\d+\.\d+) \+-", row))
        assert elbo < evidence


@pytest.mark.slow
def test_pictures_of_the_docs_are_those_that_the_examples_draw(run):
    drawn = {path.stem for name in ARGUMENTS for path in (run(name)[1] / "figures").glob("*")}
    kept = list((ROOT / "docs" / "images").iterdir())
    assert {path.stem for path in kept} == drawn | BY_COMMANDS
    for path in kept:
        assert path.stat().st_size < 250_000
        with Image.open(path) as image:
            assert min(image.size) > 400


def words(text):
    without_numbers = re.sub(r"\d[\d.,]*(e[+-]\d+)?", "", text)
    return re.findall(r"[^\W_]+", without_numbers)


def test_the_table_of_examples_says_what_each_says_of_itself():
    table = (ROOT / "docs" / "examples.md").read_text().replace(r"\|", "|")
    rows = re.findall(r"^\| \[(\w+)\]\(\.\./examples/\1\.py\) \| (.*) \|$", table, re.MULTILINE)
    scripts = (ROOT / "examples").glob("*.py")
    docstrings = {path.stem: ast.get_docstring(ast.parse(path.read_text())) for path in scripts}
    assert dict(rows) == {name: text.partition("\n\n")[0] for name, text in docstrings.items()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_docs_show_the_example_with_all_that_it_prints(run, regenerate, name):
    shown = [
        match
        for page in regenerate.pages()
        for match in regenerate.shown(page.read_text())
        if match["name"] == name
    ]
    assert shown, f"no page has a block of shell with `python examples/{name}.py`"
    for match in shown:
        if match["printed"] is not None:
            printed = match["printed"].removeprefix("```text\n").removesuffix("\n```")
            assert words(printed) == words(run(name)[0])


def test_regenerating_replaces_what_an_example_printed_and_nothing_else(regenerate):
    page = """
```sh
python examples/one.py --epochs 5
```

It prints

```text
old
```

```sh
python examples/two.py
```

```python
print(1)
```

```text
other
```
"""
    one, two = regenerate.shown(page)
    assert (one["name"], one["options"].split()) == ("one", ["--epochs", "5"])
    assert (two["name"], two["printed"]) == ("two", None)
    changed = regenerate.replaced(page, {"one": "new\n", "two": "newer\n"})
    assert changed == page.replace("old", "new")
    assert regenerate.replaced(page, {"three": "new\n"}) == page
