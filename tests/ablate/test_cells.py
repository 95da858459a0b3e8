"""Folders of cells: which recipes share one, and which files count."""

from dataclasses import replace

import pytest
import timm
from timm.models import save_for_hf

from ffdr.ablate import cell
from ffdr.ablate.cell import make_job
from ffdr.config import recipe

EARLIER = {
    "3cb1080cb9957543": {},
    "1e122d76ad161a99": {"task": "kd", "teacher": {"models": "resnet18:x.pt,resnet50"}},
    "e0bc81036a5486c7": {"model": {"name": "resnet18", "options": ("zero_init_last=false",), "checkpoint": "a.pt"}},
}
"""Folders of cells as ffdr named them before teachers had options, and teachers and models modules."""


@pytest.mark.parametrize("digest", EARLIER)
def test_cells_of_earlier_studies_are_found_again(digest, monkeypatch):
    monkeypatch.setattr("ffdr.ablate.cell._contents", lambda _: {})
    given = {"model": {"name": "resnet50"}, **EARLIER[digest]}
    found = recipe.from_call(
        "train", "", {"epochs": 3, "out": "x", "data": {"train": "a.beton", "val": "b.beton"}, **given}
    )
    assert make_job(found, "w", "", False).folder.name == digest


def test_other_options_and_modules_are_other_cells(monkeypatch):
    monkeypatch.setattr("ffdr.ablate.cell._contents", lambda _: {})
    sections = {"data": {"train": "a", "val": "b"}, "model": {"name": "resnet50"}, "teacher": {"models": "m"}}
    base = recipe.from_call("train", "", {"task": "kd", "out": "x", **sections})
    teacher, model = base.teacher, base.model
    recipes = [
        base,
        replace(base, teacher=replace(teacher, options=("0:drop_rate=0.1",))),
        replace(base, teacher=replace(teacher, module=("a",))),
        replace(base, model=replace(model, module=("a",))),
    ]
    assert len({make_job(each, "w", "", False).folder for each in recipes}) == 4


def test_a_folder_of_another_model_makes_other_cells(digits, tmp_path):
    """Its description and its weights count, as those of a checkpoint do."""
    save_for_hf(timm.create_model("test_resnet", num_classes=10), tmp_path / "m", safe_serialization=False)
    data = {"train": str(digits), "val": str(digits)}
    found = recipe.from_call("train", "", {"out": "x", "data": data, "model": {"name": f"local-dir:{tmp_path / 'm'}"}})

    def digest():
        cell._bytes.cache_clear()  # files don't change while a study is prepared
        return make_job(found, "w", "", False).folder.name

    digests = [digest(), digest()]
    for file in ("config.json", "pytorch_model.bin"):
        (tmp_path / "m" / file).write_bytes((tmp_path / "m" / file).read_bytes() + b" ")
        digests.append(digest())
    assert digests[0] == digests[1] and len(set(digests)) == 3
