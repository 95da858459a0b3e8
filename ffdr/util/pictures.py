"""Figures that show any text as it is: no mathematics between dollars, glyphs from whatever installed font has them."""

from __future__ import annotations

from functools import cache
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from ffdr.util.text import MOST_SHOWN, warn

_PLACEHOLDERS = "Last Resort"
"""A font that has a box for every character there is."""
_MOST_LINES = 40
_SHOWN = 8
"""Characters that a message lists."""


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
        _tell()
        with matplotlib.rc_context({"text.parse_math": False, "font.family": families}):
            super().draw(renderer)


def legible(text: str) -> str:
    """The text with what no installed font has, what isn't printable and bytes that aren't text as ``\\u732b``.

    Of long lines, and of many, the first part.
    """
    text = "\n".join(_cut(line) for line in text.split("\n", _MOST_LINES)[:_MOST_LINES])
    missing = {character for character in text if not _has_glyph(character)}
    _missing.update(missing - _told)
    return "".join(_spelled(character) if character in missing else character for character in text)


_missing: set[str] = set()
"""Characters that the next picture must tell of."""
_told: set[str] = set()


def _tell() -> None:
    """Name what is missing, once."""
    fresh = sorted(_missing)
    _told.update(fresh)
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
