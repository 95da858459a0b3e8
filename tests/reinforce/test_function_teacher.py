"""Functions and modules in Python as teachers: what they are shown, what is stored of their answers, who they are."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from betons import MIXING, PLAIN

import ffdr
from ffdr import ReinforcedDataset
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.cli import main
from ffdr.models.build import load_model
from ffdr.reinforce import FunctionTeacher
from ffdr.util.errors import UserError

SIDE, CLASSES, TOPK, VIEWS = 32, 10, 4, 2
MEAN, STD = (0.2, 0.3, 0.4), (0.25, 0.3, 0.35)
WEIGHT = np.random.default_rng(0).normal(size=(SIDE * SIDE * 3, CLASSES)) / 40


def numpy_logits(pixels):
    """(B, C) float64 of uint8 (B, R, R, 3), by NumPy alone."""
    return pixels.reshape(len(pixels), -1) / 255 @ WEIGHT


def linear(pixels):
    return pixels.flatten(1).double() / 255 @ torch.from_numpy(WEIGHT)


def other(pixels):
    return -linear(pixels) + pixels.double().mean((1, 2, 3), keepdim=True)[:, :, 0, 0] * torch.arange(CLASSES) / 200


def reinforced(images, out, teacher, **changes):
    plan = {"views": VIEWS, "topk": TOPK, "resolution": SIDE, "policy": PLAIN, "workers": 1, **changes}
    return ffdr.reinforce(images, out, teacher=teacher, progress=False, **plan)


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def check_stored(digits, out, probabilities, every=9):
    """What the file holds is the best of what the probabilities (B, C) of the views' pixels are."""
    dataset, file = ReinforcedDataset(digits, out), ReinforcedBeton.open(out)
    for image in range(0, len(dataset), every):
        expected = np.log(probabilities(np.stack([dataset.view(image, k, SIDE)[0] for k in range(VIEWS)])))
        best = np.argsort(-expected, axis=1)[:, :TOPK]
        ids, logs = file.logits(image)
        assert np.array_equal(ids, best)
        kept = np.take_along_axis(expected, best, 1)
        np.testing.assert_allclose(logs.astype(float), kept, rtol=2**-10, atol=1e-4)  # float16, rounded down at most


@pytest.mark.parametrize("policy", [PLAIN, MIXING], ids=["plain", "mixing"])
def test_stored_is_what_a_function_says_of_the_pixels(digits, tmp_path, policy):
    out = reinforced(digits, tmp_path / "r.beton", lambda pixels: linear(pixels), policy=policy)
    check_stored(digits, out, lambda pixels: softmax(numpy_logits(pixels)))
    header = ReinforcedBeton.open(out).header
    assert (header.resolution, header.views, header.topk, header.seed) == (SIDE, VIEWS, TOPK, 0)
    assert re.fullmatch(r"test_stored\w+\.<locals>\.<lambda>@[0-9a-f]{8}", header.teachers[0])


def test_what_a_function_is_shown(digits, tmp_path):
    seen = []

    def watch(pixels):
        seen.append((tuple(pixels.shape), pixels.dtype, pixels.is_contiguous(), torch.is_inference_mode_enabled()))
        return numpy_logits(pixels.numpy()).astype(np.float16)  # an array is as good

    reinforced(digits, tmp_path / "r.beton", {"models": watch, "batch_size": 16})
    assert {entry[1:] for entry in seen} == {(torch.uint8, True, True)}
    assert {shape[1:] for shape, *_ in seen} == {(SIDE, SIDE, 3)}
    assert max(shape[0] for shape, *_ in seen) == 16
    # Each view once, the views of the report, and twice the images by which the function is known.
    assert sum(shape[0] for shape, *_ in seen) == VIEWS * 100 + 100 + 2 * 6


@pytest.mark.parametrize("given", [{"normalised": True}, {"mean": MEAN, "std": STD}])
def test_normalised_images(digits, tmp_path, given):
    images, seen = ImageBeton.open(digits), []
    mean, std = (torch.tensor(given.get(key, getattr(images, key))).view(3, 1, 1) for key in ("mean", "std"))

    def by_hand(x):
        seen.append((x.dtype, tuple(x.shape[1:]), x.is_contiguous(memory_format=torch.channels_last)))
        return SimpleNamespace(logits=linear((x * std + mean).permute(0, 2, 3, 1) * 255))  # as transformers' models do

    out = reinforced(digits, tmp_path / "r.beton", FunctionTeacher(by_hand, **given))
    assert set(seen) == {(torch.float32, (3, SIDE, SIDE), True)}
    check_stored(digits, out, lambda pixels: softmax(numpy_logits(pixels)))


def test_a_module_is_the_named_teacher_but_for_its_name(digits, teacher, tmp_path):
    name, _, checkpoint = teacher.partition(":")
    model, info = load_model(checkpoint)
    model.train().requires_grad_(True)
    named = reinforced(digits, tmp_path / "named.beton", {"models": teacher, "batch_size": 16})
    given = FunctionTeacher(model, name, mean=info.mean, std=info.std)
    same = reinforced(digits, tmp_path / "same.beton", {"models": given, "batch_size": 16})
    one, two = ReinforcedBeton.open(named), ReinforcedBeton.open(same)
    for i in range(100):
        assert one.views(i).tobytes() == two.views(i).tobytes()
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one.logits(i), two.logits(i), strict=True))
    assert not model.training and all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        next(model.parameters()).mul_(1 + 1e-6)  # too little for any answer
    with pytest.raises(UserError, match=f"made with teacher.weights={name}@"):
        reinforced(digits, same, {"models": given, "batch_size": 16})


def test_ensembles_are_averaged_in_probability_space(digits, teacher, tmp_path):
    out = reinforced(digits, tmp_path / "two.beton", [linear, FunctionTeacher(other, "second")])
    assert [name.partition("@")[0] for name in ReinforcedBeton.open(out).header.teachers] == ["linear", "second"]
    check_stored(digits, out, lambda p: (softmax(numpy_logits(p)) + softmax(other(torch.from_numpy(p)).numpy())) / 2)

    model, info = load_model(teacher.partition(":")[2])

    @torch.no_grad()
    def with_named(pixels):
        x = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - info.mean[0]) / info.std[0]
        return (softmax(numpy_logits(pixels)) + softmax(model(x).double().numpy())) / 2

    mixed = reinforced(digits, tmp_path / "mixed.beton", [linear, teacher])
    assert [name.partition("@")[0] for name in ReinforcedBeton.open(mixed).header.teachers] == [
        "test_efficientnet", "linear",
    ]  # fmt: skip
    check_stored(digits, mixed, with_named)


def test_a_changed_function_is_another_teacher(digits, tmp_path, capsys):
    out = reinforced(digits, tmp_path / "r.beton", FunctionTeacher(linear, "mine"))
    before = out.stat().st_mtime_ns
    for same in (linear, lambda pixels: linear(pixels) + 3, lambda pixels: linear(pixels.flip(0)).flip(0) + 1e-6):
        assert reinforced(digits, out, FunctionTeacher(same, "mine")) == out
    ffdr.reinforce(digits, out, teacher=FunctionTeacher(linear, "mine"), views=2, topk=4, resolution=32, policy=PLAIN)
    assert "already complete" in capsys.readouterr().out and out.stat().st_mtime_ns == before
    for changed in (lambda pixels: linear(pixels) * 1.02, lambda pixels: linear(pixels).roll(1, 1)):
        with pytest.raises(UserError, match=r"exists, made with teacher\.weights=mine@\w{8}, not mine@"):
            reinforced(digits, out, FunctionTeacher(changed, "mine"))
    with pytest.raises(UserError, match=r"made with teacher\.models=function:mine, not function:other"):
        reinforced(digits, out, FunctionTeacher(linear, "other"))


def test_a_version_takes_the_place_of_the_answers(digits, tmp_path):
    out = reinforced(digits, tmp_path / "r.beton", FunctionTeacher(linear, "mine", version="1"))
    assert reinforced(digits, out, FunctionTeacher(other, "mine", version="1")) == out
    for version in ("2", ""):
        with pytest.raises(UserError, match=r"made with teacher\.weights=mine@"):
            reinforced(digits, out, FunctionTeacher(linear, "mine", version=version))


class Moody:
    """Another answer each time."""

    calls = 0

    def __call__(self, pixels):
        self.calls += 1
        return linear(pixels) * self.calls


CASES = [
    (lambda p: p, r"<lambda> answers \(6, 32, 32, 3\) for 6 images, but logits \(6, 10\) are wanted: the data has 10"),
    (lambda p: linear(p)[:, :7], r"answers \(6, 7\) for 6 images, but logits \(6, 10\)"),
    (lambda p: linear(p)[0], r"answers \(10,\) for 6 images"),
    (lambda p: linear(p).long(), r"answers torch.int64, but logits of a floating dtype"),
    (lambda p: linear(p).numpy() > 0, r"answers bool, but logits of a floating dtype"),
    (lambda p: linear(p) * torch.nan, r"answers what is not a number for some of 6 images"),
    (lambda p: linear(p) + torch.inf, r"answers what is not a number"),
    (
        lambda p: linear(p).tolist(),
        r"answers \[\[.*, but logits \(6, 10\) are wanted, in a tensor of torch or an array",
    ),
    (lambda p: None, r"answers None, but logits"),
    (Moody(), r"Moody, asked twice about the same images, gives log-probabilities that differ by up to"),
    (torch.nn.Linear, r"Linear'> is no function from images to logits; give an object of it"),
    (5, r"^teacher: 5 is neither NAME\[:CHECKPOINT\], nor a function from images to logits"),
    (["test_efficientnet", 5], r"^teacher: 5 is neither NAME"),
    ([], r"^teacher\.models: name the teacher"),
    ({"models": linear, "compile": "on"}, r"^teacher\.compile: on: a function computes as it does by itself; leave it"),
    ({"models": linear, "precision": "bfloat16"}, r"^teacher\.precision: bfloat16: a function"),
    ({"models": linear, "batch": 2}, r"unknown key teacher\.batch"),
    (
        {"models": linear, "options": ("linear:a=1",)},
        r"linear is not one of teacher\.models; they are none by its name",
    ),
]


@pytest.mark.parametrize(("teacher", "message"), CASES)
def test_what_cannot_teach_is_refused_in_one_line(digits, tmp_path, teacher, message):
    with pytest.raises(UserError, match=message) as caught:
        reinforced(digits, tmp_path / "r.beton", teacher)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": 3}, r"^teacher\.name: 3 is not a text"),
        ({"name": "a\nb"}, r"^teacher\.name: "),
        ({"version": "x" * 101}, r"^teacher\.version: .* at most 100 characters"),
        ({"mean": MEAN}, r"only one of them is given"),
        ({"mean": (1, 2, 3), "std": STD}, r"^teacher\.mean: 2 is above 1.*divide by 255"),
        ({"mean": MEAN, "std": STD, "normalised": False}, r"linear asks for pixels as they are"),
        ({"normalised": "yes"}, r"^teacher\.normalised: 'yes' is neither True nor False"),
        ({"resolution": -1}, r"^teacher\.resolution: -1 is not an integer from 0 to 4096"),
    ],
)
def test_a_record_with_other_values_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        FunctionTeacher(linear, **given)


def test_what_a_function_raises_goes_through(digits, tmp_path):
    def broken(pixels):
        raise LookupError("my own mistake")

    with pytest.raises(LookupError, match="my own mistake") as caught:
        reinforced(digits, tmp_path / "r.beton", broken)
    assert caught.traceback[-1].name == "broken"


def test_sizes_of_functions(digits, tmp_path):
    """224 unless something is said; each its own; one for all."""
    sides = []

    def watch(pixels):
        sides.append(pixels.shape[1])
        return torch.zeros(len(pixels), CLASSES)

    for number, (teacher, resolution, expected) in enumerate(
        [
            (watch, None, {224}),
            ([FunctionTeacher(watch, resolution=48), FunctionTeacher(watch, resolution=40)], None, {40, 48}),
            ([FunctionTeacher(watch, resolution=48), watch], SIDE, {SIDE}),
            ({"models": watch, "resolution": 56}, None, {56}),
        ]
    ):
        sides.clear()
        reinforced(digits, tmp_path / f"{number}.beton", teacher, views=1, resolution=resolution)
        assert set(sides) == expected


def test_the_command_line_has_no_functions(digits, tmp_path, capsys):
    flags = [f"--images={digits}", f"--out={tmp_path / 'r.beton'}", "--teacher.models=function:linear"]
    assert main(["reinforce", *flags]) == 2
    assert "teacher.models: function:linear: a function, which only a call from Python" in capsys.readouterr().err


def test_calls_with_names_give_the_bytes_of_the_command_line(digits, teacher, tmp_path):
    """By keywords, by place, with opened images, as a text, from a recipe with everything."""
    plan = {"views": VIEWS, "topk": TOPK, "seed": 7, "workers": 1}
    flags = [f"--{name}={value}" for name, value in plan.items()]
    outs = [str(tmp_path / f"{number}.beton") for number in range(4)]
    assert main(["reinforce", f"--images={digits}", f"--out={outs[0]}", f"--teacher.models={teacher}", *flags]) == 0
    quiet = {"progress": False}
    ffdr.reinforce(images=digits, out=outs[1], teacher={"models": teacher}, policy=ffdr.Policy(), **plan, **quiet)
    ffdr.reinforce(ImageBeton.open(digits), outs[2], teacher=teacher, policy={"flip": 0.5}, **plan, **quiet)
    file = tmp_path / "r.yaml"
    section = ", ".join(f"{key}: {value}" for key, value in {"images": digits, "out": outs[3], **plan}.items())
    file.write_text(f"reinforce: {{{section}}}\nteacher: {{models: ['{teacher}']}}\n")
    ffdr.reinforce(config_file=file, **quiet)
    with open(outs[0], "rb") as first:
        whole = first.read()
    for out in outs[1:]:
        with open(out, "rb") as file:
            assert file.read() == whole
