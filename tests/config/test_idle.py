"""Options that do nothing in a run are reported; the shipped recipes have none."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from betons import student_recipe

from ffdr.augment.policy import Policy
from ffdr.config import recipe
from ffdr.config.idle import idle_options, idle_policy
from ffdr.config.learning import TeacherOptions
from ffdr.config.training import TrainOptions
from ffdr.train.run import run
from ffdr.util.errors import UserError

RCFG = Path(__file__).parents[2] / "rcfg"
PLAIN = Policy()


def made(task, policy=PLAIN, teacher=None, **train):
    options = student_recipe(task, "i.beton", "r.beton", "resnet50:w", "run", **train)
    return replace(options, policy=policy, teacher=teacher or options.teacher)


ERM_TEACHER = TeacherOptions(resolution=96, precision="float32")


@pytest.mark.parametrize(
    ("options", "keys", "why"),
    [
        (made("erm", optimizer="adamw", momentum=0.8), ["train.momentum"], "sgd's"),
        (made("erm", project="mine", trackers=("tensorboard",)), ["train.project"], "train.trackers has neither"),
        (made("erm", ramp=(0.1, 0.2)), ["train.ramp"], "train.min_resolution"),
        (made("erm", residual="renormalise"), ["train.residual"], "stored top-k"),
        (made("dr", teacher=ERM_TEACHER), ["teacher.resolution", "teacher.precision"], "no live teacher"),
        (made("erm", teacher=TeacherOptions(classes="any")), ["teacher.classes"], "no live teacher"),
        (made("kd", label_smoothing=0.1), ["train.label_smoothing"], "train.teacher_weight=1"),
        (made("kd", temperature=2.0, teacher_weight=0.0), ["train.temperature", "teacher.models"], "teacher_weight=0"),
        (made("erm", bce_sum=True), ["train.bce_sum"], "train.bce_loss is off"),
        (made("erm", bce_target_thresh=0.2), ["train.bce_target_thresh"], "train.bce_loss is off"),
        (made("dr", reinforced_share=0.0), ["data.reinforced"], "no stored view"),
        (made("erm", Policy(mixup_alpha=1.0)), ["policy.mixup_alpha"], "policy.mixup, its probability, is 0"),
        (made("kd", Policy(cutmix=0.5, cutmix_alpha=0.0)), ["policy.cutmix"], "cutmix_alpha is 0"),
        (made("erm", Policy(crop="padded", scale=(0.2, 1.0))), ["policy.scale"], "crop is padded"),
        (made("erm", Policy(padding=0.2)), ["policy.padding"], "crop is resized"),
        (made("erm", Policy(randaugment=0.0, magnitude=5)), ["policy.magnitude"], "randaugment is 0"),
        (made("dr", Policy(erase=0.0, erase_scale=(0.1, 0.2)), reinforced_share=0.9), ["policy.erase_scale"], "erase"),
    ],
)
def test_an_option_that_does_nothing_is_reported(options, keys, why):
    lines = idle_options(options)
    assert [line.split()[0] for line in lines] == keys
    assert all(why in line for line in lines)


def test_what_does_something_is_not_reported():
    assert idle_options(made("erm", momentum=0.8, min_resolution=16, ramp=(0.1, 0.2))) == []
    assert idle_options(made("erm", project="mine", trackers=("tensorboard", "trackio"))) == []
    assert idle_options(made("kd", label_smoothing=0.1, teacher_weight=0.5, temperature=2.0)) == []
    assert idle_options(made("dr", residual="renormalise", temperature=2.0)) == []
    assert idle_options(made("kd", bce_loss=True, bce_sum=True, bce_target_thresh=0.2)) == []
    assert idle_options(made("dr", Policy(mixup_alpha=1.0))) == []  # refused or not by what the file says
    assert idle_policy(Policy(crop="padded", padding=0.2, mixup=0.5, mixup_alpha=1.0)) == []


def is_training(file):
    content = yaml.safe_load(file.read_text())
    bases = content.get("base", [])
    below = [file.parent / base for base in ([bases] if isinstance(bases, str) else bases)]
    return "train" in content or any(map(is_training, below))


TRAINING = [f for f in sorted(RCFG.rglob("*.yaml")) if not {"parts", "ablate"} & {*f.parts} and is_training(f)]


@pytest.mark.parametrize("file", TRAINING, ids=lambda file: str(file.relative_to(RCFG)))
def test_the_shipped_recipes_say_nothing_idle(file):
    flags = ["--train.out=run", "--data.train=i.beton"]
    if file.stem == "kd":
        flags.append("--teacher.models=resnet50:w")
    assert idle_options(recipe.parse("train", ["--config-file", str(file), *flags])) == []


def test_a_run_tells_them_on_standard_error(digits, tmp_path, capfd):
    run(student_recipe("erm", digits, "", "", tmp_path / "run", epochs=1, residual="renormalise"), progress=False)
    out, err = capfd.readouterr()
    said = [line for line in err.splitlines() if "does nothing here" in line]
    assert out == "" and said == ["train.residual does nothing here: task erm learns from no stored top-k"]


def test_another_policy_than_the_stored_views_have_is_refused(digits, reinforced_digits, tmp_path):
    plan = student_recipe("dr", digits, reinforced_digits, "", tmp_path / "run", epochs=1)
    for options in (plan, replace(plan, train=replace(plan.train, dry_run=True))):
        with pytest.raises(UserError) as caught:
            run(replace(options, policy=replace(plan.policy, flip=0.0, ratio=(0.9, 1.1))), progress=False)
        text = str(caught.value)
        assert text.startswith("policy.ratio=0.9,1.1, policy.flip=0.0: task dr shows the stored views, and those of")
        assert "drawn with --policy.ratio=0.75,1.3333333333333333 --policy.flip=0.5" in text
    assert not (tmp_path / "run").exists()
    some = replace(plan, train=replace(plan.train, reinforced_share=0.5), policy=replace(plan.policy, flip=0.0))
    assert run(some, progress=False)["epoch"] == 1
    run(replace(plan, policy=Policy(), train=replace(plan.train, out=str(tmp_path / "other"))), progress=False)


def test_a_warm_up_that_does_not_fit_names_both_options():
    with pytest.raises(
        UserError, match=r"train\.warmup_epochs: 5 epochs .* train\.epochs=2; .*--train\.warmup_epochs=0\.2"
    ):
        TrainOptions(out="run", epochs=2, warmup_epochs=5)
    assert TrainOptions(out="run", epochs=2, warmup_epochs=2).warmup_epochs == 2
