"""What the tools that write pages share: what they are called with, and where a table stands in its page."""

from __future__ import annotations

import argparse


def arguments(doc: str | None, what: str = "", least: int = 1) -> list[str]:
    """What stands behind a tool's name: nothing, or `least` words of `what` and more.

    --help shows the tool's `doc`, and nothing is done.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if what:
        parser.add_argument("given", nargs="*", metavar=what)
    given = list(getattr(parser.parse_args(), "given", []))
    if 0 < len(given) < least:
        parser.error(f"expected {what}, got {' '.join(given)}")
    return given


def between(page: str, name: str, tool: str, table: str) -> str:
    """The page with `table` between its comments called `name`, which name the tool that writes it."""
    begin, end = f"<!-- {name}: written by tools/{tool}.py -->", f"<!-- end of {name} -->"
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}"
