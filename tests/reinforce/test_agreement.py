"""Agreement with the labels: what the lines say, who is warned of and who is not; reinforce and KD say so."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from betons import MIXING, student_recipe
from torch import nn

from ffdr.augment.policy import Policy
from ffdr.augment.view import FRACTION, MIX_DTYPE
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.learning import ReinforceOptions, TeacherOptions
from ffdr.reinforce import plan as plan_module
from ffdr.reinforce.agreement import Predictions, table, warn
from ffdr.reinforce.generate import generate
from ffdr.reinforce.sampling import ViewSampler
from ffdr.reinforce.teacher import Member, Teacher
from ffdr.train import build
from ffdr.train.build import build_trainer
from ffdr.train.run import run
from ffdr.util.errors import UserError

VIEWS, CLASSES = 256, 10


def says(guesses, sure=0.9, classes=CLASSES):
    """(B, C) log-probabilities of a teacher that is so sure of its guesses."""
    probs = torch.full((len(guesses), classes), (1 - sure) / (classes - 1))
    probs[torch.arange(len(guesses)), torch.from_numpy(guesses)] = sure
    return probs.log()


def predicted(*shares, views=VIEWS, classes=CLASSES, sure=0.9, seed=0):
    """Teachers that are right on such shares of the views and elsewhere say another class; each errs by itself."""
    rng = np.random.default_rng(seed)
    labels = np.arange(views) % classes
    logs = []
    for share in shares:
        wrong = rng.permutation(views) >= round(share * views)
        logs.append(says(np.where(wrong, (labels + rng.integers(1, classes, views)) % classes, labels), sure, classes))
    return Predictions(tuple(f"t{number}" for number in range(len(shares))), torch.stack(logs), labels)


def warned(capsys, *shares, **settings):
    """Numbers of the teachers that lines on standard error are about, by what they say."""
    warn(predicted(*shares, **settings))
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("teacher.models: t") for line in lines)
    return {
        int(line[len("teacher.models: t")]): "drags" if "drags the ensemble" in line else "chance" for line in lines
    }


def test_a_line_for_each_teacher_and_one_for_all():
    lines = table(predicted(0.75, 0.5)).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["t0", "t1", "together"]
    assert "75.0%" in lines[1] and "50.0%" in lines[2] and f"{VIEWS} views" in lines[0]
    entropy = -0.9 * math.log(0.9) - 0.1 * math.log(0.1 / 9)
    assert float(lines[1].split()[-1]) == pytest.approx(entropy, abs=1e-3)
    assert float(lines[3].split()[-1]) > entropy
    assert len(table(predicted(0.75)).splitlines()) == 2


def test_another_class_order_is_warned_of(capsys):
    assert warned(capsys, 0.1) == warned(capsys, 0.02) == warned(capsys, 0.0) == {0: "chance"}
    assert warned(capsys, 0.9, 0.05) == {1: "chance"}
    assert warned(capsys, 0.002, classes=1000) == {0: "chance"}
    assert warned(capsys, 0.5, classes=2) == {0: "chance"}
    warn(predicted(0.1))
    assert "t0 agrees with the labels on 10.2% of 256 views, where chance gives 10" in capsys.readouterr().err


def test_a_weak_teacher_is_not_taken_for_a_wrong_one(capsys):
    assert warned(capsys, 0.3) == warned(capsys, 0.1, classes=1000) == warned(capsys, 0.7, classes=2) == {}


def test_few_views_and_one_class_tell_nothing(capsys):
    assert warned(capsys, 0.0, views=31) == {}
    labels = np.zeros(VIEWS, np.int64)
    warn(Predictions(("t0",), says(labels)[None], labels))
    assert capsys.readouterr().err == ""


def test_a_teacher_that_drags_the_others_is_warned_of(capsys):
    assert warned(capsys, 0.9, 0.88, 0.5) == {2: "drags"}
    assert warned(capsys, 0.9, 0.6) == {1: "drags"}
    assert warned(capsys, 0.9, 0.9, 0.85) == warned(capsys, 0.5, 0.45) == {}
    assert warned(capsys, 0.5, 0.36, views=40) == {}  # far below, but on so few views that may be chance
    sure = predicted(0.9, 0.75)
    sure.log_probs[0], sure.log_probs[1] = says(sure.guesses[0], 0.5), says(sure.guesses[1], 0.99)
    warn(sure)  # not far below, but it has the last word wherever it errs
    assert "t1 drags the ensemble: it agrees with the labels on 75.0% of 256 views, all" in capsys.readouterr().err


def test_a_mixed_view_counts_for_the_image_with_the_larger_share(digits):
    images = ImageBeton.open(digits)
    mixes = np.zeros(4, MIX_DTYPE)
    mixes["partner"], mixes["mixup"] = 99, [FRACTION, 40000, 20000, 40000]
    mixes["cut_w"], mixes["cut_h"] = [0, 0, 0, FRACTION], [0, 0, 0, FRACTION // 2]
    sampler = ViewSampler(images, MIXING, 0, (32,), 1)
    first, second = images.labels[3], images.labels[99]
    assert sampler.labels(np.full(4, 3), mixes).tolist() == [first, first, second, second]


class Knows(nn.Module):
    """Tells digits apart by the images themselves: it was shown all of them, and says them in its own order."""

    def __init__(self, images, order):
        super().__init__()
        shown = torch.stack([torch.from_numpy(np.array(images.data(i))).reshape(32, 32, 3) for i in range(len(images))])
        self.shown = nn.Parameter(shown.permute(0, 3, 1, 2).float().flatten(1) / 255)
        self.register_buffer("labels", torch.tensor(np.array(order))[torch.from_numpy(np.array(images.labels))])

    def forward(self, x):
        nearest = torch.cdist(x.flatten(1), self.shown).argmin(1)
        return 8.0 * nn.functional.one_hot(self.labels[nearest], 10).float()


@pytest.fixture
def knowing(digits, monkeypatch):
    """Function that puts a teacher of such class orders in the place of what the options name."""

    def put(*orders):
        images = ImageBeton.open(digits)
        members = [
            Member(f"knows{number}", Knows(images, order), 32, (0.0,) * 3, (1.0,) * 3)
            for number, order in enumerate(orders)
        ]
        monkeypatch.setattr(Teacher, "from_options", lambda *_, **__: Teacher(members, 10, "cpu"))
        monkeypatch.setattr(plan_module, "parse_models", lambda _: [])

    return put


RIGHT, WRONG = list(range(10)), [*range(1, 10), 0]
WHOLE = Policy(crop="whole", flip=0, randaugment=0, erase=0)


def test_reinforce_ends_with_the_agreement_of_each_teacher(digits, knowing, tmp_path, capsys):
    knowing(RIGHT, WRONG)
    options = ReinforceOptions(images=str(digits), out=str(tmp_path / "r.beton"), views=1, topk=3, workers=1)
    generate(options, WHOLE, TeacherOptions())
    said = capsys.readouterr()
    lines = {line.split()[0]: line for line in said.out.splitlines()}
    assert "100.0%" in lines["knows0"] and " 0.0%" in lines["knows1"] and "together" in lines
    assert "teacher.models: knows1 agrees with the labels on 0.0% of 100 views" in said.err
    assert "knows0" not in said.err
    assert ReinforcedBeton.open(tmp_path / "r.beton").header.num_images == 100


def test_a_live_teacher_is_asked_before_training(digits, knowing, tmp_path, capsys):
    plan = replace(student_recipe("kd", digits, "", "any", tmp_path / "run", batch_size=20), policy=WHOLE)
    for order, warns in ((RIGHT, False), (WRONG, True)):
        knowing(order)
        build_trainer(plan, progress=False)
        assert ("knows0 agrees with the labels on 0.0% of 64 views" in capsys.readouterr().err) is warns


def test_asking_a_live_teacher_leaves_training_as_it_is(digits, teacher, tmp_path, monkeypatch):
    plans = [student_recipe("kd", digits, "", teacher, tmp_path / name, epochs=1) for name in ("asked", "not")]
    run(plans[0], progress=False)
    monkeypatch.setattr(build, "ViewSampler", lambda *_: SimpleNamespace(predictions=lambda *_: None))
    monkeypatch.setattr(build.agreement, "warn", lambda _: None)
    run(plans[1], progress=False)
    asked, unasked = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("asked", "not"))
    assert asked == unasked


def test_a_teacher_whose_predictions_are_not_numbers_is_refused_before_training(digits, knowing, tmp_path):
    knowing(RIGHT)
    teacher = Teacher.from_options()
    teacher.members[0].model.forward = lambda x: torch.full((len(x), 10), torch.nan if x.std() > 0 else 0.0)
    with pytest.raises(UserError, match=r"knows0 predicts what is not a number for 64 of 64 views"):
        build_trainer(student_recipe("kd", digits, "", "test_efficientnet", tmp_path / "run"), progress=False)
