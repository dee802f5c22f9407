"""`nnkernels gallery`: the catalogue as pictures, and as one page that needs no network."""

from __future__ import annotations

import argparse
import sys

from ..cli import missing
from ..registry import activation, activations
from .progress import counted


def run(args: argparse.Namespace) -> int:
    if missing("matplotlib"):
        print("nnkernels gallery needs matplotlib; run: pip install matplotlib", file=sys.stderr)
        return 2
    from ..gallery.drawings import drawing_of
    from ..gallery.page import Card, page
    from ..gallery.pictures import DARK, LIGHT, overview, picture

    names = dict.fromkeys(args.activation or activations())
    drawn = [(row, drawing_of(row)) for row in map(activation, names)]
    args.out.mkdir(parents=True, exist_ok=True)
    cards = []
    for row, drawing in counted(drawn, "drawing", lambda one: one[0].name):
        cards.append(Card(row, picture(row, drawing, LIGHT), picture(row, drawing, DARK)))
        (args.out / f"{row.name}.png").write_bytes(cards[-1].light)
    print("drawing all of them in one", file=sys.stderr, flush=True)
    (args.out / "gallery.png").write_bytes(overview(drawn))
    (args.out / "index.html").write_text(page(cards), encoding="utf-8")
    print(f"{len(cards)} pictures, all of them in one: {args.out / 'gallery.png'}")
    print(f"page: {args.out / 'index.html'}")
    return 0
