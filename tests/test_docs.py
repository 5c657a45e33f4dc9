"""What the README and the docs say is run: Python, commands, links, names of tests and modules."""

import ast
import inspect
import re
import shlex
import sys
import textwrap
from importlib import import_module
from itertools import chain, count, pairwise
from pathlib import Path

import click
import numpy as np
import pytest

import pyrovae
from pyrovae.cli import cli
from pyrovae.runs import FAMILIES, Spec, catalogue, find, options_of
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


COMPONENTS = "# my_components.py\n"  # begins the blocks of a page that make this file together


@pytest.fixture
def components_of():
    """Writes the blocks of a page that make a file of components to the working folder."""
    file = "my_components.py"

    def write(page):
        parts = [code for code in blocks(page, "python") if code.startswith(COMPONENTS)]
        if parts:
            Path(file).write_text("\n".join(parts))

    sys.modules.pop("my_components", None)
    yield write
    sys.modules.pop("my_components", None)


def small(code):
    """The same code with few epochs and samples."""
    code = re.sub(r"(epochs\"?(?:=|: ))\d+", r"\g<1>1", code)
    return re.sub(r"(samples=)\d+", r"\g<1>2", code)


WITH_PYTHON = [  # the README by default, every page in the slow tier
    pytest.param(page, id=page_id(page), marks=[] if page.name == "README.md" else pytest.mark.slow)
    for page in PAGES
    if blocks(page, "python")
]


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_runs_in_order(page, tmp_path, monkeypatch, components_of):
    monkeypatch.chdir(tmp_path)
    components_of(page)
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


@pytest.mark.contract
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


def test_the_commands_on_extending_run_with_the_components_of_that_page(
    command, components_of, monkeypatch
):
    monkeypatch.setattr("pyrovae.plots.draw_vae", lambda *arguments, **options: None)
    page = ROOT / "docs" / "extending.md"
    components_of(page)
    np.savez("ring.npz", x=np.random.default_rng(0).standard_normal((50, 2)))
    roles = set()
    for words in commands(page):
        trains = words[0] == "fit" and "--resume" not in words
        result = command(*words, *(["--epochs", "1"] if trains else []))
        assert result.status == 0, f"{words}: {result.err}"
        roles |= {word.removeprefix("--") for word in words}
    assert {*FAMILIES, "data"} <= roles


@pytest.mark.contract
def test_every_command_is_documented():
    """Each has its section with its help, and is shown at work there."""
    sections = re.split(r"^## (?=\w+$)", page_text("commands"), flags=re.MULTILINE)[1:]
    documented = {section.partition("\n")[0]: section for section in sections}
    assert sorted(documented) == sorted(cli.commands)
    for name, section in documented.items():
        assert re.findall(r"^```\{command\} (.*)$", section, re.MULTILINE) == [name]
        assert f"\npyrovae {name}" in section


@pytest.mark.contract
def test_every_component_is_documented():
    """Each family has its table, made of all its entries, and each entry is in the reference."""
    tables = re.findall(r"^```\{components\} (\w+)$", page_text("components"), re.MULTILINE)
    assert sorted(tables) == sorted(catalogue())
    assert {name for family in FAMILIES.values() for name in family} == {
        name for entries in catalogue().values() for name in entries
    }
    for family in FAMILIES.values():
        for name, component in family.items():
            wing = import_module(".".join(component.__module__.split(".")[:2]))
            assert component.__name__ in wing.__all__, name


@pytest.mark.contract
def test_every_wing_has_a_page_and_every_public_function_a_description():
    """The reference shows what is in ``__all__`` of each wing, from its docstrings."""
    for name in pyrovae.__all__:
        assert f"`pyrovae.{name}`" in page_text("api/index")
    pages = "".join(page.read_text() for page in PAGES)
    for wing in WINGS:
        assert f"]({wing}.md)" in page_text("api/index")
        assert f"```{{wing}} {wing}\n" in page_text(f"api/{wing}")
        module = import_module(f"pyrovae.{wing}")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                assert inspect.getdoc(value), f"{wing}.{name} has no docstring"
            else:
                assert name in pages or described(wing, name), f"{wing}.{name}"


def test_every_example_is_documented():
    """Each is in the table of examples, and some page shows the command that runs it."""
    pages = [page.read_text() for page in PAGES]
    for path in sorted((ROOT / "examples").glob("*.py")):
        assert f"| [{path.stem}](../examples/{path.name}) |" in page_text("examples")
        shown = re.compile(rf"^python examples/{path.name}", re.MULTILINE)
        assert any(shown.search(text) for text in pages), path.name


WINGS = sorted(
    path.stem
    for path in (ROOT / "pyrovae").iterdir()
    if path.suffix in ("", ".py") and not path.stem.startswith("_") and path.stem != "cli"
)


def described(wing, name):
    """Whether a string after a constant, in some file of the wing, says what it is."""
    path = ROOT / "pyrovae" / wing
    for file in path.glob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
        for node, after in pairwise(ast.parse(file.read_text()).body):
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                if ast.unparse(target) == name:
                    return True
    return False


def test_every_wing_is_in_the_layout():
    layout = page_text("design").partition("## Layout")[2].partition("\n## ")[0]
    assert set(WINGS) | {"cli", "_process"} <= set(re.findall(r"`(\w+)`", layout))


def page_text(name):
    return (ROOT / "docs" / f"{name}.md").read_text()


def anchors(text):
    """The anchors of a page's headings down to the third level, as MyST makes them."""
    found = []
    for heading in re.findall(r"^#{1,3} (.*)$", BLOCK.sub("", text), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # of a link, its words
        shown = re.sub(r"\$[^$]*\$", "", shown)  # MyST leaves out formulas
        slug = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
        numbered = (f"{slug}-{n}" for n in count(1))
        found.append(next(name for name in chain([slug], numbered) if name not in found))
    return found


def test_anchors_are_those_of_the_site():
    headings = [
        "Why is every q(z | x) pulled to the prior, when only the population should match it?",
        "A data_set of one's *own*: `fit --data`, twice",
        "In Python",
        "In Python",
        "The [bound](x.md#y) in $\\log p(x)$ nats",
    ]
    page = "# Title\n\n```python\n# no heading\n```\n\n" + "\n\n".join(f"## {h}" for h in headings)
    assert anchors(page) == [
        "title",
        "why-is-every-qz--x-pulled-to-the-prior-when-only-the-population-should-match-it",
        "a-data_set-of-ones-own-fit---data-twice",
        "in-python",
        "in-python-1",
        "the-bound-in--nats",
    ]


@pytest.mark.contract
@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_no_local_link_is_broken(page):
    text = BLOCK.sub("", page.read_text())
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.is_file(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text()), f"{page.name}: {target}"


@pytest.mark.contract
@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_tests_that_are_cited_exist(page):
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text()):
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), name
