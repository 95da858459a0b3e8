"""How all pictures look, as in a paper of two columns, and figures that show any text as it is.

Colours are those of Okabe and Ito, which people tell apart whatever their sight, and in the same order everywhere.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.transforms import ScaledTranslation, Transform

from ffdr.util.atomic import atomic_path
from ffdr.util.text import MOST_SHOWN, warn

PAGE, COLUMN = 6.75, 4.0
"""Inches: the width of a picture across a page, and of one within a column."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#595959")
"""Of series, in turn."""
NEUTRAL, PALE, CONTEXT = "#767676", "#a6c8de", "#bdbdbd"
"""Of what others did, of a bound beside the first colour, and of the many that the eye may pass over."""
_OF_TASKS = {"erm": NEUTRAL, "kd": "#e69f00", "dr": "#0072b2", "teacher": "#009e73"}
_MARKERS = "osD^vP*"
_STYLE: Any = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#333333",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.6,
    "errorbar.capsize": 1.8,
}
_DOTS_PER_INCH = 200
_PLACES = 6
"""Digits of shares of a figure's width or height, and of points."""
_MARKED = 30
"""A curve of fewer points has each of them marked."""

_PLACEHOLDERS = "Last Resort"
"""A font that has a box for every character there is."""
_MOST_LINES = 40
_SHOWN = 8
"""Characters that a message lists."""


@contextmanager
def drawing(file: str | Path, width: float, height: float) -> Iterator[Picture]:
    """A figure of so many inches in the common style, written to ``file`` as PNG when the block ends without an error.

    The file is there whole or not at all (``atomic_path``).
    """
    with matplotlib.rc_context(_STYLE):
        figure = Picture(figsize=(width, height), layout="constrained", dpi=_DOTS_PER_INCH)
        yield figure
        _settle(figure)
        with atomic_path(Path(file)) as picture:
            figure.savefig(picture, format="png", dpi=_DOTS_PER_INCH)


def _settle(figure: Figure) -> None:
    """Lay the panels out for good, at rounded places: the layout's last digits differ from call to call, and with them,
    now and then, a pixel."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(value, _PLACES) for value in axes.get_position(original=True).bounds)
        axes.set_position((left, bottom, width, height))
    for text in figure.texts:
        x, y = text.get_position()
        text.set_position((round(x, _PLACES), round(y, _PLACES)))


def colour_of(name: str, number: int) -> str:
    """Of a series: a task or the teacher has one of its own, others get theirs by their number."""
    return _OF_TASKS.get(name.lower(), COLOURS[number % len(COLOURS)])


def marker_of(number: int) -> str:
    """Of a series, so that print without colours tells them apart."""
    return _MARKERS[number % len(_MARKERS)]


def offset(axes: Axes, number: int, count: int, points: float = 4.0) -> Transform:
    """Where to draw the ``number``-th of ``count`` series: moved sideways, so that error bars at the same place stand
    side by side. points: from one series to the next, 1/72 inch each."""
    shift = points * (number - (count - 1) / 2) / 72
    return axes.transData + ScaledTranslation(shift, 0, axes.figure.dpi_scale_trans)


def keep_to_percent(axes: Axes, from_zero: bool = False) -> None:
    """No vertical range beyond what a share in percent can be, wherever an interval ends. from_zero: begin there."""
    low, high = axes.get_ylim()
    axes.set_ylim(0 if from_zero else max(low, 0), min(high, 100))


def draw_curve(axes: Axes, points: Sequence[tuple[float, float]], colour: str, **style: Any) -> None:
    """A line through (x, y), with a gap where y is not finite; few points are marked, so that one alone is seen."""
    marker = "o" if len(points) < _MARKED else ""
    axes.plot(
        [x for x, _ in points],
        [y if math.isfinite(y) else math.nan for _, y in points],
        marker=marker,
        markersize=2.5,
        color=colour,
        **style,
    )


def last_finite(points: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Where a curve ends that can be seen; None: none of it can."""
    return next((point for point in reversed(points) if math.isfinite(point[1])), None)


Ends: TypeAlias = Mapping[str, tuple[float, float, str]]
"""(x, y, colour) of the last point of each curve of a panel, by the curve's name."""


def label_ends(figure: Picture, panels: Mapping[Axes, Ends], tied: bool = False) -> None:
    """Names of curves to the right of their ends, moved apart where they would touch; call it once limits are set.

    tied: keep all names to the right of their panel and within its height; a thin line ties those that are not beside
    their ends to them.
    """
    figure.draw_without_rendering()  # lays all panels out, which takes long
    for axes, ends in panels.items():
        _label_panel(figure, axes, ends, tied)


def _label_panel(figure: Picture, axes: Axes, ends: Ends, tied: bool) -> None:
    panel, scale = axes.get_window_extent(), 72 / figure.dpi
    size = matplotlib.rcParams["legend.fontsize"]
    names = sorted(ends, key=lambda name: ends[name][1])
    at = [scale * (axes.transData.transform(ends[name][:2]) - panel.p0) for name in names]  # points
    limits = (0.0, scale * panel.height) if tied else ()
    places = spread([float(y) for _, y in at], 1.15 * size, *limits)
    apart = [
        tied and (abs(place - up) > size / 2 or scale * panel.width - right > size)
        for (right, up), place in zip(at, places, strict=True)
    ]
    beside = axes.transAxes + ScaledTranslation((14 if any(apart) else 5) / 72, 0, figure.dpi_scale_trans)
    for name, (_, up), place, is_apart in zip(names, at, places, apart, strict=True):
        x, y, colour = ends[name]
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5)}
        axes.annotate(
            name,
            (x, y),
            (1 if tied else 11, round(place - up, _PLACES)),
            textcoords=(beside if tied else "offset points", "offset points"),
            va="center",
            color=colour,
            fontsize=size,
            fontweight="bold",
            annotation_clip=False,
            arrowprops=line if is_apart else None,
        )


def spread(places: Sequence[float], least: float, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """Rising places, moved as little as may be so that each is at least ``least`` above the one before.

    low, high: where the first and the last may be; where there is no room for all, they go above.
    """
    # Neighbours that touch become a block around the mean of where its members want to be.
    blocks: list[list[float]] = []
    for place in places:
        blocks.append([place])
        while len(blocks) > 1 and _bottom(blocks[-1], least) < _bottom(blocks[-2], least) + least * len(blocks[-2]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    bottoms = [_bottom(block, least) + least * number for block in blocks for number in range(len(block))]
    # Less the room of those below it, a place is where all of a block stand; so limits move whole blocks.
    top = high - least * (len(places) - 1)
    return [max(low, min(bottom - least * number, top)) + least * number for number, bottom in enumerate(bottoms)]


def _bottom(block: Sequence[float], least: float) -> float:
    return sum(block) / len(block) - least * (len(block) - 1) / 2


class Picture(Figure):
    """A figure of matplotlib whose texts are drawn as they are; what no font can draw is spelled out (``legible``).

    Labels of ticks are made while it is drawn: they must be legible already.
    """

    def draw(self, renderer: Any) -> None:
        """As matplotlib does; called by ``savefig``. A line on standard error names what is spelled out."""
        texts = self.findobj(Text)
        for text in texts:
            text.set_text(legible(text.get_text()))
        unusual = {character for text in texts for character in text.get_text() if not _is_usual(character)}
        families = [*matplotlib.rcParams["font.family"], *_families(frozenset(unusual))]
        for text in texts:
            text.set_parse_math(False)
            text.set_fontfamily(families)
        _report_missing()
        with matplotlib.rc_context({"text.parse_math": False, "font.family": families}):
            super().draw(renderer)


def legible(text: str) -> str:
    """The text with what no installed font has, what isn't printable and bytes that aren't text as ``\\u732b``.

    Of long lines, and of many, the first part.
    """
    text = "\n".join(_cut(line) for line in text.split("\n", _MOST_LINES)[:_MOST_LINES])
    missing = {character for character in text if not _has_glyph(character)}
    _missing.update(missing - _reported)
    return "".join(_spelled(character) if character in missing else character for character in text)


def shortened(text: str, width: int) -> str:
    """One line of a text that is no wider than so many Latin characters, cut with an ellipsis if need be.

    Characters of Chinese, Japanese and Korean count as two.
    """
    text = text[:MOST_SHOWN].replace("\n", " ")
    return text if _width(text) <= width else _cut_to(text, width) + "…"


def _cut_to(text: str, width: int) -> str:
    """As many characters as leave room for an ellipsis."""
    return next(text[:end] for end in range(len(text), -1, -1) if _width(text[:end]) < width)


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


_missing: set[str] = set()
"""Characters that the next warning must name."""
_reported: set[str] = set()


def _report_missing() -> None:
    """Name what is missing, once."""
    fresh = sorted(_missing)
    _reported.update(fresh)
    _missing.clear()
    if fresh:
        shown = ", ".join(map(_spelled, fresh[:_SHOWN])) + (", …" if len(fresh) > _SHOWN else "")
        warn(f"ffdr: no installed font has {shown}: the picture names them by numbers")


def _is_usual(character: str) -> bool:
    return character == "\n" or ord(character) in _usual()


def _has_glyph(character: str) -> bool:
    if character != "\n" and not character.isprintable():
        return False
    return _is_usual(character) or bool(_families(frozenset(character)))


def _cut(line: str) -> str:
    return line if len(line) <= MOST_SHOWN else f"{line[: MOST_SHOWN - 1]}…"


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode()


@cache
def _usual() -> frozenset[int]:
    """Code points of the font that pictures have anyway."""
    return frozenset(FT2Font(findfont(FontProperties())).get_charmap())


@cache
def _families(characters: frozenset[str]) -> tuple[str, ...]:
    """Names of as few installed fonts as can be that have these characters, as far as there are any."""
    wanted, chosen = {ord(character) for character in characters}, []
    while wanted:
        best = max(_charmaps(), key=lambda name: len(wanted & _charmaps()[name]), default="")
        if not best or not wanted & _charmaps()[best]:
            break
        chosen.append(best)
        wanted -= _charmaps()[best]
    return tuple(chosen)


@cache
def _charmaps() -> dict[str, frozenset[int]]:
    """Code points of each installed upright font of normal weight, by its name."""
    found: dict[str, frozenset[int]] = {}
    for entry in sorted(fontManager.ttflist, key=lambda entry: (entry.name, entry.fname)):
        is_upright = entry.style == "normal" and entry.weight in (400, "normal", "regular")
        if is_upright and entry.name not in found and not entry.name.startswith(_PLACEHOLDERS):
            try:
                found[entry.name] = frozenset(FT2Font(entry.fname).get_charmap())
            except (OSError, RuntimeError):  # a font that was removed or is damaged offers nothing
                continue
    return found
