"""The gallery as one HTML page that needs neither network nor JavaScript: the pictures are part of it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from ..initialization import has_gain, init_for
from ..registry import Row
from .drawings import required_of


@dataclass(frozen=True)
class Card:
    """A row with its two pictures; a fused form, which is drawn as its activation is, has none."""

    row: Row
    light: bytes | None = None
    dark: bytes | None = None


STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #222; --soft: #666; --line: #ddd; --link: #0060a0; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #1b1e24; --ink: #e2e2e2; --soft: #a4a8b0; --line: #3c4048; --link: #7cc4f0; }
}
body { margin: 0 auto; max-width: 96rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
a { color: var(--link); }
nav { line-height: 1.9; }
nav a { margin-right: .7em; white-space: nowrap; }
main { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); }
article { border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; break-inside: avoid; }
article:target { outline: 2px solid var(--link); }
h2 { margin: 0; font-size: 1.15rem; }
h2 a { color: inherit; text-decoration: none; }
h2 small { color: var(--soft); font-weight: normal; font-size: .8rem; }
img { width: 100%; height: auto; display: block; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem .8rem; margin: .6rem 0 0; font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
article p { margin: .5rem 0 0; font-size: .8rem; text-align: right; }
code { font-size: .95em; }
"""

KINDS = {"Activation": "stateless"}
"""What a kind of row is called where its class's name does not say it."""


def page(cards: Iterable[Card]) -> str:
    """The whole document."""
    cards = list(cards)
    names = {card.row.module: card.row.name for card in cards}
    contents = "\n".join(f'<a href="#{escape(c.row.name)}">{escape(c.row.module)}</a>' for c in cards)
    articles = "\n".join(_article(card, names) for card in cards)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>nnkernels: the activations</title>
<style>{STYLE}</style>
</head>
<body>
<header id="top">
<h1>nnkernels: the activations</h1>
<p>Solid: the function. Dashed: its first derivative. Rings: knees and jumps. The initial gain keeps the second moment
from layer to layer. Drawn by <code>nnkernels gallery</code>.</p>
<nav>
{contents}
</nav>
</header>
<main>
{articles}
</main>
</body>
</html>
"""


def _article(card: Card, names: dict[str, str]) -> str:
    row = card.row
    facts = {
        "formula": f"<code>{escape(row.formula)}</code>",
        "derivative": f"<code>{escape(row.derivative)}</code>",
        "range": escape(row.range),
        "constants": _constants(row),
        "good for": _linked(row.good_for, row, names),
        "drawback": _linked(row.drawback, row, names),
        "initial gain": _gain(row),
        "source": escape(row.source),
    }
    told = "\n".join(f"<dt>{what}</dt><dd>{text}</dd>" for what, text in facts.items() if text)
    kind = KINDS.get(type(row).__name__, type(row).__name__.lower())
    return f"""<article id="{escape(row.name)}">
<h2><a href="#{escape(row.name)}">{escape(row.module)}</a> <small>{escape(row.name)}, {escape(kind)}</small></h2>
{_pictures(card)}<dl>
{told}
</dl>
<p><a href="#top">to the top</a></p>
</article>"""


def _pictures(card: Card) -> str:
    if card.light is None or card.dark is None:
        return ""
    return f"""<picture>
<source media="(prefers-color-scheme: dark)" srcset="{_uri(card.dark)}">
<img src="{_uri(card.light)}" width="720" height="510" alt="{escape(card.row.module)} and its derivative">
</picture>
"""


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _constants(row: Row) -> str:
    return ", ".join(
        f"{escape(name)}" if default != default else f"{escape(name)} = {default:g}"
        for name, default in getattr(row, "parameters", {}).items()
    )


def _gain(row: Row) -> str:
    if not has_gain(row):
        return ""
    given = required_of(row)
    init = init_for(row, *given)
    where = f" (at {', '.join(f'{value:g}' for value in given)})" if given else ""
    return f"{init.gain:.4g}{where}; sensitivity {init.sensitivity:.2f}"


def _linked(text: str, row: Row, names: dict[str, str]) -> str:
    """The text with the modules that it names as links."""
    others = sorted((name for name in names if name != row.module), key=len, reverse=True)
    if not others:
        return escape(text)
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, others))})\b")
    parts = pattern.split(text)
    return "".join(
        f'<a href="#{escape(names[part])}">{escape(part)}</a>' if i % 2 else escape(part)
        for i, part in enumerate(parts)
    )
