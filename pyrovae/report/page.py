r"""The parts of a page: escaped text, tables, pictures inside the file, sections with a menu."""

import re
import struct
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from pyrovae._process.text import printable
from pyrovae.estimates import Estimate, Result

__all__ = [
    "TERMS",
    "Section",
    "document",
    "picture",
    "plain",
    "preformatted",
    "table",
    "term",
    "value",
]

TERMS = {
    "elbo": (
        "ELBO",
        (
            "The evidence lower bound: the reconstruction minus the KL term. It is what training "
            "raises, and on average over draws it is never above log p(x)."
        ),
        "docs/derivation.md",
    ),
    "reconstruction": (
        "reconstruction",
        "The mean of log p(x|z) over z drawn from q(z|x): how well the code explains the example.",
        "docs/derivation.md",
    ),
    "kl": (
        "KL(q(z|x) || p(z))",
        (
            "The KL term: how far the approximate posterior of one example is from the prior. It "
            "compares two distributions of z, and nothing else."
        ),
        "docs/answers/kl_term.md",
    ),
    "evidence": (
        "log p(x)",
        (
            "The logarithm of the evidence: how probable the model finds an example, averaged over "
            "all z. It cannot be computed exactly, so a lower bound is given."
        ),
        "docs/evidence.md",
    ),
    "k-hat": (
        "Pareto k-hat",
        (
            "How heavy the tail of the importance weights is. Above the threshold, a few draws "
            "decide the estimate, and log p(x) may be far above the bound."
        ),
        "docs/evidence.md",
    ),
    "information": (
        "mutual information",
        (
            "How much the code says about which example it came from. It is part of the mean KL "
            "term, and better reconstructions pay for it."
        ),
        "docs/diagnose.md",
    ),
    "misfit": (
        "KL(q(z) || p(z))",
        (
            "How far the codes of all examples together are from the prior. It is the other part "
            "of the mean KL term, and what a better prior could remove."
        ),
        "docs/answers/aggregate_posterior.md",
    ),
    "active": (
        "active dimensions",
        "Dimensions of z whose posterior mean varies between examples; the others are not used.",
        "docs/diagnose.md",
    ),
    "error": (
        "±",
        (
            "One standard error. Where nothing else is said, it is over test examples: how much "
            "the mean would vary with other examples of the same kind. It does not include other "
            "seeds."
        ),
        "docs/evaluating.md",
    ),
}
"""What the words on a page mean, and where the documentation defines them."""


class Section(Result):
    """A part of a page.

    Attributes:
        name: its anchor.
        title: its heading, as plain text.
        body: its contents, as HTML.

    Example:
        >>> from pyrovae.report import Section
        >>> Section("bound", "The bound", "<p>Text</p>").title
        'The bound'
    """

    name: str
    title: str
    body: str


NUMBER = re.compile("[\N{MINUS SIGN}\N{EN DASH}+]?[0-9]|\N{EN DASH}$")


def plain(text: object) -> str:
    """Escape text from anywhere, so that a page shows it and does not obey it.

    Args:
        text: names, labels, paths and what files hold.

    Example:
        >>> from pyrovae.report import plain
        >>> plain("<b>\\x1b[2J")
        '&lt;b&gt;\\\\x1b[2J'
    """
    return escape(printable(str(text)))


def term(name: str, words: str | None = None) -> str:
    """A word that links to its explanation at the end of the page.

    Args:
        name: key of :data:`TERMS`.
        words: what is written; None for the term itself.

    Example:
        >>> from pyrovae.report import term
        >>> term("elbo")
        '<a class="term" href="#term-elbo">ELBO</a>'
    """
    return f'<a class="term" href="#term-{name}">{plain(words or TERMS[name][0])}</a>'


def value(estimate: Estimate | float | None, digits: int = 2) -> str:
    """A number with its standard error, in the typography of a page.

    Args:
        estimate: the number; None for a dash.
        digits: after the point.

    Example:
        >>> from pyrovae.estimates import Estimate
        >>> from pyrovae.report import value
        >>> value(Estimate(-85.0, 0.63)), value(None)
        ('−85.00 ± 0.63', '–')
    """
    if estimate is None:
        return "\N{EN DASH}"
    if not isinstance(estimate, Estimate):
        return f"{estimate:.{digits}f}".replace("-", "\N{MINUS SIGN}")
    text = f"{estimate.value:.{digits}f}"
    if estimate.standard_error is not None:
        text += f" ± {estimate.standard_error:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table of cells that are HTML; the first column names its row, numbers align right.

    Args:
        head: of the columns.
        rows: of cells, at least one.
        caption: above the table, as HTML.

    Example:
        >>> from pyrovae.report import table
        >>> table(["a"], [["1"]]).count("<tr>")
        2
    """
    above = f"<caption>{caption}</caption>" if caption else ""
    kinds = ["" if NUMBER.match(cell) else ' class="text"' for cell in rows[0]]
    first = "".join(
        f'<th scope="col"{kind}>{cell}</th>' for cell, kind in zip(head, kinds, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table>{above}<thead><tr>{first}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def picture(png: bytes, alt: str, caption: str = "") -> str:
    """A picture inside the page.

    Args:
        png: contents of a PNG file.
        alt: what it shows, for those who do not see it.
        caption: below it, as HTML.

    Example:
        >>> from pyrovae import plots
        >>> from pyrovae.report import picture
        >>> drawn = plots.as_png(plots.images(x.numpy(), "digits"))
        >>> picture(drawn, "64 digits").startswith("<figure><img ")
        True
    """
    source = f"data:image/png;base64,{b64encode(png).decode()}"
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    width, height = struct.unpack(">II", png[16:24])  # of the header
    broad = ' class="broad"' if width > 2 * height else ""
    return f'<figure{broad}><img src="{source}" alt="{plain(alt)}">{below}</figure>'


def preformatted(text: str) -> str:
    """Text as it is, such as a command or a program.

    Args:
        text: of one or more lines.

    Example:
        >>> from pyrovae.report import preformatted
        >>> preformatted("pyrovae fit")
        '<pre><code>pyrovae fit</code></pre>'
    """
    return f"<pre><code>{plain(text)}</code></pre>"


def document(title: str, about: str, sections: Sequence[Section]) -> str:
    """A whole page: heading, menu, sections, and what its words mean.

    Args:
        title: as plain text.
        about: a paragraph below the heading, as HTML.
        sections: in their order.

    Example:
        >>> from pyrovae.report import Section, document
        >>> text = document("A run", "", [Section("one", "One", "<p>1</p>")])
        >>> text.startswith("<!doctype html>"), text.count("<h2")
        (True, 2)
    """
    words = "".join(
        f'<dt id="term-{name}">{plain(word)}</dt><dd>{plain(meaning)} '
        f'<span class="where">{plain(where)}</span></dd>'
        for name, (word, meaning, where) in TERMS.items()
    )
    whole = [*sections, Section("words", "What the words mean", f"<dl>{words}</dl>")]
    menu = "".join(f'<li><a href="#{s.name}">{plain(s.title)}</a></li>' for s in whole)
    body = "".join(
        f'<section id="{s.name}"><h2>{plain(s.title)}</h2>{s.body}</section>' for s in whole
    )
    style = files("pyrovae.report").joinpath("page.css").read_text("utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{plain(title)}</title><style>{style}</style></head><body>"
        f"<header><h1>{plain(title)}</h1>{about}</header>"
        f"<nav><ol>{menu}</ol></nav><main>{body}</main></body></html>\n"
    )
