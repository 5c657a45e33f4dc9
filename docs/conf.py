"""Sphinx configuration, and directives whose contents come from the code itself."""

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from inspect import cleandoc, isfunction
from itertools import pairwise
from pathlib import Path
from textwrap import indent
from types import ModuleType
from typing import ClassVar

import click
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import pyrovae
from pyrovae.cli import cli
from pyrovae.data import DATASETS, RECIPES, TorchvisionSet
from pyrovae.runs import catalogue

project = "pyrovae"
author = "The pyrovae authors"
project_copyright = author
release = version = pyrovae.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"pyrovae {version}"
html_show_sphinx = False
html_copy_source = False

default_role = "code"
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
autodoc_default_options = {"members": True, "member-order": "bysource", "no-value": True}
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False


class Generated(SphinxDirective):
    """Markdown made from the code, in the place of the directive."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        return self.parse_text_to_nodes("\n".join(self.lines()), allow_section_headings=True)

    def lines(self) -> Iterator[str]:
        raise NotImplementedError


class Components(Generated):
    """The entries of one family, with their options."""

    required_arguments: ClassVar[int] = 1

    def lines(self) -> Iterator[str]:
        yield "| name | what it is | options and their defaults |"
        yield "|---|---|---|"
        for name, entry in catalogue()[self.arguments[0]].items():
            options = "<br>".join(
                f"`{key}={option.default}` ({option.takes})"
                for key, option in entry.options.items()
            )
            about = re.sub(r":math:`([^`]*)`", r"$\1$", entry.about).replace("|", r"\|")
            yield f"| `{name}` | {about} | {options or 'none'} |"


class Recipes(Generated):
    """What is trained on each named dataset where nothing else is asked for."""

    def lines(self) -> Iterator[str]:
        yield "| dataset | likelihood | pixels | z | encoder, decoder |"
        yield "|---|---|---|---|---|"
        for name, recipe in RECIPES.items():
            treatment = (
                f"{recipe.binarization} bits"
                if recipe.binarization != "none"
                else {"none": "as they are", "unit": "from 0 to 1"}[recipe.scaling]
            )
            networks = dict.fromkeys([recipe.encoder, recipe.decoder])
            yield (
                f"| `{name}` | `{recipe.likelihood}` | {treatment} | {recipe.latent_dim} | "
                f"{', '.join(f'`{network}`' for network in networks)} |"
            )
        yield ""
        for name, recipe in RECIPES.items():
            yield f"- `{name}`: {recipe.training['epochs']} epochs. {recipe.protocol}"


class Files(Generated):
    """What the data folder holds for each named dataset."""

    def lines(self) -> Iterator[str]:
        for name, dataset in DATASETS.items():
            if isinstance(dataset, TorchvisionSet):
                yield f"- `{name}`: " + ", ".join(f"`{file}`" for file in dataset.files)


class Command(SphinxDirective):
    """The help of one command, as it is printed."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        (name,) = self.arguments
        command = cli.commands[name]
        context = click.Context(command, info_name=f"pyrovae {name}", terminal_width=90)
        text = command.get_help(context)
        return [nodes.literal_block(text, text, language="text")]


class Wing(Generated):
    """The public names of a part of the package, file by file, in the order of its face."""

    required_arguments: ClassVar[int] = 1

    def lines(self) -> Iterator[str]:
        (name,) = self.arguments
        module = import_module(f"pyrovae.{name}")
        if not hasattr(module, "__path__"):
            yield from self.eval_rst(f".. automodule:: pyrovae.{name}")
            return
        yield from self.eval_rst(f".. automodule:: pyrovae.{name}", "   :no-members:")
        left = dict.fromkeys(module.__all__)
        for file in files_of(module):
            names = [n for n in getattr(import_module(file), "__all__", []) if n in left]
            yield f"## {file.rpartition('.')[2]}"
            yield from self.eval_rst(f".. automodule:: {file}", "   :no-members:")
            for public in names:
                yield from self.member(f"pyrovae.{name}", file, public)
                del left[public]
        for public in left:
            yield from self.member(f"pyrovae.{name}", f"pyrovae.{name}", public)

    def member(self, wing: str, file: str, name: str) -> Iterator[str]:
        value = getattr(import_module(wing), name)
        if isinstance(value, type) or isfunction(value):
            kind = "class" if isinstance(value, type) else "function"
            yield from self.eval_rst(f".. auto{kind}:: {wing}.{name}")
        elif about := constants(file).get(name):
            yield from self.eval_rst(f".. py:data:: {wing}.{name}", "", indent(about, "   "))

    def eval_rst(self, *lines: str) -> Iterator[str]:
        yield from ("```{eval-rst}", *lines, "```", "")


def constants(module: str) -> dict[str, str]:
    """The constants of a file that a string describes, with that string."""
    body = ast.parse(Path(str(import_module(module).__file__)).read_text()).body
    return {
        ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0]): cleandoc(
            ast.literal_eval(after.value)
        )
        for node, after in pairwise(body)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }


def files_of(wing: ModuleType) -> list[str]:
    """The files of a wing, as its ``__init__`` imports them, then its other public ones."""
    source = Path(str(wing.__file__))
    imports = (n for n in ast.parse(source.read_text()).body if isinstance(n, ast.ImportFrom))
    imported = [n.module for n in imports if str(n.module).startswith(f"{wing.__name__}.")]
    others = (f"{wing.__name__}.{path.stem}" for path in sorted(source.parent.glob("[!_]*.py")))
    return list(map(str, dict.fromkeys([*imported, *others])))


def warn_of_missing(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Node
) -> None:
    """Warn of a link from a page to code that the reference does not have."""
    if node.get("refdomain") == "py" and not node["refdoc"].startswith("api/"):
        logging.getLogger(__name__).warning(
            "%s is not in the reference", node["reftarget"], location=node
        )


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", warn_of_missing)
    for name, directive in (
        ("components", Components),
        ("recipes", Recipes),
        ("files", Files),
        ("command", Command),
        ("wing", Wing),
    ):
        app.add_directive(name, directive)
