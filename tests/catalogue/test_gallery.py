"""The gallery: every row can be drawn, the page stands alone, and what the catalogue says of ranges is so."""

from __future__ import annotations

import math
import re
import sys
from html.parser import HTMLParser

import pytest
import torch

import nnkernels
from nnkernels import accuracy, reference
from nnkernels.cli import main
from nnkernels.gallery.drawings import drawing_of, trace
from nnkernels.gallery.page import Card, page
from nnkernels.registry import Fused, Learned, catalogue

VOID = {"meta", "img", "source", "br", "link", "hr", "input"}


class Checker(HTMLParser):
    """Finds elements that are not closed in order, and collects ids, links and sources."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.refers: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert value is not None
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "srcset"):
                self.refers.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def checked(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert not checker.open
    assert len(set(checker.ids)) == len(checker.ids)
    return checker


@pytest.mark.parametrize("row", [one for one in catalogue() if not isinstance(one, Fused)], ids=lambda row: row.name)
def test_every_row_can_be_drawn(row):
    curve = drawing_of(row).curve
    assert curve.value.shape == curve.slope.shape == curve.x.shape
    for drawn in (curve.value, curve.slope):
        assert not drawn.isinf().any() and drawn.isnan().sum() < 10


def test_a_row_that_nobody_can_draw_is_an_error():
    told = dict.fromkeys(("formula", "derivative", "range", "source", "good_for", "drawback"), "")
    with pytest.raises(NotImplementedError, match="'unheard_of', a Learned row"):
        drawing_of(Learned("unheard_of", "UnheardOf", **told))


@pytest.mark.parametrize(
    ("name", "knees", "jumps"),
    [
        ("gelu", [], []),
        ("relu_squared", [], []),
        ("softsign", [], []),
        ("elu", [], []),
        ("selu", [0], []),
        ("leaky_relu", [0], []),
        ("relu6", [0, 6], []),
        ("hardswish", [-3, 3], []),
        ("hardsigmoid", [-3, 3], []),
        ("softshrink", [-0.5, 0.5], []),
        ("hardshrink", [], [-0.5, 0.5]),
        ("threshold", [], [1]),
    ],
)
def test_knees_and_jumps_are_found(name, knees, jumps):
    curve = drawing_of(nnkernels.activation(name)).curve
    assert [x for x, _ in curve.knees] == pytest.approx(knees, abs=0.01)
    assert [x for x, _, _ in curve.jumps] == pytest.approx(jumps, abs=0.01)


def test_slopes_are_those_of_the_function():
    curve = trace(lambda x: x.sin() * x)
    torch.testing.assert_close(curve.slope, curve.x.sin() + curve.x * curve.x.cos())


def test_the_command_writes_pictures_and_a_page_that_stands_alone(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "folder"
    names = ["mish", "hardshrink", "threshold"]
    assert main(["gallery", "--out", str(out), *(word for name in names for word in ("--activation", name))]) == 0
    told = capsys.readouterr()
    assert str(out / "index.html") in told.out
    assert f"1 of {len(names)}" in told.err  # so that nobody waits in silence
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*(f"{name}.png" for name in names), "gallery.png", "index.html"]
    )
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 3000
    html = (out / "index.html").read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>")
    checker = checked(html)
    assert "script" not in checker.tags and "link" not in checker.tags
    assert "@import" not in html and "url(" not in html
    assert set(names) <= set(checker.ids)
    pictures = [refer for refer in checker.refers if not refer.startswith("#")]
    assert len(pictures) == 2 * len(names)
    assert all(refer.startswith("data:image/png;base64,") for refer in pictures)
    assert {refer[1:] for refer in checker.refers if refer.startswith("#")} <= set(checker.ids)


def test_the_page_tells_every_row_in_full():
    html = page(Card(row, b"", b"") for row in catalogue())
    checker = checked(html)
    text = "".join(checker.text)
    for row in catalogue():
        for told in (row.formula, row.derivative, row.range, row.source, row.good_for, row.drawback, row.module):
            assert told in text
    assert {refer[1:] for refer in checker.refers if refer.startswith("#")} <= set(checker.ids)


def test_a_fused_form_is_told_without_a_picture(tmp_path, capsys):
    assert main(["gallery", "--out", str(tmp_path), "--activation", "layer_norm_act"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    checker = checked((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert "layer_norm_act" in checker.ids and "img" not in checker.tags


def test_text_is_escaped_and_other_modules_become_links():
    told = dict.fromkeys(("formula", "derivative", "range", "source"), "<b>&\"'")
    row = Learned("one", "One", **told, good_for="as Mish, <i>not</i> One", drawback="& more")
    html = page(Card(one, b"", b"") for one in (row, nnkernels.activation("mish")))
    checker = checked(html)
    assert "b" not in checker.tags and "i" not in checker.tags
    assert 'as <a href="#mish">Mish</a>, &lt;i&gt;not' in html
    assert "<b>&\"'" in "".join(checker.text)


def test_without_matplotlib_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["gallery", "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "matplotlib" in line and "pip install" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("which", ["out", "activation"])
def test_bad_arguments_are_refused(tmp_path, capsys, which):
    file = tmp_path / "file"
    file.touch()
    arguments = {"out": ["--out", str(file)], "activation": ["--activation", "mihs"]}[which]
    with pytest.raises(SystemExit) as stopped:
        main(["gallery", *arguments])
    assert stopped.value.code == 2 and arguments[1] in capsys.readouterr().err


def test_pyplot_is_not_touched(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    assert main(["gallery", "--out", str(tmp_path), "--activation", "relu"]) == 0
    assert "matplotlib.pyplot" not in sys.modules


def test_the_constants_that_are_shown_are_all_of_the_rows(row):
    assert row.shown is None or len(row.shown) == len(row.parameters)
    note = drawing_of(row).note
    assert all(f"{name} = " in note for name in row.parameters)


def test_ranges_are_what_the_functions_reach(row):
    """Both ends to four digits; a closed end is reached, an open one only approached."""
    a, b = accuracy.constants_of(row)
    x = torch.linspace(-12, 12, 1_200_001, dtype=torch.float64)
    far = torch.tensor([-1e7, -1e3, 1e3, 1e7], dtype=torch.float64)
    value = reference.FORMULAS[row.name].value
    near, all_values = value(x, a, b), value(torch.cat([x, far]), a, b)
    ends = re.fullmatch(r"([\[(])([^{}()]+), ([^{}()]+)([\])])( for .*)?", row.range)
    if ends is None:
        assert row.range.startswith(("{", "(-inf, -lambd), {0} and (lambd"))  # pieces
        return
    known = {**dict(zip(row.parameters, (a, b), strict=False)), "inf": math.inf, "beta": 1.0}
    low, high = (float(eval(end, {}, known)) for end in ends.group(2, 3))
    for end, reached, closed, at_hand in (
        (low, all_values.min().item(), ends.group(1) == "[", near.min().item()),
        (high, all_values.max().item(), ends.group(4) == "]", near.max().item()),
    ):
        if math.isinf(end):
            assert abs(reached) > 900 and not closed
        else:
            assert reached == pytest.approx(end, abs=5.1e-5)
            assert closed == (at_hand == pytest.approx(end, abs=5.1e-5) and _flat(near, at_hand))


def _flat(values: torch.Tensor, extreme: float) -> bool:
    """Whether the extreme is reached inside or held, rather than approached at the edge."""
    at = (values == extreme).nonzero().flatten()
    return bool(len(at) > 1000 or (at[0] > 0 and at[-1] < len(values) - 1))
