"""Generation: what is stored is what the policy draws and what the teacher says of exactly those pixels."""

import numpy as np
import pytest
import torch
from betons import MIXING, PLAIN

from ffdr import ReinforcedDataset
from ffdr.augment.draw import draw
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.errors import UserError
from ffdr.models import ModelInfo, build_model, save_model
from ffdr.options import ModelOptions, ReinforceOptions, TeacherOptions
from ffdr.reinforce import generate as generate_module
from ffdr.reinforce.generate import generate
from ffdr.reinforce.teacher import Teacher, topk

VIEWS, TOPK, SIDE = 3, 4, 32


@pytest.fixture(scope="module")
def teachers(folder):
    """Two untrained models, one of which wants 48 pixels."""
    specs = []
    for seed, side in ((0, SIDE), (1, 48)):
        torch.manual_seed(seed)
        path = folder / f"teacher{side}.safetensors"
        model = build_model(ModelOptions(name="test_efficientnet"), 10, side)
        save_model(path, model, ModelInfo("test_efficientnet", 10, side, (0.3,) * 3, (0.35,) * 3))
        specs.append(f"test_efficientnet:{path}")
    return TeacherOptions(models=",".join(specs), batch_size=16)


def options(images, out, **changes):
    plan = {"views": VIEWS, "topk": TOPK, "seed": 7, "workers": 1, **changes}
    return ReinforceOptions(images=str(images), out=str(out), **plan)


@pytest.mark.parametrize("policy", [PLAIN, MIXING], ids=["plain", "mixing"])
def test_stored_views_and_logits(digits, teachers, tmp_path, policy):
    out = generate(options(digits, tmp_path / "r.beton"), policy, teachers, progress=False)
    images, file = ImageBeton.open(digits), ReinforcedBeton.open(out)
    assert file.header.policy["mixup"] == policy.mixup
    names, digests = zip(*(name.split("@") for name in file.header.teachers), strict=True)
    assert names == ("test_efficientnet", "test_efficientnet")
    assert digests[0] != digests[1]
    teacher = Teacher.from_options(teachers, 10, "cpu")
    dataset = ReinforcedDataset(digits, out)
    for image in (0, 41, 99):
        drawn = [draw(policy, 7, k, image, images.original_sizes) for k in range(VIEWS)]
        stored = file.views(image)
        for k in range(VIEWS):
            record = drawn[k] if policy.mixes else drawn[k]["first"]
            assert stored[k].tobytes() == record.tobytes()
        pixels = {
            side: torch.stack([torch.from_numpy(dataset.view(image, k, side)[0]) for k in range(VIEWS)])
            for side in (SIDE, 48)
        }
        ids, log_probs = file.logits(image)
        expected_ids, expected_log_probs = topk(teacher.log_probs_at(pixels), TOPK)
        # Other batches of the same images may differ in a last bit.
        assert np.allclose(log_probs.astype(np.float32), expected_log_probs.astype(np.float32), atol=2e-3)
        assert (ids == expected_ids).mean() > 0.9


def test_threads_and_a_stopped_run_do_not_change_a_byte(digits, teachers, tmp_path, monkeypatch):
    whole = generate(options(digits, tmp_path / "whole.beton"), MIXING, teachers, progress=False).read_bytes()
    two = generate(options(digits, tmp_path / "two.beton", workers=2), MIXING, teachers, progress=False)
    assert two.read_bytes() == whole

    real = generate_module.ReinforcedWriter.put

    def failing(writer, *parts):
        if writer.done == 45:  # 16 // 3 = 5 images a chunk
            raise OSError("power cut")
        real(writer, *parts)

    monkeypatch.setattr(generate_module.ReinforcedWriter, "put", failing)
    with pytest.raises(OSError, match="power cut"):
        generate(options(digits, tmp_path / "cut.beton"), MIXING, teachers, progress=False)
    assert not (tmp_path / "cut.beton").exists()
    started = []
    monkeypatch.setattr(generate_module.ReinforcedWriter, "put", lambda w, *p: (started.append(w.done), real(w, *p)))
    cut = generate(options(digits, tmp_path / "cut.beton"), MIXING, teachers, progress=False)
    assert started[0] == 45
    assert cut.read_bytes() == whole


def test_more_entries_than_classes_are_cut(digits, teachers, tmp_path):
    out = generate(options(digits, tmp_path / "r.beton", topk=20, views=1), PLAIN, teachers, progress=False)
    assert ReinforcedBeton.open(out).header.topk == 10


def test_a_teacher_of_other_classes_is_refused(photos, digits, folder, tmp_path):
    path = folder / "seven.safetensors"
    model = build_model(ModelOptions(name="test_efficientnet"), 7, SIDE)
    save_model(path, model, ModelInfo("test_efficientnet", 7, SIDE, (0.3,) * 3, (0.35,) * 3))
    with pytest.raises(UserError, match="7 classes, but the data has 10"):
        generate(options(digits, tmp_path / "r.beton"), PLAIN, TeacherOptions(models=f"test_efficientnet:{path}"))
