"""What README and the pages of docs/ show is what the program does."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from skimage import data

import ffdr
from ffdr import cli
from ffdr.config import recipe
from ffdr.loader.loader import ReinforcedLoader

ROOT = Path(__file__).parent.parent
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
SMALL = {
    "=resnet50:": "=test_efficientnet:", "=resnet50": "=test_efficientnet", "mobilenetv3_large_100": "test_convnext",
    "--model.pretrained=true": "", "=224": "=64", "=20 ": "=1 ", "=60 ": "=1 ", "--views=100": "--views=3",
    "--topk=10": "--topk=2",
}  # fmt: skip
"""What stands in the tutorial → what takes seconds instead of hours."""


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands(text):
    """The command lines of ffdr in a page, comments left out."""
    lines = "".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if re.match(r"ffdr |torchrun .* -m ffdr ", line)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tutorial")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for name, photo in (("cat", data.cat()), ("coffee", data.coffee())):
            place = folder / "pictures" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                y, x = (rng.integers(0, side - 90) for side in photo.shape[:2])
                Image.fromarray(photo[y : y + 90, x : x + 90]).save(place / f"{i}.jpg", quality=90)
    return folder


def test_the_tutorial_runs_as_it_stands(pictures, monkeypatch, capsys):
    monkeypatch.chdir(pictures)
    (made,) = blocks(TUTORIAL, "yaml")
    Path("student.yaml").write_text(made, encoding="utf-8")
    text = TUTORIAL
    for there, here in SMALL.items():
        assert there in text
        text = text.replace(there, here)
    lines = commands(text)
    assert [line[1] for line in lines] == [
        "write",
        "write",
        "train",
        "reinforce",
        "train",
        "eval",
        *["export-model"] * 2,
    ]
    for line in lines:
        assert cli.main([*line[1:], *(["--batch_size=8"] if line[1] == "train" else [])]) == 0, line
    assert Path("report.json").is_file() and Path("reliability.png").is_file()
    assert (
        cli.main(["train", "--config-file", "student.yaml", "--train.out=runs/s", "--batch_size=8", "--dry-run"]) == 0
    )
    assert "mobilenetv3_large_100" in capsys.readouterr().out
    # The loop in Python, on the files that were made.
    loader = ReinforcedLoader("train.beton", "train+.beton", batch_size=8, resolution=64)
    loss_fn = ffdr.SparseTargetLoss(num_classes=loader.num_classes)
    losses = [loss_fn(torch.zeros(len(images), 2), targets) for images, targets, _ in loader]
    assert len(losses) == 3 and all(map(torch.isfinite, losses))


@pytest.mark.parametrize("page", ["README.md", "docs/how-it-works.md"])
def test_the_flags_that_pages_show_exist(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = commands((ROOT / page).read_text(encoding="utf-8"))
    assert len(lines) >= 4
    for line in lines:
        words = line[line.index("ffdr") + 1 :]
        recipe.parse(words[0], words[1:])  # raises for what no option is


def test_readme_says_how_to_install_and_how_to_test():
    shell = "".join(blocks((ROOT / "README.md").read_text(encoding="utf-8"), "bash")).splitlines()
    commands = [line.partition("#")[0].strip() for line in shell]
    assert commands[0] == "./run.sh" and "./run.sh test" in commands
    assert "./run.sh test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_pages_name_recipes_that_exist():
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "rcfg" / "README.md"):
        for name in re.findall(r"\brcfg/[\w/.+-]*\.yaml", page.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), (page, name)


def test_the_site_names_pages_that_exist():
    nav = re.search(r"^nav:\n((?: .*\n)+)", (ROOT / ".ci" / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    pages = re.findall(r"[\w/-]+\.md", yaml.dump(yaml.safe_load("nav:\n" + nav[1])))
    assert len(pages) > 8
    assert [page for page in pages if not (ROOT / page).is_file()] == []
