"""What holds for every script of docs/examples: it is listed there, short, and has a test of its own."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from examples import EXAMPLES

SCRIPTS = sorted(EXAMPLES.glob("*.py"))
MOST_LINES = 80


def test_the_map_lists_the_examples_and_no_others():
    listed = re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == [script.name for script in SCRIPTS]
    assert listed


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example(script):
    """Has a test, is short, says how it is run, and its name hides no library from the scripts beside it."""
    assert (Path(__file__).parent / f"test_example_{script.stem}.py").is_file()
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring and f"python docs/examples/{script.name}" in docstring
    assert find_spec(script.stem) is None


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_flags_of_an_examples_docstring_exist(script):
    shown = set(re.findall(r"--[\w-]+", ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))))
    defined = set(re.findall(r'"(--[\w-]+)"', script.read_text(encoding="utf-8")))
    assert shown <= defined | {"--help"}
