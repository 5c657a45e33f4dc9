"""The page of a run shows the numbers of the run, obeys nothing in it, and needs no network."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pyrovae.report import FILE, TERMS, find, run_page, table, value, write_report
from tests.report.pages import Checked, browse, finished


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("report") / "run")


def test_a_page_is_whole_and_refers_to_nothing_outside(digits):
    run, vae, dataset = digits
    text = run_page(run, vae, dataset, find(run, vae, dataset))
    page = Checked(text)
    assert all(link.startswith("#") or link == "data:," for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert {f"term-{name}" for name in TERMS} <= page.ids
    assert len(page.sources) >= 5
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    text = text.replace("http://www.w3.org/2000/svg", "")  # the name of a vocabulary, not a link
    assert not re.search(r"url\(|@import|https?:", text)
    assert len(text) < 3_000_000


def test_the_numbers_are_those_of_the_run(digits):
    run, vae, dataset = digits
    found = find(run, vae, dataset)
    page = Checked(run_page(run, vae, dataset, found))
    summary = run.summary()
    for estimate in (summary.elbo, summary.reconstruction, summary.kl, summary.log_evidence):
        assert value(estimate) in page.words
    assert f"{found.ledger.closed_form.value:.4f}" in page.words
    assert value(found.surgery.mutual_information) in page.words
    parts = found.surgery.mutual_information.value + found.surgery.marginal_kl.value
    assert parts == pytest.approx(found.surgery.kl.value)
    assert sum(group.examples for group in found.classes) == found.examples == 359
    order = found.bounds.reconstruction[found.ordered]
    assert (order[:-1] >= order[1:]).all()
    assert run.config.to_toml() in page.words
    assert "def model(self, x" in page.words


def test_one_seed_gives_one_page_and_nothing_global_changes(digits, tmp_path):
    run, vae, dataset = digits
    state = torch.random.get_rng_state()
    first, again = (write_report(run, vae, dataset, tmp_path / f"{i}.html") for i in range(2))
    assert first.read_bytes() == again.read_bytes()
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "model",
    [
        {"posterior": "point"},
        {"prior": "categorical:classes=2", "posterior": "relaxed_categorical:classes=2"},
        pytest.param({"prior": "sphere", "posterior": "power_spherical"}, marks=pytest.mark.slow),
        pytest.param(
            {"prior": "mixture:components=3", "posterior": "flow:hidden_dims=8"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["point", "categorical", "sphere", "mixture-flow"],
)
def test_every_kind_of_model_has_its_page(tmp_path, model):
    run, vae, dataset = finished(tmp_path / "run", **model)
    page = Checked(write_report(run, vae, dataset).read_text("utf-8"))
    assert ("A point has no density" in page.words) == (model.get("posterior") == "point")


def test_a_table_has_its_names_and_obeys_nothing_in_them(tmp_path):
    rows = np.random.default_rng(0).normal(size=(40, 3)).round(2)
    attack = "<script>alert(1)</script>\x1b[2J"
    lines = [f'a,"{attack}",c', *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    run, vae, dataset = finished(tmp_path / "run", {"name": str(tmp_path / "t.csv")})
    text = write_report(run, vae, dataset).read_text("utf-8")
    page = Checked(text)  # refuses a script
    assert "<script>alert(1)</script>\\x1b[2J" in page.words
    assert "\x1b" not in text
    assert "column: x" in page.words


def test_numbers_align_right_and_words_left():
    text = table(["", "nats", "how"], [["a", "\N{MINUS SIGN}3.00 ± 0.10", "by formula"]])
    assert text.count('class="text"') == 3  # its row's name, and the words
    assert "<td>\N{MINUS SIGN}3.00" in text


def test_the_command_writes_a_page_and_refuses_in_one_line(command, digits, tmp_path):
    shutil.copytree(digits[0].folder, tmp_path / "run")
    result = command("report", "run", "--quiet")
    assert (result.status, result.out, result.err) == (0, f"report   run/{FILE}\n", "")
    page = Path("run", FILE).read_bytes()
    assert command("report", "run", "--out", "other.html").status == 0
    assert Path("other.html").read_bytes() == page
    for arguments, message in (
        (("run", "--out", "page.txt"), "its ending must be .html"),
        (("none",), "there is no run at none"),
    ):
        result = command("report", *arguments)
        assert (result.status, result.out) == (2, "")
        assert message in result.err
        assert result.err.count("\n") == 1
    Path("run", "summary.json").unlink()
    assert command("report", "run").status == 2
    assert Path("run", FILE).read_bytes() == page


def test_fit_writes_a_page_unless_it_is_told_not_to(command):
    small = ("--encoder", "mlp:hidden_dims=8", "--decoder", "mlp:hidden_dims=8", "--epochs", 1)
    result = command("fit", *small, "--out", "a")
    assert f"report   a/{FILE}\n" in result.out
    assert Path("a", FILE).is_file()
    result = command("fit", *small, "--no-report", "--out", "b")
    assert "report" not in result.out
    assert not Path("b", FILE).exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
@pytest.mark.parametrize("width", [390, 1_400])
def test_a_browser_shows_the_page_without_a_message(digits, tmp_path, width):
    """Nothing on the console, and nothing wider than the window."""
    run, vae, dataset = digits
    path = write_report(run, vae, dataset, tmp_path / "page.html")
    found = browse(path, "[document.documentElement.scrollWidth, innerWidth]", width)
    assert found[0] <= found[1]
