"""``teacher.options``: each member's own, part of what it is, refused where there is no such member or option."""

import pytest
import timm
import torch
from betons import PLAIN

import ffdr
from ffdr.cli import main
from ffdr.config import recipe
from ffdr.config.learning import TeacherOptions
from ffdr.reinforce.member_options import options_of_members
from ffdr.reinforce.teacher import Teacher
from ffdr.util.errors import UserError

NAME = "test_resnet"
WIDE = {"zero_init_last": False, "stem_width": 24, "layers": [1, 2, 1, 1]}
TEXTS = ("zero_init_last=false", "stem_width=24", "layers=[1,2,1,1]")


@pytest.fixture(scope="module")
def models(folder):
    """timm's own model with options and one without, and NAME:CHECKPOINT of each, saved as timm's users do."""
    made = []
    for number, options in enumerate(({}, WIDE)):
        torch.manual_seed(number)
        model = timm.create_model(NAME, num_classes=10, **options).eval()
        torch.save(model.state_dict(), folder / f"timm{number}.pth")
        made.append((model, f"{NAME}:{folder / f'timm{number}.pth'}"))
    return made


def images(side=32):
    return torch.arange(2 * side * side * 3).mul(37).remainder(256).to(torch.uint8).view(2, side, side, 3)


def test_options_reach_their_member_only(models):
    (plain, one), (wide, two) = models
    options = TeacherOptions(models=(one, two), options=tuple(f"1:{text}" for text in TEXTS), resolution=32)
    teacher = Teacher.from_options(options, 10, "cpu")
    x = (images().permute(0, 3, 1, 2) / 255 - torch.tensor(teacher.members[0].mean).view(3, 1, 1)) / torch.tensor(
        teacher.members[0].std
    ).view(3, 1, 1)
    with torch.no_grad():
        expected = torch.stack([model(x).softmax(1) for model in (plain, wide)]).mean(0)
    torch.testing.assert_close(teacher.log_probs(images()).exp(), expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="not the weights of test_resnet"):
        Teacher.from_options(TeacherOptions(models=(one, two)), 10, "cpu")


def test_options_are_part_of_the_identity_where_they_are_used(models):
    one = models[0][1]
    plain, by_name, by_number = (
        Teacher.from_options(TeacherOptions(models=one, options=options, resolution=32), 10, "cpu")
        for options in ((), (f"{NAME}:drop_rate=0.1",), ("0: drop_rate = 0.1",))
    )
    assert by_name.identity() == by_number.identity() != plain.identity()
    assert "drop_rate" not in plain.identity() and plain.signatures() == by_name.signatures()
    member = plain.members[0]  # as before there were such options
    assert repr([(member.resolution, member.mean, member.std)]) in plain.identity()


def test_a_name_means_all_of_that_name_and_a_number_one():
    names = ["resnet50", "hf-hub:org/net", "resnet50"]
    texts = ("resnet50:drop_rate=0.1", "2:base_width=8", "hf-hub:org/net:act_layer=relu", "0:layers=[1,2,3,4]")
    assert options_of_members(names, texts) == [
        ("drop_rate=0.1", "layers=[1,2,3,4]"),
        ("act_layer=relu",),
        ("drop_rate=0.1", "base_width=8"),
    ]
    assert options_of_members(names, ()) == [()] * 3


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["drop_rate=0.1"], r"^teacher\.options: 'drop_rate=0.1' is not MODEL:NAME=VALUE"),
        (["0:drop_rate"], "is not MODEL:NAME=VALUE"),
        (["0:=1"], "is not MODEL:NAME=VALUE"),
        (
            ["resnet5:drop_rate=0.1"],
            r"resnet5 is not one of teacher\.models \(did you mean resnet50\?\); they are 0 res",
        ),
        (["2:drop_rate=0.1"], r"2 is not one of teacher\.models; they are 0 resnet50, 1 vit_tiny"),
        (
            ["0:checkpoint_path=x"],
            r"^teacher\.options: resnet50: checkpoint_path=x is not an option of a model",
        ),
        (["0:a=1", "resnet50:a=2"], r"resnet50: a is given twice"),
        (["0:a=!!python/x"], r"^teacher\.options: resnet50"),
    ],
)
def test_other_texts_are_refused(texts, message):
    with pytest.raises(UserError, match=message) as caught:
        options_of_members(["resnet50", "vit_tiny"], texts)
    assert "\n" not in str(caught.value)


def test_options_that_a_model_or_its_checkpoint_has_not(models, teacher, digits, tmp_path, capsys):
    flags = [f"--images={digits}", f"--out={tmp_path / 'r.beton'}", "--resolution=32"]
    one, ours = models[0][1], teacher.partition(":")[2]
    for given, option, message in (
        (one, "0:drop_rat=0.1", "teacher.options: test_resnet has no option drop_rat (did you mean drop_rate?)"),
        (teacher, "0:drop_rate=0.1", f"teacher.options: {ours} says itself what its model has ()"),
    ):
        assert main(["reinforce", *flags, f"--teacher.models={given}", f"--teacher.options={option}"]) == 2
        assert message in capsys.readouterr().err


def test_options_from_flags_recipes_and_calls(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("teacher: {models: [a, b], options: ['a:layers=[1,2]', '1:drop_rate=0.1']}\n")
    paths = ["--images=i.beton", "--out=o.beton"]
    flag = "--teacher.options=a:layers=[1\\,2],1:drop_rate=0.1"
    one = recipe.parse("reinforce", [*paths, "--config-file", str(file)])
    two = recipe.parse("reinforce", [*paths, "--teacher.models=a,b", flag])
    assert one.teacher == two.teacher and one.teacher.options == ("a:layers=[1,2]", "1:drop_rate=0.1")
    assert TeacherOptions(models="a,b", options="a:layers=[1\\,2],1:drop_rate=0.1") == one.teacher


def test_a_file_made_with_other_options_is_other_work(models, digits, tmp_path):
    plan = {"views": 1, "topk": 2, "resolution": 32, "policy": PLAIN, "workers": 1, "progress": False}
    teacher = {"models": models[1][1], "options": [f"0:{text}" for text in TEXTS]}
    out = ffdr.reinforce(digits, tmp_path / "r.beton", teacher=teacher, **plan)
    by_name = {**teacher, "options": [f"{NAME}:{text}" for text in TEXTS]}
    for same in (teacher, by_name):
        assert ffdr.reinforce(digits, out, teacher=same, **plan) == out
    more = {**teacher, "options": [*teacher["options"], "0:drop_rate=0.1"]}
    with pytest.raises(UserError, match=r"exists, made with (another )?teacher\.options"):
        ffdr.reinforce(digits, out, teacher=more, **plan)
