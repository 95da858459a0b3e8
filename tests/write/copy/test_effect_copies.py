"""Copies of views with effects: pack, split, subset, concat, transcode keep every byte; verify, inspect and export know
them."""

import json

import numpy as np
import pytest
from betons import MIXING, PLAIN, VIEWS
from effects import with_effects

from ffdr.augment.view import EFFECTS, VERTICAL_FLIP
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.beton.records import EFFECT_UNITS, first_effects, first_views
from ffdr.beton.tables import read_tables
from ffdr.cli import main
from ffdr.config.files import ConcatOptions, InspectOptions, PackOptions, SplitOptions, SubsetOptions, VerifyOptions
from ffdr.inspect.grid import describe
from ffdr.inspect.run import inspect
from ffdr.util.errors import UserError
from ffdr.write.copy.concat import concat
from ffdr.write.copy.merge import pack, split
from ffdr.write.copy.subset import subset
from ffdr.write.reinforced import ReinforcedWriter
from ffdr.write.verify import verify


@pytest.fixture(scope="module", params=[PLAIN, MIXING], ids=["plain", "mixing"])
def made(request, digits, reinforce, tmp_path_factory):
    """A reinforcement of the digits with effects."""
    out = tmp_path_factory.mktemp("effects") / "made.beton"
    return with_effects(reinforce(digits, request.param), digits, out)


def cut(file, out, **options):
    return subset(SubsetOptions(str(file), str(out), **options), progress=False)


def checked(capsys, file, **options):
    capsys.readouterr()
    status = verify(VerifyOptions(str(file), **options), progress=False)
    return status, capsys.readouterr().out


def written(path, like, images, change):
    """A copy of a reinforced beton whose records are changed, by our own writer with its checks switched off."""
    source, images = ReinforcedBeton.open(like), ImageBeton.open(images)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("ffdr.write.reinforced.check_views", lambda views, header: "")
        with ReinforcedWriter(path, source.header, images) as writer:
            for i in range(len(images)):
                views = source.views(i).copy()
                change(i, views)
                ids, log_probs = source.logits(i)
                writer.put(np.array([i]), views[None], ids[None], log_probs[None])
            writer.finish()
    return path


def test_pack_and_split_give_the_same_bytes(made, digits, tmp_path, capsys):
    merged = pack(PackOptions(str(digits), str(made), str(tmp_path / "m.beton")), progress=False)
    assert checked(capsys, merged)[0] == checked(capsys, made, against=str(digits))[0] == 0
    options = SplitOptions(str(merged), reinforced=str(tmp_path / "r.beton"))
    assert split(options, progress=False)[0].read_bytes() == made.read_bytes()


def test_subset_takes_records_whole(made, digits, tmp_path, capsys):
    mixes = ReinforcedBeton.open(made).header.mixes
    indices = "0:100" if mixes else "7,90:100"
    part = cut(made, tmp_path / "p.beton", views=2, topk=1, indices=indices, images=str(digits))
    full, fewer = ReinforcedBeton.open(made), ReinforcedBeton.open(part)
    numbers = range(100) if mixes else [7, *range(90, 100)]
    for n, i in enumerate(numbers):
        assert fewer.views(n).tobytes() == full.views(i)[:2].tobytes()
    assert fewer.header.effects and checked(capsys, part)[0] == 0


def test_concat_puts_views_side_by_side(made, tmp_path):
    first, second = cut(made, tmp_path / "a.beton", views=1), tmp_path / "b.beton"
    source = ReinforcedBeton.open(made)
    header = ReinforcedHeader(**{**vars(source.header), "views": VIEWS - 1})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("ffdr.write.reinforced.check_same_images", lambda *_: None)
        with ReinforcedWriter(second, header, source) as writer:
            for i in range(len(source)):
                ids, log_probs = source.logits(i)
                writer.put(np.array([i]), source.views(i)[None, 1:], ids[None, 1:], log_probs[None, 1:])
            writer.finish()
    both = concat(ConcatOptions((str(first), str(second)), str(tmp_path / "both.beton")), progress=False)
    assert both.read_bytes() == made.read_bytes()


def test_views_with_effects_and_plain_ones_are_not_put_together(made, digits, reinforce, tmp_path):
    """Their policies differ, in a setting that the older file does not even name; or their kind of record does."""
    plain = reinforce(digits, MIXING if ReinforcedBeton.open(made).header.mixes else PLAIN, seed=4)
    with pytest.raises(UserError, match=r"made with effects None, but .*made\.beton with True; one file can"):
        concat(ConcatOptions((str(made), str(plain)), str(tmp_path / "x.beton")), progress=False)
    source, images = ReinforcedBeton.open(made), ImageBeton.open(digits)
    header = ReinforcedHeader(**{**vars(source.header), "policy": {**source.header.policy, "blur": 0.5}})
    with ReinforcedWriter(tmp_path / "blurred.beton", header, images) as writer:
        for i in range(100):
            ids, log_probs = source.logits(i)
            writer.put(np.array([i]), source.views(i)[None], ids[None], log_probs[None])
        writer.finish()
    for pair, said in (((made, "blurred"), "0.5, but .* with 0.0"), (("blurred", made), "0.0, but .* with 0.5")):
        files = tuple(str(tmp_path / f"{one}.beton") if one == "blurred" else str(one) for one in pair)
        with pytest.raises(UserError, match=rf"made with policy\.blur {said}"):
            concat(ConcatOptions(files, str(tmp_path / "x.beton")), progress=False)


def test_verify_names_effects_that_are_none(made, digits, reinforce, tmp_path, capsys):
    def spoil(i, views):
        if i == 42:
            views["first_effects"][1, 0] = 99, 0
        if i == 77:
            views["first_effects"][3, 0] = EFFECTS.index("Solarize"), 256

    path = written(tmp_path / "bad.beton", made, digits, spoil)
    status, out = checked(capsys, path)
    assert status == 1 and "2 of 100 samples" in out
    assert "sample 42: views: " in out and "sample 77: views: " in out and out.count("effect") + out.count("256") >= 2
    beton = ReinforcedBeton.open(path)
    with pytest.raises(UserError, match="sample 42: effect 99 of a view is not below 8"):
        beton.views(42)
    with pytest.raises(UserError, match="sample 77: Solarize 256 of a view is not from 0 to 255"):
        beton.views(77)


def test_verify_knows_no_vertical_flip_in_layout_version_1(made, digits, reinforce, tmp_path, capsys):
    mixes = ReinforcedBeton.open(made).header.mixes

    def flip(i, views):
        if mixes:
            mixed = np.flatnonzero(views["mix"]["partner"] != i)
            views["second"]["flags"][mixed[:1]] |= VERTICAL_FLIP if i == 5 else 0
            views["second"]["flags"] |= np.where(views["mix"]["partner"] == i, VERTICAL_FLIP, 0).astype(np.uint8)
        first_views(views)["flags"][0] |= VERTICAL_FLIP if i == 3 else 0

    plain = reinforce(digits, MIXING if mixes else PLAIN)
    assert not mixes or (ReinforcedBeton.open(plain).views(5)["mix"]["partner"] != 5).any()
    status, out = checked(capsys, written(tmp_path / "old.beton", plain, digits, flip))
    assert status == 1
    assert "sample 3: views: view 0: unknown flag" in out
    assert ("sample 5: views: view " in out) == mixes and out.count("unknown flag") == 1 + mixes


def test_the_writer_refuses_what_a_reader_would(made, digits, tmp_path):
    source, images = ReinforcedBeton.open(made), ImageBeton.open(digits)
    views, (ids, log_probs) = source.views(0).copy(), source.logits(0)
    views["first_effects"][2, 0] = 8, 0
    with ReinforcedWriter(tmp_path / "y.beton", source.header, images) as writer:
        with pytest.raises(ValueError, match="effect 8 of a view"):
            writer.put(np.array([0]), views[None], ids[None], log_probs[None])
        with pytest.raises(ValueError, match="views: "):
            writer.put(np.array([0]), first_views(views)[None], ids[None], log_probs[None])


def test_inspect_counts_effects(made, digits, reinforce, capsys):
    beton = ReinforcedBeton.open(made)
    views = np.stack([beton.views(i) for i in range(100)])
    effects = first_effects(views)
    capsys.readouterr()
    inspect(InspectOptions(str(made), json=True))
    found = json.loads(capsys.readouterr().out)["reinforced"]
    assert found["bytes_a_view"] == (126 if beton.header.mixes else 56) + 12
    about = found["view_statistics"]
    assert about["vertical_flip_share"] == np.mean(first_views(views)["flags"] & VERTICAL_FLIP != 0)
    assert list(about["effects"]) == list(EFFECTS[1:])
    for kind, name in enumerate(EFFECTS[1:], 1):
        where = effects["kind"] == kind
        assert about["effects"][name]["share"] == where.any(axis=2).mean()
        if name in EFFECT_UNITS:
            values = effects["value"][where] / EFFECT_UNITS[name]
            assert (about["effects"][name]["min"], about["effects"][name]["max"]) == (values.min(), values.max())
    inspect(InspectOptions(str(made)))
    text = capsys.readouterr().out
    assert f"Blur {100 * about['effects']['Blur']['share']:.1f} % (" in text and "flipped vertically" in text
    inspect(InspectOptions(str(reinforce(digits, PLAIN))))  # says what it always said
    text = capsys.readouterr().out
    assert "effects" not in text and "vertically" not in text


def test_a_view_in_words(made):
    record = ReinforcedBeton.open(made).views(0)[0].copy()
    first = record["first"]
    first["flags"], first["op0"], first["op1"], first["erase_h"] = 1 | VERTICAL_FLIP, 5, 0, 7
    first["level0"] = -9
    record["first_effects"][:] = 0
    for place, (name, value) in enumerate((("Brightness", 9830), ("Hue", -3277), ("Grayscale", 0), ("Blur", 4096))):
        record["first_effects"][place] = EFFECTS.index(name), value
    record["first_effects"][4] = EFFECTS.index("Solarize"), 128
    words = describe(record)
    assert words.startswith(
        "flipped, flipped vertically, Rotate -9, Brightness 1.2, Hue -0.05, Grayscale, Blur 1, Solarize 128, erased"
    )


def test_export_has_no_place_for_them(made, digits, tmp_path, capsys):
    flags = [f"--reinforced={made}", f"--images={digits}", f"--out={tmp_path / 'archive'}"]
    assert main(["export", *flags]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "may have effects or vertical flips, for which the published format has no" in said
    assert not (tmp_path / "archive").exists()


def test_stock_ffcv_opens_the_file(made):
    from ffcv.fields import Field
    from ffcv.reader import Reader

    from ffdr.beton.fields import CUSTOM_FIELDS

    reader = Reader(str(made), CUSTOM_FIELDS)
    assert all(isinstance(field, Field) for field in reader.handlers.values())
    assert reader.handlers["aug_params"].block_bytes == ReinforcedBeton.open(made).header.view_bytes
    assert read_tables(made).num_samples == 100
