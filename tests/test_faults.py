"""Whatever happens to a run, no wrong number follows: a few cases of each part of the harness.

``benchmarks/faults.py`` runs all of them, and docs/reliability.md has its counts.
"""

import importlib
import random
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
faults = importlib.import_module("faults")
lines = importlib.import_module("faulty.lines")
sys.path.pop(0)

pytestmark = pytest.mark.xdist_group("faults")  # one process makes the runs once

LINES = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def shop():
    faults.started()
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        Path(folder).chmod(0o755)
        yield faults.Workshop(Path(folder) / "shop")


def wrong_of(shop, part, count, most, *, ending="", seed=0):
    """What is wrong with some of the cases of a part whose names have an ending, by name."""
    cases = [case for case in faults.PARTS[part][1](shop, count) if case.name.endswith(ending)]
    chosen = random.Random(seed).sample(cases, min(most, len(cases)))
    return {case.name: wrong for case in chosen if (wrong := case.run().wrong)}


@pytest.mark.parametrize(
    ("part", "count", "most", "ending"),
    [("flips", 30, 3, ""), ("damage", 1, 6, ", evaluate"), ("files", 40, 4, "")],
)
def test_a_few_cases_are_right(part, count, most, ending, shop):
    assert wrong_of(shop, part, count, most, ending=ending) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "count", "most"),
    [
        ("kills", 15, 3),
        ("signals", 1, 45),
        ("locks", 1, 2),
        ("disk", 1, 8),
        ("permission", 1, 40),
        ("flips", 30, 30),
        ("damage", 2, 80),
        ("input", 2_000, 40),
        ("files", 200, 40),
        ("folders", 60, 12),
    ],
)
def test_many_cases_are_right(part, count, most, shop):
    assert wrong_of(shop, part, count, most, seed=1) == {}


def check_line(data, shop):
    def choose(options):
        return data.draw(st.sampled_from(list(options)))

    line = lines.line_of(choose(sorted(lines.app.cli.commands)), choose)
    with shop.copy() as place:
        found, wrong = lines.judged(line, place)
    assert wrong == [], (line, found)


@settings(LINES, max_examples=10)
@given(data=st.data())
def test_a_command_line_is_answered_or_refused_in_one_line(data, shop):
    check_line(data, shop)


@pytest.mark.slow
@settings(LINES, max_examples=100)
@given(data=st.data())
def test_many_command_lines_are_answered_or_refused_in_one_line(data, shop):
    check_line(data, shop)
