"""CONTRIBUTING lists the files between ``ffdr train`` and a batch: few, and with the calls that it names."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def walk():
    """(file, names in its line) in order."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## From `ffdr train` to a batch\n")[1].split("\n## ")[0]
    steps = re.findall(r"^\d+\. `(ffdr/[\w/]+\.py)`: (.*)$", section, re.MULTILINE)
    return [(file, re.findall(r"`([\w.]+)`", rest)) for file, rest in steps]


def test_ten_files_lead_from_the_command_to_a_batch():
    steps = walk()
    assert 5 < len(steps) <= 10 and len(dict(steps)) == len(steps)
    for file, names in steps:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert names, file
        for name in names:
            assert re.search(rf"\b{re.escape(name)}\b", source) or re.search(
                rf"\bclass {name.split('.')[0]}\b[\s\S]*\bdef {name.split('.')[-1]}\b", source
            ), (file, name)
