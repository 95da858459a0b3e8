"""Recipes: what is accepted becomes frozen dataclasses; the rest is one line naming key, value and remedy."""

from dataclasses import FrozenInstanceError

import pytest

from ffdr import recipe
from ffdr.errors import UserError
from ffdr.options import RECIPES

TRAIN = ["--train.out=run", "--data.train=x.beton", "--model.name=resnet18"]


def parse(*flags, verb="train"):
    return recipe.parse(verb, [*TRAIN, *flags] if verb == "train" else list(flags))


def test_flags_win_over_files_and_later_files_over_earlier_ones(tmp_path):
    (tmp_path / "a.yaml").write_text("train: {epochs: 3, lr: 1e-3, seed: 5}")
    (tmp_path / "b.yaml").write_text("train.epochs: 4\ntrain.seed: 6")
    options = parse(f"--config-file={tmp_path / 'a.yaml'}", "-C", str(tmp_path / "b.yaml"), "--train.seed=7")
    assert (options.train.epochs, options.train.lr, options.train.seed) == (4, 0.001, 7)


def test_a_base_recipe_is_read_first(tmp_path):
    (tmp_path / "base.yaml").write_text("train: {epochs: 3, lr: 0.5}")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "child.yaml").write_text("base: ../base.yaml\ntrain: {epochs: 9}")
    options = parse("--config-file", str(tmp_path / "sub" / "child.yaml"))
    assert (options.train.epochs, options.train.lr) == (9, 0.5)


def test_several_bases_are_read_in_order(tmp_path):
    (tmp_path / "a.yaml").write_text("train: {epochs: 3, lr: 0.5, seed: 1}")
    (tmp_path / "b.yaml").write_text("train: {epochs: 4, lr: 0.6}")
    (tmp_path / "child.yaml").write_text("base: [a.yaml, b.yaml]\ntrain: {lr: 0.7}")
    options = parse("--config-file", str(tmp_path / "child.yaml"))
    assert (options.train.epochs, options.train.lr, options.train.seed) == (4, 0.7, 1)


def test_types_are_those_of_the_dataclass():
    options = parse("--train.resume=0", "--policy.scale=0.25,1", "--train.lr=1", "--data.mean=0.1,0.2,0.3")
    assert options.train.resume is False
    assert options.policy.scale == (0.25, 1.0)
    assert isinstance(options.train.lr, float)
    assert options.data.mean == (0.1, 0.2, 0.3)


def test_recipes_are_frozen():
    with pytest.raises(FrozenInstanceError):
        parse().train.epochs = 5


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--train.epoch=3"], ["unknown key train.epoch", "did you mean train.epochs?"]),
        (["--zzz.yyy=3"], ["unknown key zzz.yyy", "train, data, model, policy, teacher"]),
        (["--train.epochs=2.5"], ["train.epochs", "2.5", "an integer"]),
        (["--train.epochs=many"], ["train.epochs", "many", "an integer"]),
        (["--train.lr=high"], ["train.lr", "high", "a number"]),
        (["--train.resume=perhaps"], ["train.resume", "perhaps", "true or false"]),
        (["--policy.scale=0.5"], ["policy.scale", "2 numbers"]),
        (["--train.epochs=0"], ["train.epochs", "between 1 and"]),
        (["--train.task=drr"], ["train.task", "'drr'", "erm, kd, dr", "did you mean dr?"]),
        (["--train.optimizer=adam"], ["train.optimizer", "did you mean adamw?"]),
        (["--policy.crop=resize"], ["policy.crop", "did you mean resized?"]),
        (["--policy.scale=0.9,0.2"], ["policy.scale", "0.9,0.2"]),
        (["--policy.magnitude=31"], ["policy.magnitude", "between 0 and 30"]),
        (["--train.lr=1", "--train.lr=2"], ["train.lr", "twice"]),
        (["--train.lr"], ["train.lr", "value is missing"]),
        (["train.lr=1"], ["train.lr=1", "--section.name=value"]),
        (["--data.reinforced=r.beton"], ["data.reinforced", "task erm"]),
        (["--train.task=kd"], ["teacher.models", "task kd"]),
        (["--teacher.models=resnet18"], ["teacher.models", "task erm"]),
        (["--data.std=0,1,1"], ["data.std", "not above 0 and up to 1"]),
        (["--data.mean=124,116,104"], ["data.mean: 124", "of pixels in [0, 1]; divide by 255"]),
        (["--data.std=nan,1,1"], ["data.std", "nan"]),
        (["--model.name="], ["model.name"]),
        (["--train.temperature=2"], ["train.temperature", "task erm"]),
        (["--train.task=dr", "--train.label_smoothing=0.1"], ["train.label_smoothing", "task dr"]),
        (["--data.mean=0.5"], ["data.mean", "3 channels"]),
        (["--config-file=/no/such.yaml"], ["/no/such.yaml", "No such file"]),
    ],
)
def test_mistakes_are_one_line_with_key_value_and_remedy(flags, parts):
    with pytest.raises(UserError) as caught:
        parse(*flags)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("train: {epochs: 1, epochs: 2}", "stands twice"),
        ("train: {epochs:", "not YAML"),
        ("- 1", "mapping"),
        ("train: {epochs: }", "train.epochs has no value"),
        ("train: {epochs: true}", "an integer"),
        ("train: {bn_wd: 1}", "unknown key train.bn_wd"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("reinforce: {views: 3}", "unknown key reinforce.views"),
        ("base: x.yaml", "is its own base"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, part):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=r"x\.yaml") as caught:
        parse("--config-file", str(tmp_path / "x.yaml"))
    assert part in str(caught.value)


@pytest.mark.parametrize("verb", RECIPES)
def test_help_tells_every_option(verb):
    text = recipe.help_text(verb)
    for key in recipe._known_keys(RECIPES[verb]):
        assert f"--{key}\n      " in text + "\n"
