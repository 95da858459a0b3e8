"""``train.drop_last=false``: the last images of an epoch, which fill no batch, are trained on by one rank or more."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from betons import student_recipe
from fakes import FakeLoader, options, trainer
from ranked import finish, launch
from safetensors.torch import load_file

import ffdr
from ffdr.config.learning import ModelOptions
from ffdr.train.build import build_trainer
from ffdr.train.dry_run.summary import KnownData, plan_work
from ffdr.train.plan import EpochPlan
from ffdr.train.run import run
from ffdr.train.signals import Stopped
from ffdr.train.student import Trial, build_student
from ffdr.train.update import step
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks

IMAGES = 13


def some(out, count=IMAGES):
    """A beton of a few noisy images in four classes."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    ffdr.write([(image, i % 4) for i, image in enumerate(pixels)], out=str(out), classes=list("abcd"), mode="raw")
    return out


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return some(tmp_path_factory.mktemp("tails") / "some.beton")


class Spied:
    """A loader that keeps what it gives."""

    def __init__(self, loader):
        self.loader, self.given = loader, []

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            self.given.append((self.loader.state_dict()["epoch"], *batch))
            yield batch


def plan(images, out, **changes):
    """A run of a model without batch statistics."""
    return student_recipe("erm", images, "", "", out, **{"name": "test_vit", "drop_last": False, **changes})


@pytest.mark.parametrize("batch_size", [4, 5, 13, 64])
def test_every_image_is_seen_once_per_epoch_and_counts_once(images, tmp_path, batch_size):
    built = build_trainer(plan(images, tmp_path / "run", batch_size=batch_size, lr=0.0), progress=False)
    built.loader = spied = Spied(built.loader)
    last = built.fit()
    assert last["step"] == 2 * -(-IMAGES // batch_size)
    seen = torch.cat([index for _, _, _, index in spied.given]).view(2, IMAGES)
    assert [sorted(epoch.tolist()) for epoch in seen] == [list(range(IMAGES))] * 2
    second = spied.given[len(spied.given) // 2 :]
    with torch.no_grad():
        losses = [F.cross_entropy(built.model(x), y.label, reduction="none") for _, x, y, _ in second]
    assert last["train_loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)


CHILD = """
import os, sys
sys.path[:0] = {paths!r}
import torch
import test_tails as tests
from ffdr.train.build import build_trainer
from ffdr.util.ranks import Ranks
torch.set_num_threads(1)
with Ranks.join() as ranks:
    for name, changes in tests.SETTINGS.items():
        recipe = tests.plan({images!r}, "{out}/" + str(ranks.size) + " " + name, **changes)
        build_trainer(recipe, False, ranks).fit()
"""

SETTINGS = {
    "one more": {"batch_size": 10},  # a tail of 3: 1 and 2 images
    "none": {"batch_size": 4},  # of 1: rank 0 has none
    "sizes": {"batch_size": 4, "resolutions": (48, 32, 64), "name": "test_convnext"},  # the same on both ranks
    "only": {"batch_size": 14, "accumulate": 3, "clip_grad": 0.5},  # of 13, no full batch: 6 and 7, in 3 parts
}


@pytest.fixture(scope="module")
def both(images, tmp_path_factory):
    """A folder with what one rank and two ranks make of ``SETTINGS``."""
    out = tmp_path_factory.mktemp("ranks")
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]
    code = CHILD.format(paths=paths, images=str(images), out=out)
    status, errors = finish(launch(2, ["-c", code]))
    assert status == [0, 0], errors
    for name, changes in SETTINGS.items():
        run(plan(images, out / f"1 {name}", **changes), progress=False)
    return out


@pytest.mark.parametrize("name", SETTINGS)
def test_two_ranks_train_as_one_does(both, name):
    logs = [[json.loads(line) for line in (both / f"{n} {name}" / "log.jsonl").open()] for n in (1, 2)]
    for mine, theirs in zip(*logs, strict=True):
        assert mine["step"] == theirs["step"]
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
    one, two = (load_file(both / f"{n} {name}" / "model.safetensors") for n in (1, 2))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=2e-6, rtol=1e-4)


def test_the_loader_and_the_trainer_share_a_tail_alike(images):
    for batch_size in (4, 10, 14):
        for ranks in (1, 2):
            planned = EpochPlan(IMAGES, batch_size, drop_last=False)
            last = []
            for rank in range(ranks):
                loader = ffdr.ReinforcedLoader(
                    images, batch_size=batch_size // ranks, resolution=32, policy=ffdr.Policy(), drop_last=False,
                    rank=rank, world_size=ranks,
                )  # fmt: skip
                shown = [len(index) for _, _, index in loader]
                last.append(shown[planned.steps - 1] if len(shown) == planned.steps else 0)
            assert planned.tail_parts(ranks) == last
            assert planned.shown == IMAGES and planned.tail == IMAGES % batch_size


@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_stopped_run_ends_with_the_same_weights(images, tmp_path, at):
    """Before the tail, in the tail, and in the next epoch's first step."""
    run(plan(images, tmp_path / "whole", batch_size=5), progress=False)
    stopped = build_trainer(plan(images, tmp_path / "run", batch_size=5), progress=False)
    learn = stopped._train_batch

    def train_batch(*batch):
        learn(*batch)
        if stopped.step.count == at:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped._train_batch = train_batch
    with pytest.raises(Stopped):
        stopped.fit()
    run(plan(images, tmp_path / "run", batch_size=5), progress=False)
    ends = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert ends[0] == ends[1]


def test_a_tail_has_no_graph(graphs, tmp_path):
    run = trainer(tmp_path, FakeLoader(n=40), model=ModelOptions("test_vit"), drop_last=False, compile="default")
    run.fit()
    assert run.step.count == 3 * 3 and graphs() == 1


@pytest.mark.parametrize(
    ("images", "given", "ranks", "refused"),
    [
        (33, {}, Ranks(), "the last 1 images of an epoch in 1 parts"),
        (36, {"accumulate": 3}, Ranks(), None),  # 2 and 2
        (35, {"accumulate": 2}, Ranks(), "the last 3 images of an epoch in 2 parts"),  # 2 and 1
        (35, {}, Ranks(0, 2), "the last 3 images of an epoch on 2 ranks in 1 parts"),  # 1 and 2
        (36, {}, Ranks(0, 2), None),
        (1, {}, Ranks(), "the last 1 images"),
        (34, {"drop_last": True, "batch_size": 11}, Ranks(), None),
    ],
)
def test_one_image_for_batch_norm_is_refused_before_the_start(images, given, ranks, refused):
    """test_resnet's last maps have one value of a 32 px image."""
    given = options("run", **{"drop_last": False, **given})
    trial = Trial(given, build_student(given, ModelOptions("test_resnet"), 4, torch.device("cpu")), None)
    if refused is None:
        trial.batch_norm(ranks, EpochPlan.of(given, images))
        return
    with pytest.raises(
        UserError, match=rf"^train\.drop_last, train\.accumulate: {refused} .*batch norm, which needs 2"
    ):
        trial.batch_norm(ranks, EpochPlan.of(given, images))


def test_ranks_that_can_not_share_statistics_are_refused():
    """Whoever has more parts than another rank would wait for it."""
    given = options("run", drop_last=False)
    student = build_student(given, ModelOptions("test_resnet"), 4, torch.device("cpu"))
    trial = Trial(given, student, None)
    trial.model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.SyncBatchNorm(4))
    trial.batch_norm(Ranks(0, 2), EpochPlan.of(given, 34))  # 1 and 1: shared, they are two
    with pytest.raises(UserError, match=r"different numbers of parts, so that train\.sync_batchnorm can't share"):
        trial.batch_norm(Ranks(0, 2), EpochPlan.of(given, 33))


def test_a_dry_run_counts_the_tail(images):
    recipe = plan(images, "run", batch_size=5)
    assert plan_work(recipe, KnownData(IMAGES, 4, "")).steps == 6
    assert plan_work(plan(images, "run", batch_size=64), KnownData(IMAGES, 4, "")).images == 2 * IMAGES
    with pytest.raises(UserError, match="do not fill one batch"):
        plan_work(plan(images, "run", batch_size=64, drop_last=True), KnownData(IMAGES, 4, ""))


def test_parts_of_nothing():
    assert step.parts(0, 3) == [] and len(step.parts(1, 3)) == 1
