"""Recipes: what is accepted becomes frozen dataclasses; the rest is one line naming key, value and remedy."""

from dataclasses import FrozenInstanceError

import pytest

from ffdr.config import recipe
from ffdr.config.help import help_text
from ffdr.config.settings import known_keys
from ffdr.config.verbs import RECIPES
from ffdr.util.errors import UserError

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
        (["--train.optimizer=Adam W"], ["train.optimizer: 'Adam W'", "not one of timm's optimisers", "adamw"]),
        (["--policy.crop=resize"], ["policy.crop", "did you mean resized?"]),
        (["--policy.scale=0.9,0.2"], ["policy.scale", "0.9,0.2"]),
        (["--policy.magnitude=31"], ["policy.magnitude", "between 0 and 30"]),
        (["--train.lr=1", "--train.lr=2"], ["train.lr", "twice"]),
        (["--train.lr"], ["train.lr", "value is missing"]),
        (["--train.dri-run"], ["train.dri_run", "did you mean train.dry_run?"]),
        (["--train.dry-run", "--train.dry_run"], ["train.dry_run", "twice"]),
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
        ("!!python/object/apply:os.system ['true']", "a recipe has no values of such a kind"),
        ("reinforce: {views: 3}", "unknown key reinforce.views"),
        ("base: x.yaml", "is its own base"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, part):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=r"x\.yaml") as caught:
        parse("--config-file", str(tmp_path / "x.yaml"))
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "section", "option", "value"),
    [
        ("compile: off", "train", "compile", "off"),
        ("compile: NO", "train", "compile", "off"),
        ("out: 1_000", "train", "out", "1_000"),
        ("out: 2024-01-01", "train", "out", "2024-01-01"),
        ("out: 12:30:00", "train", "out", "12:30:00"),
        ("out: 1.50", "train", "out", "1.50"),
        ("out: 0x10", "train", "out", "0x10"),
        ("out: 017", "train", "out", "017"),
        ("out: NO", "train", "out", "NO"),
        ("out: 'null'", "train", "out", "null"),
        ("lr: 1e-3", "train", "lr", 0.001),
        ("lr: 1", "train", "lr", 1.0),
        ("seed: 1e3", "train", "seed", 1000),
        ("seed: 1_000", "train", "seed", 1000),
        ("seed: 0x10", "train", "seed", 16),
        ("seed: 0o17", "train", "seed", 15),
        ("seed: 007", "train", "seed", 7),
        ("seed: '017'", "train", "seed", 17),
        ("resume: off", "train", "resume", False),
        ("resume: No", "train", "resume", False),
        ("tensorboard: on", "train", "tensorboard", True),
        ("name: on", "model", "name", "on"),
        ("options: [norm=no, width=1_0]", "model", "options", ("norm=no", "width=1_0")),
        ("mean: [1e-1, .2, 0.30]", "data", "mean", (0.1, 0.2, 0.3)),
        ("mean: 0.1,0.2,0.3", "data", "mean", (0.1, 0.2, 0.3)),
    ],
)
def test_the_option_decides_what_a_scalar_is(tmp_path, text, section, option, value):
    (tmp_path / "x.yaml").write_text(f"{section}:\n  {text}\n")
    flags = [flag for flag in TRAIN if not flag.startswith(f"--{section}.{option}")]
    options = recipe.parse("train", ["--config-file", str(tmp_path / "x.yaml"), *flags])
    found = getattr(getattr(options, section), option)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  seed: 017", "line 2: train.seed: '017' is not an integer (it may be read as 17 or, as YAML 1.1"),
        ("train:\n  lr: 010", "line 2: train.lr: '010' is not a number (it may be read as 10 or, as YAML 1.1"),
        ("train:\n  seed: 0__17", "line 2: train.seed: '0__17' is not an integer"),
        ("train:\n  epochs: 1:30", "line 2: train.epochs: '1:30' is not an integer"),
        ("train:\n  epochs: 1.5e0", "'1.5e0' is not an integer"),
        ("\ntrain: {out: null}", "line 2: train.out has no value (null); leave it out, or quote it: 'null'"),
        ("train: {out: ~}", "train.out has no value (~)"),
        ("data:\n  mean:\n    - 0.1\n    - null\n    - 0.2", "line 2: data.mean has no value (null)"),
        ("train: {lr: 1}\ntrain.lr: 2", "line 2: train.lr stands twice (see line 1)"),
        ("train:\n  lr: 1\n  lr: 2", "line 3: key 'lr' stands twice (see line 2)"),
        ("train: 5", "unknown key train: it is a section, whose options are written train.name"),
        ("train: {dry-run: true}", "did you mean train.dry_run"),
        ("", "holds nothing"),
        ("train", "holds a text"),
        ("model: {checkpoint: !!timestamp 2024-01-01}", "line 1: !!timestamp: a recipe has no values of such a kind"),
    ],
)
def test_what_may_mean_two_things_is_reported_with_its_line(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        parse("--config-file", str(tmp_path / "x.yaml"))
    assert str(caught.value).startswith(f"{tmp_path / 'x.yaml'}")
    assert message in str(caught.value)


def test_a_section_whose_options_are_commented_out_is_empty(tmp_path):
    (tmp_path / "x.yaml").write_text("train:\n  # lr: 1\nmodel:\nbase:\n")
    assert parse("--config-file", str(tmp_path / "x.yaml")) == parse()


def test_mappings_may_be_merged(tmp_path):
    (tmp_path / "x.yaml").write_text("train: &t {lr: 0.5}\ndata: {center: 1}\npolicy: {flip: 0.25}\n")
    (tmp_path / "y.yaml").write_text("ablate: {out: o, settings: {a: &s {train.lr: 1}, b: {<<: *s, train.seed: 2}}}")
    assert parse("--config-file", str(tmp_path / "x.yaml")).train.lr == 0.5
    found = recipe.parse("ablate", ["-C", str(tmp_path / "y.yaml")], [("ablate.axes", {"train.seed": [0]})])
    assert found.settings["b"] == {"train.lr": "1", "train.seed": "2"}


@pytest.mark.parametrize(
    ("word", "meant"), [("true", "on"), ("Yes", "on"), ("ON", "on"), ("false", "off"), ("no", "off"), ("auto", "auto")]
)
def test_a_switch_takes_yamls_words_for_true_and_false(tmp_path, word, meant):
    (tmp_path / "x.yaml").write_text(f"eval: {{compile: {word}, data: x}}\nmodel: {{name: resnet18}}")
    assert recipe.parse("eval", ["-C", str(tmp_path / "x.yaml")]).eval.compile == meant


@pytest.mark.parametrize(
    ("verb", "flags", "section", "option"),
    [
        ("train", [*TRAIN, "--train.dry-run"], "train", "dry_run"),
        ("train", [*TRAIN, "--dry-run"], "train", "dry_run"),
        ("train", [*TRAIN, "--train.dry-run=true"], "train", "dry_run"),
        ("reinforce", ["--images=i", "--out=o", "--teacher.models=m", "--reinforce.dry-run"], "reinforce", "dry_run"),
        ("train", [*TRAIN, "--train.flip-average"], "train", "flip_average"),
    ],
)
def test_dashes_are_underscores_in_every_form_of_a_flag(verb, flags, section, option):
    assert getattr(getattr(recipe.parse(verb, flags), section), option) is True


def test_a_value_of_a_flag_keeps_its_dashes():
    options = recipe.parse("write", ["--source", "digits", "--out=my-file.beton", "--write.on-error", "skip"])
    assert (options.out, options.on_error) == ("my-file.beton", "skip")
    assert parse("--train.compile=reduce-overhead").train.compile == "reduce-overhead"


@pytest.mark.parametrize("verb", RECIPES)
def test_help_tells_every_option(verb):
    text = help_text(verb)
    for key in known_keys(verb):
        assert f"--{key}\n      " in text + "\n"
