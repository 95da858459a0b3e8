"""Texts of pictures are drawn as they are, whatever they hold."""

import io

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from ffdr.util import pictures
from ffdr.util.pictures import Picture, legible

pytestmark = pytest.mark.filterwarnings("error")  # of glyphs that are missing


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    """Each test hears of what is missing anew."""
    monkeypatch.setattr(pictures, "_told", set())
    monkeypatch.setattr(pictures, "_missing", set())


def pixels(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("L"))


def titled(kind, text):
    figure = kind(figsize=(3, 1))
    axes = figure.subplots()
    axes.set_title(text)
    axes.plot([0, 1], label=text)
    axes.legend()
    axes.set_xticks([0, 1], ["a", text])
    return figure


@pytest.mark.parametrize("text", ["cost $5$ to $7", "$x^$", r"$\alpha_$", "R&B 100%"])
def test_dollars_are_no_mathematics(text):
    with rc_context({"text.parse_math": False}):
        plain = pixels(titled(Figure, text))
    assert (pixels(titled(Picture, text)) == plain).all()


def test_what_no_font_has_is_spelled_out_and_told_once(capsys):
    text = legible("\U0001f9ff a\udce9\x07\ud55c")
    assert text == r"\U0001f9ff a\udce9\x07\ud55c"
    assert (pixels(titled(Picture, text)) == pixels(titled(Picture, text))).all()
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert r"no installed font has \x07, \ud55c, \udce9, \U0001f9ff: the picture names them by numbers" in told


def test_texts_are_spelled_out_when_they_are_drawn():
    spelled = Picture(figsize=(3, 1))
    spelled.suptitle(r"a\udce9")
    raw = Picture(figsize=(3, 1))
    raw.suptitle("a\udce9")
    assert (pixels(raw) == pixels(spelled)).all()


def test_another_font_helps_out(monkeypatch):
    """Script letters are in a font of matplotlib's own, but not in its usual one."""
    script = "\U0001d49c"
    assert legible(script) == script
    figure = titled(Picture, script)
    drawn = pixels(figure)
    (family,) = pictures._families(frozenset(script))
    assert figure.axes[0].title.get_fontfamily()[-1] == family
    with rc_context({"font.family": family}):
        alone = pixels(titled(Figure, script))
    title = slice(0, 8)  # the ticks' digits are of the usual font
    assert (drawn[title] == alone[title]).all() and drawn[title].min() < 128
    pictures._families.cache_clear()
    monkeypatch.setattr(pictures, "_charmaps", dict)
    assert legible(script) == r"\U0001d49c"
    pictures._families.cache_clear()
