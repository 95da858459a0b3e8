"""``train.views_per_image``: runs that are stopped and go on, refusals, what a dry run says."""

import os
import signal

import pytest
from betons import VIEWS, student_recipe

from ffdr.config import recipe
from ffdr.config.training import TrainOptions
from ffdr.train.build import build_trainer
from ffdr.train.dry_run import estimate
from ffdr.train.dry_run.estimate import _time_reading
from ffdr.train.dry_run.summary import KnownData, _describe_reads, find_data
from ffdr.train.run import run
from ffdr.train.signals import Stopped
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks


def plan(task, images, reinforced, teacher, out, **changes):
    """Two epochs of ten batches, of five images each."""
    return student_recipe(task, images, reinforced, teacher, out, **{"batch_size": 10, "views_per_image": 2, **changes})


@pytest.mark.parametrize(("task", "at"), [("dr", 4), ("dr", 13), ("kd", 7), ("erm", 10)])
def test_a_stopped_run_ends_with_the_same_weights(digits, reinforced_digits, teacher, tmp_path, task, at):
    files = digits, reinforced_digits, teacher
    run(plan(task, *files, tmp_path / "whole"), progress=False)
    stopped = build_trainer(plan(task, *files, tmp_path / "run"), progress=False)
    learn = stopped._train_batch

    def train_batch(*batch):
        learn(*batch)
        if stopped.step.count == at:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped._train_batch = train_batch
    with pytest.raises(Stopped):
        stopped.fit()
    with pytest.raises(UserError, match=r"with train\.views_per_image=2, but this run has train\.views_per_image=1;"):
        run(plan(task, *files, tmp_path / "run", views_per_image=1), progress=False)
    assert run(plan(task, *files, tmp_path / "run"), progress=False)["step"] == 20
    ends = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert ends[0] == ends[1]


def test_a_run_that_does_not_name_an_option_has_its_default(digits, tmp_path):
    """As those of versions without the option do."""
    run(plan("erm", digits, "", "", tmp_path, views_per_image=1), progress=False)
    with pytest.raises(UserError, match=r"with train\.views_per_image=1, but this run has train\.views_per_image=2;"):
        run(plan("erm", digits, "", "", tmp_path), progress=False)


def test_one_view_per_image_is_another_run(digits, reinforced_digits, tmp_path):
    """And the same as before there was the option."""
    plain = plan("dr", digits, reinforced_digits, "", tmp_path, views_per_image=1)
    assert "views_per_image" not in plain.train.identity()
    assert plan("dr", digits, reinforced_digits, "", tmp_path).train.identity()["views_per_image"] == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"views_per_image": 0}, r"^train\.views_per_image: 0 "),
        ({"views_per_image": 3}, r"^train\.batch_size: 256 is no multiple of train\.views_per_image=3$"),
        ({"views_per_image": 2, "drop_last": False}, r"^train\.drop_last: with train\.views_per_image above 1"),
        (
            {"views_per_image": 16, "epochs": 15},
            r"^train\.views_per_image: 16 epochs show every image, but .*epochs=15$",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        TrainOptions(out="x", **given)


def test_a_batch_shows_no_stored_view_twice(digits, reinforced_digits, tmp_path):
    asked = plan("dr", digits, reinforced_digits, "", tmp_path / "run", views_per_image=5, epochs=5)
    for refuse in (build_trainer, lambda given: find_data(given.train, given.data, given.policy)):
        with pytest.raises(UserError, match=rf"^train\.views_per_image: 5, but .* has {VIEWS} views per image, and"):
            refuse(asked)
    build_trainer(plan("erm", digits, "", "", tmp_path / "run", views_per_image=5, epochs=5), progress=False)


def test_a_rank_has_all_views_of_its_images(digits, tmp_path):
    ranks = Ranks(rank=0, size=2)
    with pytest.raises(UserError, match=r"^train\.batch_size: 5 on each of 2 ranks is no multiple of .*per_image=2$"):
        build_trainer(plan("erm", digits, "", "", tmp_path), ranks=ranks)


def test_a_dry_run_reads_fewer_images(digits, reinforced_digits, tmp_path, monkeypatch):
    data = KnownData(100, 10, "", image_bytes=3000)
    assert _describe_reads(data, 1) == "3,000 bytes of images per epoch"
    assert _describe_reads(data, 3) == "1,000 bytes of images per epoch"
    monkeypatch.setattr(estimate, "_READ", 16)  # which is no multiple
    asked = plan("dr", digits, reinforced_digits, "", tmp_path, views_per_image=3, batch_size=30, epochs=3)
    monkeypatch.setattr(estimate, "_SECONDS", 0.01)
    seconds, images = _time_reading(asked, build_trainer(asked, progress=False).device)
    assert seconds > 0 and images == 0


def test_it_is_a_flag(digits):
    flags = ["--train.out=x", f"--data.train={digits}", "--train.views_per_image=4", "--model.name=resnet50"]
    assert recipe.parse("train", flags).train.views_per_image == 4
