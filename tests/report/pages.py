"""Small finished runs, and readers of their pages: a parser and a browser."""

import json
import re
import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import pyrovae
from pyrovae.runs import Run, start

NET = {"encoder": "mlp:hidden_dims=8", "decoder": "mlp:hidden_dims=8", "latent_dim": 2}


def finished(folder, data=None, **model):
    """A run of two epochs on small networks, with its VAE and data."""
    settings = {"model": NET | model, "training": {"epochs": 2}, "data": data or {}}
    config, dataset = pyrovae.Config.resolve(settings)
    folder, vae, trained = start(config, dataset, folder)
    run = Run.open(folder)
    run.finish(vae, dataset, trained, samples=20, proposal="posterior")
    return run, vae, dataset


class Checked(HTMLParser):
    """Tags that close as they open, anchors, and everything that a page refers to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.sources = [], set(), [], []
        self.scripts = 0
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        assert given.get("id") not in self.ids
        self.ids |= {given["id"]} if "id" in given else set()
        self.links += [given["href"]] if "href" in given else []
        self.sources += [given["src"]] if "src" in given else []
        if tag == "script":
            self.scripts += 1
        assert tag not in ("iframe", "object")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += "" if self.open and self.open[-1] == "script" else data


def browse(page, expression, width=1_400):
    """What an expression of JavaScript gives on a page, whose console must stay empty."""
    with tempfile.TemporaryDirectory() as folder:
        asked = (
            "<script>explorerReady.then(() => { const found = document.createElement('pre'); "
            f"found.id = 'found'; found.textContent = JSON.stringify({expression}); "
            "document.body.append(found); })</script>"
        )
        path = Path(folder) / "asked.html"
        path.write_text(page.read_text("utf-8").replace("</body>", f"{asked}</body>"), "utf-8")
        line = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={folder}/profile", "--enable-logging=stderr",
            f"--window-size={width},900", "--virtual-time-budget=20000", "--dump-dom",
            path.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "CONSOLE" not in done.stderr
    return json.loads(re.search(r'<pre id="found">(.*?)</pre>', done.stdout)[1])
