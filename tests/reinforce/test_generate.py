"""Generation: what is stored is what the policy draws and what the teacher says of exactly those pixels."""

import resource

import numpy as np
import pytest
import torch
from betons import MIXING, PLAIN, files_in

from ffdr import ReinforcedDataset
from ffdr.augment.draw import draw
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.learning import ModelOptions, ReinforceOptions, TeacherOptions
from ffdr.models.build import ModelInfo, build_model, save_model
from ffdr.reinforce import collect
from ffdr.reinforce.generate import generate
from ffdr.reinforce.shards import ShardFolder
from ffdr.reinforce.teacher import Teacher
from ffdr.reinforce.topk import topk
from ffdr.util.errors import UserError, WriteError

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


def stop_after(monkeypatch, shards):
    """Interrupt a run once it has finished so many shards, none of which it has put into the file."""
    real, finished = ShardFolder.write, []

    def write(folder, labelled):
        real(folder, labelled)
        finished.append(labelled.first)
        if len(finished) == shards:
            raise KeyboardInterrupt

    monkeypatch.setattr(collect, "_COLLECT_EVERY", 1e9)
    monkeypatch.setattr(ShardFolder, "write", write)
    return finished


def watch_shards(monkeypatch):
    """First images of the shards that are made from now on."""
    real, made = ShardFolder.write, []
    monkeypatch.setattr(
        ShardFolder, "write", lambda self, labelled: (made.append(labelled.first), real(self, labelled))
    )
    return made


def test_threads_do_not_change_a_byte(digits, teachers, tmp_path):
    one, two = (
        generate(options(digits, tmp_path / f"{n}.beton", workers=n), MIXING, teachers, progress=False) for n in (1, 2)
    )
    assert one.read_bytes() == two.read_bytes()


def test_finished_shards_are_not_made_again(digits, teachers, tmp_path, monkeypatch):
    whole = generate(options(digits, tmp_path / "whole.beton"), MIXING, teachers, progress=False).read_bytes()
    plan, folder = options(digits, tmp_path / "x.beton"), tmp_path / "x.beton.shards"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_after(patched, 7)
        generate(plan, MIXING, teachers, progress=False)
    assert len(list(folder.glob("*.shard"))) == 7 and not (tmp_path / "x.beton").exists()
    damaged = sorted(folder.iterdir())[2]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    made = watch_shards(monkeypatch)
    assert generate(plan, MIXING, teachers, progress=False).read_bytes() == whole
    assert made == [10, *range(35, 100, 5)]  # 16 // 3 = 5 images per shard
    assert files_in(tmp_path) == ["whole.beton", "x.beton"]


def test_shards_of_other_options_are_not_used(digits, teachers, tmp_path, monkeypatch):
    whole = generate(options(digits, tmp_path / "whole.beton"), MIXING, teachers, progress=False).read_bytes()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_after(patched, 7)
        generate(options(digits, tmp_path / "x.beton", seed=8), MIXING, teachers, progress=False)
    assert generate(options(digits, tmp_path / "x.beton"), MIXING, teachers, progress=False).read_bytes() == whole


@pytest.mark.parametrize("room", [300, 8000], ids=["shard", "file"])
def test_a_full_disk_loses_nothing_finished(digits, teachers, tmp_path, monkeypatch, room):
    """Whether the shard itself or the file that it goes to finds no room."""
    whole = generate(options(digits, tmp_path / "whole.beton"), PLAIN, teachers, progress=False).read_bytes()
    plan, limits = options(digits, tmp_path / "x.beton"), resource.getrlimit(resource.RLIMIT_FSIZE)
    real, made = ShardFolder.write, []

    def write(folder, labelled):
        if len(made) == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        real(folder, labelled)
        made.append(labelled.first)

    monkeypatch.setattr(collect, "_COLLECT_EVERY", 0)
    try:
        with monkeypatch.context() as patched, pytest.raises(WriteError, match=r"can't be written: File too large$"):
            patched.setattr(ShardFolder, "write", write)
            generate(plan, PLAIN, teachers, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "x.beton").exists()
    again = watch_shards(monkeypatch)
    assert generate(plan, PLAIN, teachers, progress=False).read_bytes() == whole
    assert made == list(range(0, 5 * len(made), 5)) and again == list(range(made[-1] + 5, 100, 5))


def test_views_of_one_image_may_fill_several_batches(digits, teachers, tmp_path):
    """20 views an image reach a teacher of batch 16 as 16 and 4."""
    seen = []
    whole = Teacher.log_probs_at
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Teacher, "log_probs_at", lambda self, x: (seen.append(len(x[SIDE])), whole(self, x))[1])
        out = generate(options(digits, tmp_path / "r.beton", views=20), PLAIN, teachers, progress=False)
    assert seen == [16, 4] * 100
    dataset, (ids, log_probs) = ReinforcedDataset(digits, out), ReinforcedBeton.open(out).logits(77)
    sides = {s: torch.stack([torch.from_numpy(dataset.view(77, k, s)[0]) for k in range(20)]) for s in (SIDE, 48)}
    expected_ids, expected = topk(Teacher.from_options(teachers, 10, "cpu").log_probs_at(sides), TOPK)
    assert np.allclose(log_probs.astype(np.float32), expected.astype(np.float32), atol=2e-3)
    assert (ids == expected_ids).mean() > 0.9


def test_fidelity_is_printed_at_the_end(digits, teachers, tmp_path, capsys):
    out = generate(options(digits, tmp_path / "r.beton"), PLAIN, teachers)
    printed = capsys.readouterr().out
    assert "storage fidelity, 100 views" in printed
    assert printed.splitlines()[-1].startswith(f"{out}: 3 views of each of 100 images, ")


@pytest.mark.parametrize("dry_run", [False, True])
def test_other_work_is_refused_before_the_teacher_is_loaded(digits, photos, teachers, tmp_path, monkeypatch, dry_run):
    out = tmp_path / "r.beton"
    generate(options(digits, out), PLAIN, teachers, progress=False)
    before = out.stat().st_mtime_ns

    def load(*_):
        raise AssertionError

    monkeypatch.setattr(Teacher, "from_options", load)
    single = TeacherOptions(models=teachers.models[0], batch_size=16)
    for changes, policy, teacher, difference in (
        ({"seed": 8}, PLAIN, teachers, "made with seed=7, not 8"),
        ({"views": 9}, PLAIN, teachers, "made with views=3, not 9"),
        ({"topk": 5}, PLAIN, teachers, "made with topk=4, not 5"),
        ({"resolution": 64}, PLAIN, teachers, "made with resolution=0, not 64"),
        ({}, MIXING, teachers, "made with policy.mixup=0.0, not 0.5"),
        ({}, PLAIN, single, "made with teacher.models=test_efficientnet,test_efficientnet, not test_efficientnet"),
    ):
        with pytest.raises(UserError, match=rf"r\.beton: exists, {difference}; --overwrite replaces it$"):
            generate(options(digits, out, dry_run=dry_run, **changes), policy, teacher, progress=False)
    with pytest.raises(UserError, match="exists, made from other contents of --images; --overwrite"):
        generate(options(photos, out, dry_run=dry_run), PLAIN, teachers, progress=False)
    assert out.stat().st_mtime_ns == before


def test_another_teacher_is_other_work(digits, teachers, tmp_path, capsys):
    """The weights tell, not the names."""
    out = tmp_path / "r.beton"
    first, second = teachers.models
    generate(options(digits, out, resolution=SIDE), PLAIN, TeacherOptions(models=first), progress=False)
    generate(options(digits, out, resolution=SIDE, dry_run=True), PLAIN, TeacherOptions(models=first))
    assert f"{out}: already complete (" in capsys.readouterr().out
    for other, difference in (
        (TeacherOptions(models=second), "teacher.weights=test_efficientnet@"),
        (TeacherOptions(models=first, batch_size=32), "teacher.batch_size=256, not 32"),
        (TeacherOptions(models=first, precision="bfloat16"), "other settings or versions"),
    ):
        with pytest.raises(UserError, match=f"r.beton: exists, made with {difference}"):
            generate(options(digits, out, resolution=SIDE), PLAIN, other, progress=False)


def test_more_entries_than_classes_are_cut(digits, teachers, tmp_path):
    out = generate(options(digits, tmp_path / "r.beton", topk=20, views=1), PLAIN, teachers, progress=False)
    assert ReinforcedBeton.open(out).header.topk == 10


def test_a_teacher_of_other_classes_is_refused(photos, digits, folder, tmp_path):
    path = folder / "seven.safetensors"
    model = build_model(ModelOptions(name="test_efficientnet"), 7, SIDE)
    save_model(path, model, ModelInfo("test_efficientnet", 7, SIDE, (0.3,) * 3, (0.35,) * 3))
    with pytest.raises(UserError, match="7 classes, but the data has 10"):
        generate(options(digits, tmp_path / "r.beton"), PLAIN, TeacherOptions(models=f"test_efficientnet:{path}"))
