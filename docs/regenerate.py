"""Run every example that the documentation shows, and put what it prints and draws in the pages.

A page shows an example as a command, ``python examples/NAME.py``, alone in a block of shell. The
text block that comes next, if there is one before other code, becomes what the command printed.
Pictures go to docs/images.

    python docs/regenerate.py               # all of them: half an hour
    python docs/regenerate.py blur impute   # these examples
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
SHOWN = re.compile(
    r"^```sh\npython examples/(?P<name>\w+)\.py(?P<options>[^\n]*)\n```$"
    r"(?P<between>(?:(?!^```).)*)"
    r"(?P<printed>^```text\n.*?^```$)?",
    re.MULTILINE | re.DOTALL,
)


def pages() -> list[Path]:
    """The pages that may show an example."""
    return [
        path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts
    ] + [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def shown(text: str) -> list[re.Match[str]]:
    """The examples of a page: their ``name``, their ``options`` and what they ``printed``."""
    return list(SHOWN.finditer(text))


def replaced(text: str, output: dict[str, str]) -> str:
    """A page with other output.

    Args:
        text: the page.
        output: what examples printed, by name.

    Returns:
        The page; what other examples printed is left as it is.
    """

    def one(match: re.Match[str]) -> str:
        if match["printed"] is None or match["name"] not in output:
            return match[0]
        before = match[0].removesuffix(match["printed"])
        return f"{before}```text\n{output[match['name']].strip(chr(10))}\n```"

    return SHOWN.sub(one, text)


def run(name: str, options: str) -> str:
    """What an example prints; its pictures go to docs/images."""
    script = ROOT / "examples" / f"{name}.py"
    draws = ["--out", str(IMAGES)] if '"--out"' in script.read_text() else []
    command = [sys.executable, str(script), *options.split(), *draws]
    return subprocess.run(
        command, env=os.environ, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="examples [all that the pages show]")
    names = parser.parse_args().names
    examples = {
        match["name"]: match["options"] for page in pages() for match in shown(page.read_text())
    }
    if unknown := set(names) - set(examples):
        parser.error(f"no page shows {', '.join(sorted(unknown))}; shown: {', '.join(examples)}")
    for name in names or examples:
        print(f"python examples/{name}.py{examples[name]}", flush=True)
        output = {name: run(name, examples[name])}
        for page in pages():
            text = page.read_text()
            if replaced(text, output) != text:
                page.write_text(replaced(text, output))
                print(f"    {page.relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    main()
