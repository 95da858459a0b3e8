"""Texts of pictures are drawn as they are, whatever they hold."""

import io

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from ffdr.util import pictures
from ffdr.util.pictures import Picture, drawing, keep_to_percent, legible, offset, spread

pytestmark = pytest.mark.filterwarnings("error")  # of glyphs that are missing


@pytest.fixture(autouse=True)
def nothing_reported(monkeypatch):
    """Each test hears of what is missing anew."""
    monkeypatch.setattr(pictures, "_reported", set())
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


def test_what_no_font_has_is_spelled_out_and_reported_once(capsys):
    text = legible("\U0001f9ff a\udce9\x07\ud55c")
    assert text == r"\U0001f9ff a\udce9\x07\ud55c"
    assert (pixels(titled(Picture, text)) == pixels(titled(Picture, text))).all()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert r"no installed font has \x07, \ud55c, \udce9, \U0001f9ff: the picture names them by numbers" in said


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


def test_labels_that_would_touch_are_moved_apart_and_others_not_at_all():
    assert spread([0.0, 1.0, 50.0], 10) == [-4.5, 5.5, 50.0]
    assert spread([0.0, 12.0, 13.0, 14.0], 10) == pytest.approx([-5.25, 4.75, 14.75, 24.75])
    assert spread([], 10) == []


@pytest.mark.parametrize(
    ("limits", "from_zero", "kept"), [((-7, 60), False, (0, 60)), ((40, 104), False, (40, 100)), ((3, 9), True, (0, 9))]
)
def test_no_axis_leaves_what_a_share_can_be(limits, from_zero, kept):
    axes = Picture(figsize=(3, 1)).subplots()
    axes.set_ylim(*limits)
    keep_to_percent(axes, from_zero)
    assert axes.get_ylim() == kept


def test_error_bars_of_several_series_stand_side_by_side():
    axes = Picture(figsize=(3, 1), dpi=72).subplots()
    places = [offset(axes, number, 3, points=4).transform((0.5, 0.5)) for number in range(3)]
    assert np.diff(places, axis=0) == pytest.approx(np.array([[4, 0], [4, 0]]))
    assert places[1] == pytest.approx(axes.transData.transform((0.5, 0.5)))


def test_a_picture_that_fails_leaves_the_earlier_one(tmp_path):
    file = tmp_path / "x.png"
    file.write_bytes(b"earlier")
    with pytest.raises(ZeroDivisionError), drawing(file, 1, 1):
        _ = 1 / 0
    assert file.read_bytes() == b"earlier" and not list(tmp_path.glob("*.partial"))
    with drawing(file, 2, 1) as figure:
        figure.subplots()
    with Image.open(file) as image:
        assert image.size == (400, 200) and image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
