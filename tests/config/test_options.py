"""Ranges and choices that stand in the types of options, and the help that stands below them."""

import re
from dataclasses import dataclass, fields
from typing import Annotated, get_args, get_type_hints

import pytest

from ffdr.config.help import help_text
from ffdr.config.options import Between, OneOf, Options
from ffdr.config.verbs import RECIPES, sections
from ffdr.util.errors import UserError


@dataclass(frozen=True)
class Some(Options, section="some"):
    count: Annotated[int, Between(1, 3)] = 1
    sizes: tuple[Annotated[int, Between(0, 9)], ...] = ()
    word: Annotated[str, OneOf(("a", "b"))] = "a"
    switch: Annotated[str, OneOf(("auto", "on", "off"), is_switch=True, or_empty=True)] = ""
    file: str = ""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "some.count: 0 is not between 1 and 3"),
        ({"count": 4}, "some.count: 4 is not between 1 and 3"),
        ({"sizes": (3, 10)}, "some.sizes: 10 is not between 0 and 9"),
        ({"word": "c"}, "some.word: 'c' is not one of a, b"),
        ({"word": ""}, "some.word: '' is not one of a, b"),
        ({"switch": "auot"}, "some.switch: 'auot' is not one of auto, on, off (did you mean auto?)"),
    ],
)
def test_a_value_that_its_type_does_not_allow_is_refused(values, message):
    with pytest.raises(UserError) as caught:
        Some(**values)
    assert str(caught.value) == message


def test_values_that_their_types_allow():
    assert [Some(switch=word).switch for word in ("", "auto", "Yes", "false")] == ["", "auto", "on", "off"]
    assert Some(3, (0, 9), "b") == Some(count=3, sizes=(0, 9), word="b")
    with pytest.raises(UserError, match=r"^some\.file: give the path of a file$"):
        Some().need("file")


def test_every_section_knows_its_name():
    for verb in RECIPES:
        for name, options in sections(verb).items():
            assert getattr(options, "section", "policy") == name


def words_of(options):
    """Option → the words that it chooses among."""
    for name, kind in get_type_hints(options, include_extras=True).items():
        kind = get_args(kind)[0] if getattr(kind, "__origin__", None) is tuple else kind
        for check in getattr(kind, "__metadata__", ()):
            if isinstance(check, OneOf):
                yield name, check.allowed


@pytest.mark.parametrize("verb", RECIPES)
def test_help_has_every_option_with_a_text_that_names_its_choices(verb):
    text = help_text(verb)
    for section, options in sections(verb).items():
        choices = dict(words_of(options))
        for field in fields(options):
            said = re.search(rf"^  --{section}\.{field.name}\n((?:      .*\n?)+)", text, re.MULTILINE)
            assert said, f"{section}.{field.name} has no text"
            for word in choices.get(field.name, ()):
                if f"{section}.{field.name}" != "bench.compile":  # which says: as train.compile
                    assert word in said[1], f"{section}.{field.name} does not say {word}"
