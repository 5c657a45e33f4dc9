"""Would the tests notice? One change of the code at a time, and the tests that run that line.

    python benchmarks/mutation.py --measure --state mutation.json   # which test runs what
    python benchmarks/mutation.py --state mutation.json             # then: the mutants
    python benchmarks/mutation.py --state mutation.json --survivors

Each mutant is one changed operator, comparison, constant, sign, condition or function in a module
that computes. They are a random sample, stratified by module, with a fixed seed. Constants that are
settings (defaults of arguments, constants of a module) are counted apart: another number of draws
by default is another choice, not a wrong number. A mutant is killed if one of the tests that run
its line fails, or takes longer than the limit. State is kept in FILE, so a run that was stopped
goes on where it was, and tests are measured once. Needs pytest and coverage.
"""

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import json
import math
import os
import random
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from report import table

ROOT = Path(__file__).parents[1]

MODULES = ("kl", "objectives", "evidence", "priors", "likelihoods", "posteriors", "diagnostics")

TESTS = (
    *("kl", "objectives", "evidence", "diagnostics", "distributions", "queries", "test_columns.py"),
    *("test_derivation.py", "test_docstrings.py", "test_estimates.py", "test_likelihoods.py"),
    *("test_mixed_tables.py", "test_pairs.py", "test_posteriors.py", "test_priors.py"),
    *("test_standard_errors.py", "test_vae.py", "test_wrong_formulas.py", "test_networks.py"),
    *("plots", "runs", "training/test_fitting.py", "training/test_staging.py"),
)

SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Add,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}

FUNCTIONS = {
    left: right
    for pair in (
        *("sum mean", "mean sum", "max min", "min max", "exp expm1", "log log1p", "sqrt square"),
        *("square sqrt", "logsumexp sum", "softplus exp", "all any", "any all", "amax amin"),
        *("amin amax", "std var", "var std", "rsample sample", "detach clone", "cumsum flip"),
        *("sin cos", "cos sin", "tanh sigmoid", "log_softmax softmax", "softmax log_softmax"),
        *("abs square",),
    )
    for left, right in (pair.split(),)
}
"""Functions, and what is called in their place."""

CONTROLLED = 0.1  # share of killed mutants whose tests are run again without the change

LONGEST = 40.0  # seconds of tests for one mutant, by the durations that were measured


class Sites(ast.NodeVisitor):
    """The places of a module that can be changed, as (line, number of the node, kind)."""

    def __init__(self, tree: ast.Module) -> None:
        self.found: list[tuple[int, int, str]] = []
        self.in_settings = False
        self.numbers = {id(node): number for number, node in enumerate(ast.walk(tree))}
        self.visit(tree)

    def _add(self, node: ast.AST, kind: str) -> None:
        self.found.append((node.lineno, self.numbers[id(node)], kind))  # type: ignore[attr-defined]

    def visit_Raise(self, node: ast.Raise) -> None:  # the words of an error are no computation
        pass

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for part in node.body:
            self.visit(part)
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit_settings(default)

    def visit_Module(self, node: ast.Module) -> None:
        for part in node.body:
            if isinstance(part, ast.Assign | ast.AnnAssign):
                self.visit_settings(part)
            else:
                self.visit(part)

    def visit_settings(self, node: ast.AST) -> None:
        self.in_settings = True
        self.visit(node)
        self.in_settings = False

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self._add(node.test, "condition")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in SWAPS and not isinstance(node.left, ast.JoinedStr):
            self._add(node, "operator")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self._add(node, "operator")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if type(node.ops[0]) in SWAPS:
            self._add(node, "comparison")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self._add(node, "sign")
        if not isinstance(node.operand, ast.Constant):
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool | int | float):
            self._add(node, "setting" if self.in_settings else "constant")

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and node.func.attr in FUNCTIONS:
            self._add(node, "function")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._add(node, "choice")
        self.generic_visit(node)


def changed(tree: ast.Module, number: int, kind: str) -> tuple[ast.Module, str]:
    """A copy of a module with one change, and the changed expression before and after."""
    new = copy.deepcopy(tree)
    node: Any = next(node for at, node in enumerate(ast.walk(new)) if at == number)
    before = ast.unparse(node)
    if kind == "operator":
        node.op = SWAPS[type(node.op)]()
    elif kind == "comparison":
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif kind in ("constant", "setting"):
        value = node.value
        node.value = (
            not value if isinstance(value, bool) else value + 1 if value < 10 else value * 2
        )
    elif kind == "function":
        node.func.attr = FUNCTIONS[node.func.attr]
    elif kind == "choice":
        node.body, node.orelse = node.orelse, node.body
    else:
        opposite = ast.UnaryOp(ast.Not(), copy.copy(node)) if kind == "condition" else node.operand
        _replace(new, node, opposite)
        node = opposite
    return ast.fix_missing_locations(new), f"{before}  ->  {ast.unparse(node)}"


def _replace(tree: ast.Module, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
            elif isinstance(value, list) and any(item is old for item in value):
                value[:] = [new if item is old else item for item in value]


def files() -> list[Path]:
    return [
        path
        for name in MODULES
        for path in sorted(
            (ROOT / "pyrovae").glob(name if name.endswith(".py") else f"{name}/*.py")
        )
        if path.name != "__init__.py"
    ] + sorted(path for path in (ROOT / "pyrovae").glob("*.py") if path.stem in MODULES)


def sample(count: int, seed: int) -> list[dict[str, Any]]:
    """Mutants of all modules, as many of each as it has places, in random order."""
    sites = {path: Sites(ast.parse(path.read_text())).found for path in files()}
    total = sum(map(len, sites.values()))
    chosen = []
    for path, found in sites.items():
        name = str(path.relative_to(ROOT))
        share = math.ceil(count * len(found) / total)
        for line, number, kind in random.Random(f"{seed} {name}").sample(
            sorted(found), min(share, len(found))
        ):
            chosen.append({"file": name, "line": line, "number": number, "kind": kind})
    random.Random(seed).shuffle(chosen)
    return chosen


class Clock:
    """A pytest plugin that runs new tests, names them to coverage, and notes how long they take."""

    def __init__(self, cover: Any, known: dict[str, float]) -> None:
        self.cover, self.known, self.seconds = cover, known, defaultdict(float)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if item.nodeid not in self.known]

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration

    def pytest_runtest_setup(self, item: Any) -> None:
        self.cover.switch_context(item.nodeid)


ARGUMENTS = ("-q", "-o", "addopts=", "-p", "no:cacheprovider", "-m", "not slow")


def measure(state: Path) -> None:
    """Run all tests that are not in the state, to know which run which line."""
    import coverage
    import pytest

    found = {"lines": {}, "seconds": {}, "mutants": []}
    if state.exists():
        found = json.loads(state.read_text())
    data = state.with_suffix(".coverage")
    cover = coverage.Coverage(
        data_file=str(data), branch=False, include=[str(path) for path in files()]
    )
    clock = Clock(cover, found["seconds"])
    cover.start()
    pytest.main([*ARGUMENTS, *(str(ROOT / "tests" / name) for name in TESTS)], plugins=[clock])
    cover.stop()
    cover.save()
    for path in files():
        lines = found["lines"].setdefault(str(path.relative_to(ROOT)), {})
        for line, names in cover.get_data().contexts_by_lineno(str(path)).items():
            lines[str(line)] = sorted({*lines.get(str(line), []), *names} - {""})
    found["seconds"] |= clock.seconds
    state.write_text(json.dumps(found))


class Mutated(importlib.abc.MetaPathFinder):
    """Finds one module with changed code, and leaves all others to Python."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        self.name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        self.path, self.tree = path, tree

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        tree = self.tree

        class Loader(importlib.machinery.SourceFileLoader):
            def get_code(self, fullname: str) -> Any:
                return compile(tree, self.path, "exec", dont_inherit=True)

        return importlib.machinery.ModuleSpec(
            name, loader := Loader(name, str(self.path)), origin=loader.path
        )


def relevant(mutant: dict[str, Any], state: dict[str, Any]) -> list[str]:
    """The tests that run the line, or else the module; the quickest first, up to the limit."""
    lines = state["lines"].get(mutant["file"], {})
    above = range(mutant["line"], mutant["line"] - 10, -1)  # a statement may begin some lines above
    names = set(next((found for line in above if (found := lines.get(str(line)))), ()))
    if not names:
        names = {name for tests in lines.values() for name in tests}
    stem = Path(mutant["file"]).stem
    near = [name for name in names if stem in name] or []
    seconds = state["seconds"]
    ordered = sorted(near, key=lambda name: seconds.get(name, 1.0))
    ordered += sorted(names - set(near), key=lambda name: seconds.get(name, 1.0))
    kept, total = [], 0.0
    for name in ordered:
        total += seconds.get(name, 1.0) + 0.01
        if total > LONGEST:
            break
        kept.append(name)
    return kept


def fate(path: Path, tree: ast.Module, tests: list[str], seconds: float) -> str:
    """How the tests end if a module has this code, in that many seconds of the processor."""
    child = os.fork()
    if child == 0:
        import pytest

        status = 1
        try:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds),) * 2)
            with open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), 1)
                os.dup2(nothing.fileno(), 2)
            sys.meta_path.insert(0, Mutated(path, tree))
            os.chdir(ROOT)
            status = int(pytest.main([*ARGUMENTS, "-x", *tests]))
        finally:
            os._exit(min(status, 100))
    end = time.monotonic() + 10 * seconds  # the machine may be busy, or a test may wait
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return {0: "survived", 5: "no test", -signal.SIGKILL: "too long"}.get(code, "killed")
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "too long"


def run(options: argparse.Namespace) -> None:
    """Run the mutants that are not in the state yet."""
    import pyro  # noqa: F401  # imported once, before the first fork; pytest imports its plugins
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch

    torch.set_num_threads(1)
    state = json.loads(options.state.read_text())
    done = {(row["file"], row["number"], row["kind"]) for row in state["mutants"]}
    for mutant in sample(options.count, options.seed):
        if (mutant["file"], mutant["number"], mutant["kind"]) in done:
            continue
        tests = relevant(mutant, state)
        began = time.monotonic()
        path = ROOT / mutant["file"]
        whole = ast.parse(path.read_text())
        tree, change = changed(whole, mutant["number"], mutant["kind"])
        result = fate(path, tree, tests, options.limit) if tests else "no test"
        if result == "killed" and random.Random(change).random() < CONTROLLED:
            control = fate(path, whole, tests, options.limit)
            if control != "survived":
                raise RuntimeError(f"{path} as it is: {control} by {' '.join(tests)}")
        row = mutant | {"result": result, "change": change, "tests": len(tests)}
        state["mutants"].append(row)
        print(
            f"{result:9} {mutant['file']}:{mutant['line']} {change}  "
            f"({len(tests)} tests, {time.monotonic() - began:.0f} s)",
            flush=True,
        )
        new = options.state.with_suffix(".new")
        new.write_text(json.dumps(state))
        new.replace(options.state)


def rows(mutants: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """By module: mutants, killed, and their share with its standard error; settings come last."""
    by_module, settings = defaultdict(list), [row for row in mutants if row["kind"] == "setting"]
    computing = [row for row in mutants if row["kind"] != "setting"]
    for row in computing:
        by_module[Path(row["file"]).with_suffix("").parts[1]].append(row)
    parts = (*sorted(by_module.items()), ("all that compute", computing), ("settings", settings))
    for name, found in parts:
        if not found:
            continue
        killed = sum(row["result"] in ("killed", "too long") for row in found)
        share = killed / len(found)
        error = math.sqrt(share * (1 - share) / len(found))
        yield name, str(len(found)), str(killed), f"{100 * share:.0f} +- {100 * error:.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--state", type=Path, default=Path("mutation.json"), metavar="FILE")
    parser.add_argument(
        "--measure", action="store_true", help="run tests that are new, with coverage"
    )
    parser.add_argument("--count", type=int, default=200, help="mutants")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one mutant")
    parser.add_argument("--survivors", action="store_true", help="list those that survived")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.measure:
        measure(options.state)
        return
    if not options.survivors:
        run(options)
    mutants = json.loads(options.state.read_text())["mutants"]
    table(("module", "mutants", "killed", "share"), list(rows(mutants)), False)
    for row in mutants:
        if row["result"] in ("survived", "no test"):
            print(f"{row['result']:9} {row['file']}:{row['line']}  {row['change']}")


if __name__ == "__main__":
    main()
