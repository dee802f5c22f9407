"""`nnkernels gallery`: the catalogue as pictures, and as one page that needs no network."""

from __future__ import annotations

import argparse
import sys

from ..cli import missing
from ..registry import Fused, catalogue, row_called
from .progress import counted


def run(args: argparse.Namespace) -> int:
    if missing("matplotlib"):
        print("nnkernels gallery needs matplotlib; run: pip install matplotlib", file=sys.stderr)
        return 2
    from ..gallery.drawings import drawing_of
    from ..gallery.page import Card, page
    from ..gallery.pictures import DARK, LIGHT, overview, picture

    rows = [row_called(name) for name in dict.fromkeys(args.activation)] if args.activation else catalogue()
    drawn = [(row, drawing_of(row)) for row in rows if not isinstance(row, Fused)]
    args.out.mkdir(parents=True, exist_ok=True)
    cards = []
    for row, drawing in counted(drawn, "drawing", lambda one: one[0].name):
        cards.append(Card(row, picture(row, drawing, LIGHT), picture(row, drawing, DARK)))
        (args.out / f"{row.name}.png").write_bytes(cards[-1].light)
    if drawn:
        print("drawing all of them in one", file=sys.stderr, flush=True)
        (args.out / "gallery.png").write_bytes(overview(drawn))
        print(f"{len(drawn)} pictures, all of them in one: {args.out / 'gallery.png'}")
    cards += [Card(row) for row in rows if isinstance(row, Fused)]
    (args.out / "index.html").write_text(page(cards), encoding="utf-8")
    print(f"page: {args.out / 'index.html'}")
    return 0
