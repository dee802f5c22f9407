"""What the tools that write tables share: a table stands between two comments of its page."""

from __future__ import annotations


def between(page: str, name: str, tool: str, table: str) -> str:
    """The page with `table` between its comments called `name`, which name the tool that writes it."""
    begin, end = f"<!-- {name}: written by tools/{tool}.py -->", f"<!-- end of {name} -->"
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}"
