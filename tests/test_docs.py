"""What the README and the docs say is run: Python, commands, links, names of tests and modules."""

import ast
import inspect
import re
import shlex
import textwrap
from pathlib import Path

import click
import pytest

from pyrovae.cli import cli
from pyrovae.components import Spec, find, options_of
from pyrovae.config import FAMILIES
from pyrovae.vae import VAE

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page_id(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    return [code for name, code in BLOCK.findall(page.read_text()) if name == language]


def small(code):
    """The same code with few epochs and samples."""
    code = re.sub(r"(epochs\"?(?:=|: ))\d+", r"\g<1>1", code)
    return re.sub(r"(samples=)\d+", r"\g<1>2", code)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=page_id)
def test_python_runs_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for code in blocks(page, "python"):
        exec(compile(small(code), page.name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_fences_are_closed(page):
    assert len(re.findall(r"^```", page.read_text(), re.MULTILINE)) % 2 == 0


def without_ornament(source):
    """Code as it is run: no docstrings, annotations, comments or layout."""
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        if isinstance(node, ast.arg):
            node.annotation = None
    return ast.unparse(tree)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "design.md"], ids=page_id)
def test_the_two_programs_are_shown_as_they_are(page):
    shown = without_ornament(blocks(page, "python")[0])
    assert without_ornament(inspect.getsource(VAE.model)) in shown
    assert without_ornament(inspect.getsource(VAE.guide)) in shown


def commands(page):
    for code in blocks(page, "sh"):
        for line in code.splitlines():
            for part in line.partition("#")[0].split("&&"):
                words = shlex.split(part)
                if words and words[0] == "pyrovae":
                    yield words[1:]


COMMANDS = sorted({tuple(words) for page in PAGES for words in commands(page)})


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_and_their_options_exist(words):
    name, *arguments = words
    command = cli.commands[name]
    given, _, _ = command.make_parser(click.Context(command)).parse_args(list(arguments))
    for role, text in given.items():
        if role in FAMILIES:
            spec = Spec.parse(text)
            if not spec.is_users_own:
                component = find(role, FAMILIES[role], spec, ())
                assert set(spec.options) <= set(options_of(component))


def test_every_command_is_documented():
    documented = re.findall(r"^```\{command\} (\w+)$", page_text("quickstart"), re.MULTILINE)
    assert sorted(documented) == sorted(cli.commands)


def test_every_family_has_its_table():
    from pyrovae.summary import catalogue

    tables = re.findall(r"^```\{components\} (\w+)$", page_text("components"), re.MULTILINE)
    assert sorted(tables) == sorted(catalogue())


def test_every_module_is_in_the_reference_and_in_the_layout():
    modules = {path.stem for path in (ROOT / "pyrovae").glob("[!_]*.py")}
    reference = set(re.findall(r"automodule:: pyrovae\.(\w+)", page_text("api")))
    commands = {name for name in modules if name.endswith("_cli")}  # their help is in the guide
    commands |= {"cli", "options"}
    assert reference == modules - commands
    layout = page_text("design").partition("## Layout")[2].partition("\n## ")[0]
    assert modules <= set(re.findall(r"`(\w+)`", layout))


def page_text(name):
    return (ROOT / "docs" / f"{name}.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_local_links_lead_somewhere(page):
    text = BLOCK.sub("", page.read_text())
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.is_file(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_tests_that_are_cited_exist(page):
    for file, name in re.findall(r"`(tests/\w+\.py)::(\w+)`", page.read_text()):
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), name
