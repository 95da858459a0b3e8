"""ffdr inspect: known answers on made files."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from betons import MIXING, PLAIN
from handmade import make_merged
from PIL import Image

from ffdr.augment.policy import Policy
from ffdr.augment.view import DEFAULT_BINS, FLIP, FRACTION, MIXED_DTYPE, OP_NUMBER, plain_view, unmixed
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.cli import main
from ffdr.config.files import InspectOptions
from ffdr.inspect import grid, statistics
from ffdr.inspect.run import inspect
from ffdr.loader.targets import SparseTargets
from ffdr.util.pictures import shortened
from ffdr.write.reinforced import ReinforcedWriter


@pytest.fixture
def facts_of(capsys):
    """Function: what ``ffdr inspect --json`` prints of a file."""

    def run(file, **options):
        capsys.readouterr()
        inspect(InspectOptions(str(file), json=True, **options))
        return json.loads(capsys.readouterr().out)

    return run


def write(path, images, records, ids, log_probs):
    """A reinforced beton of given records (N, K) and teacher entries (N, K, T)."""
    count, views, topk = ids.shape
    facts = (views, topk, images.num_classes, count, images.fingerprint, True, asdict(Policy(mixup=1.0)), ("a", "b"))
    with ReinforcedWriter(path, ReinforcedHeader(*facts, 32, 5), images) as writer:
        writer.put(np.arange(count), records, ids.astype(np.uint16), log_probs.astype(np.float16))
        writer.finish()
    return path


@pytest.fixture
def made(digits, tmp_path):
    """100 digits × 4 views: of each, 0 and 1 are equal, 1 of 4 is flipped, 2 of 4 quarter crops, 1 mixed."""
    images = ImageBeton.open(digits)
    records = np.zeros((100, 4), MIXED_DTYPE)
    records["first"] = records["second"] = plain_view()
    for i in range(100):
        records["mix"][i] = unmixed(i)
    half = (FRACTION + 1) // 2
    records["first"]["crop_w"][:, :2] = records["first"]["crop_h"][:, :2] = half
    records["first"]["flags"][:, 2] = FLIP
    records["first"]["op0"][:, 2] = records["first"]["op1"][:50, 2] = OP_NUMBER["Rotate"]
    records["first"]["op1"][50:, 2] = OP_NUMBER["Color"]
    records["first"]["level0"][:, 2] = DEFAULT_BINS - 1
    records["first"]["erase_h"][:25, 3] = 9
    records["mix"]["partner"][:, 3] = (np.arange(100) + 50) % 100
    records["mix"]["mixup"][:, 3] = FRACTION // 4  # the partner shows more
    labels = images.labels
    ids = np.empty((100, 4, 2), int)
    ids[..., 0] = labels[:, None]
    ids[:, 3, 0] = labels[(np.arange(100) + 50) % 100]
    ids[:10, 0, 0] = (labels[:10] + 1) % 10  # the only ones where the teacher disagrees
    ids[..., 1] = (ids[..., 0] + 3) % 10
    log_probs = np.log(np.full((100, 4, 2), 0.25))
    return write(tmp_path / "made.beton", images, records, ids, log_probs)


def test_views_have_the_shares_that_they_were_made_with(made, digits, facts_of):
    facts = facts_of(made, images=str(digits))["reinforced"]
    views = facts["view_statistics"]
    assert views["views"] == 400
    assert facts["sampled_images"] == 100
    assert views["crop_area_mean"] == pytest.approx((0.25 + 0.25 + 1 + 1) / 4, abs=1e-4)
    assert views["flip_share"] == 0.25
    assert views["erase_share"] == 25 / 400
    assert (views["mix_share"], views["mixup_share"], views["cutmix_share"]) == (0.25, 0.25, 0)
    assert {name: share for name, share in views["op_share"].items() if share} == {"Rotate": 0.25, "Color": 0.125}
    assert (views["duplicates"], views["duplicate_share"]) == (100, 0.25)
    assert views["damaged_samples"] == 0
    assert facts["bytes_a_view"] == 62 + 8
    assert facts["teachers"] == ["a", "b"]
    assert facts["policy"]["mixup"] == 1.0


def test_the_teacher_is_summed_up(made, digits, facts_of):
    teacher = facts_of(made, images=str(digits))["reinforced"]["teacher_statistics"]
    assert teacher["top1_agreement"] == 390 / 400
    half = float(np.exp(np.float16(np.log(0.25)).astype(float)))
    assert teacher["residual"]["mean"] == pytest.approx(1 - 2 * half, abs=1e-6)
    # Twice a quarter, and a half spread over eight classes: 2 · ln 4 / 4 + ln 16 / 2 = 3 · ln 2
    assert teacher["entropy"]["median"] == pytest.approx(3 * np.log(2), abs=1e-3)
    assert facts_of(made)["reinforced"]["teacher_statistics"]["top1_agreement"] is None


def test_entropy_is_that_of_the_dense_target(digits, tmp_path, facts_of):
    """Against the targets that a loss would build, with unused entries, full rows and sums above 1 by rounding."""
    images = ImageBeton.open(digits)
    rng = np.random.default_rng(0)
    probs = -np.sort(-rng.dirichlet(np.full(10, 0.3), (100, 2)), axis=2)
    probs[:50, :, 5:] = 0
    log_probs = np.where(probs > 1e-9, np.log(np.maximum(probs, 1e-9)), -65504).astype(np.float16)
    ids = np.where(log_probs > -65504, np.arange(10), 0)
    records = np.zeros((100, 2), MIXED_DTYPE)
    path = write(tmp_path / "full.beton", images, records, ids, log_probs)
    import torch

    flat = torch.from_numpy(ids.reshape(200, 10)), torch.from_numpy(log_probs.reshape(200, 10).astype(np.float64))
    dense = SparseTargets(*flat, torch.zeros(200, dtype=torch.long)).dense(10)
    entropy = torch.special.entr(dense).sum(1).numpy()
    found = facts_of(path)["reinforced"]["teacher_statistics"]["entropy"]
    assert found["mean"] == pytest.approx(entropy.mean(), abs=1e-5)
    assert found["max"] == pytest.approx(entropy.max(), abs=1e-5)
    assert found["p25"] == pytest.approx(np.quantile(entropy, 0.25), abs=1e-5)


def test_images_are_counted(digits, photos, facts_of):
    facts = facts_of(digits)
    assert facts["kind"] == "image beton"
    assert facts["file"]["fields"] == {"image": 2, "label": 1, "origin": 4}
    images = facts["images"]
    assert (images["count"], images["classes"], images["modes"]) == (100, 10, {"raw": 100})
    assert images["bytes"] == 100 * 32 * 32 * 3
    assert images["histogram"] == [10] * 10
    assert images["manifest"]["source"] == "digits"
    jpegs = facts_of(photos)["images"]
    assert jpegs["modes"] == {"jpg": 24}
    assert (jpegs["width"]["min"], jpegs["height"]["max"]) == (250, 188)
    assert facts["reinforced"] is None


def test_classes_without_images_are_named(digits):
    images = ImageBeton.open(digits)
    fewer = type(images)(**{**vars(images), "class_names": (*images.class_names, "ten", "eleven")})
    facts = statistics.image_facts(fewer)
    assert facts["classes_without_images"] == ["ten", "eleven"]
    assert (facts["images_a_class"]["min"], facts["images_a_class"]["median"]) == (0, 10)


def test_a_merged_beton_is_both(digits, reinforce, tmp_path, facts_of):
    path = make_merged(digits, reinforce(digits, MIXING), tmp_path / "packed.beton")
    facts = facts_of(path)
    assert facts["kind"] == "merged beton"
    apart = facts_of(reinforce(digits, MIXING), images=str(digits))
    assert facts["reinforced"] == apart["reinforced"]
    assert facts["images"]["histogram"] == [10] * 10


def test_of_many_images_evenly_spaced_ones_are_read(made, facts_of, monkeypatch, capsys):
    monkeypatch.setattr(statistics, "SAMPLED", 20)
    monkeypatch.setattr(statistics, "_CHUNK_VIEWS", 12)
    facts = facts_of(made)["reinforced"]
    assert facts["sampled_images"] == 20
    assert facts["view_statistics"]["views"] == 80
    # Images 0, 5, ... 20 are those of the first 25 that have an erased view.
    assert facts["view_statistics"]["erase_share"] == 5 / 80
    inspect(InspectOptions(str(made)))
    assert "80 views, those of 20 evenly spaced images out of 100" in capsys.readouterr().out


def test_the_table_is_aligned_and_complete(made, digits, capsys):
    assert main(["inspect", str(made), "--images", str(digits)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("  ")]
    start = rows[0].index(f"{made.stat().st_size:,}")
    assert all(row[start - 1] == " " and row[start] != " " for row in rows)
    text = "\n".join(lines)
    for part in (": reinforced beton", "top 2 of 10 classes", "Rotate 25.0 %, Color 12.5 %", "97.5 % (top-1)"):
        assert part in text
    assert lines[-1] == f"{made}: reinforced beton; next: ffdr verify {made}"


def test_the_picture_shows_the_views(made, digits, reinforced_digits, tmp_path):
    out = tmp_path / "grid.png"
    for file, images in ((made, str(digits)), (reinforced_digits, str(digits)), (digits, "")):
        inspect(InspectOptions(str(file), images=images, grid=str(out)))
        picture = np.asarray(Image.open(out).convert("L"))
        assert min(picture.shape) > 300
        assert picture.std() > 20
        assert not list(tmp_path.glob("*.partial"))
        out.unlink()


class Named:
    """Grey images, one of each class."""

    def __init__(self, names):
        self.class_names, self.labels = tuple(names), np.arange(len(names))

    def __len__(self):
        return len(self.labels)


@pytest.mark.filterwarnings("error")
def test_the_picture_takes_any_class_name(tmp_path, monkeypatch, capsys):
    """Dollars are no mathematics; a class whose name no font has is shown by its number."""
    show, shown = grid._show, []
    monkeypatch.setattr(grid, "_show", lambda axis, pixels, title: shown.append(title) or show(axis, pixels, title))
    monkeypatch.setattr(grid, "decode_image", lambda _, number: np.full((16, 16, 3), 30 * number, np.uint8))
    names = ["$x^$", "a $5 or $6", "two\nlines", "bell\x07", "caf\udce9", "x" * 40, "\u00e9l\u00e8ve", "\ud55c\uae00"]
    grid.draw_images(tmp_path / "grid.png", Named(names))
    assert np.asarray(Image.open(tmp_path / "grid.png").convert("L")).std() > 20
    cut = "x" * 15 + "…"
    assert shown[:7] == [
        *("0: $x^$", "1: a $5 or $6", "2: two lines", "3: class 3", "4: class 4", f"5: {cut}", "6: \u00e9l\u00e8ve")
    ]
    assert shown[7] in ("7: class 7", f"7: {names[7]}")  # as the fonts here have it
    assert capsys.readouterr().err.count("\n") <= 1


def test_names_are_cut_by_their_width():
    assert grid._name(("\u5b57" * 9,), 0) in ("class 0", "\u5b57" * 7 + "…")  # as the fonts here have it
    assert shortened("\u5b57a", 3) == "\u5b57a" and shortened("ab" * 20, 16) == "ab" * 7 + "a…"
    assert shortened("\u5b57" * 9, 16) == "\u5b57" * 7 + "…" and shortened("a\nb", 3) == "a b"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--grid=x.jpg"], "ends neither in .png nor in .html"),
        (["--grid=nowhere/x.png"], "there is no folder nowhere"),
        (["--grid=x.png"], "give the images with --images"),
        (["--images={photos}"], "made for 100 images"),
        (["--images=missing.beton"], "missing.beton: no such file"),
    ],
)
def test_mistakes_are_one_line(made, photos, arguments, text, capsys):
    assert main(["inspect", str(made), *(word.format(photos=photos) for word in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert text in captured.err


def test_images_of_an_image_beton_are_refused(digits, photos, capsys):
    assert main(["inspect", str(digits), f"--images={photos}"]) == 2
    assert "holds its own images" in capsys.readouterr().err


def test_real_draws_have_the_policy_s_shares(digits, reinforce, facts_of):
    """400 views drawn with scale 0.3 to 1, flip ½, two operations, erase ¼."""
    facts = facts_of(reinforce(digits, PLAIN))["reinforced"]["view_statistics"]
    records = ReinforcedBeton.open(reinforce(digits, PLAIN))
    assert facts["flip_share"] == pytest.approx(0.5, abs=0.1)
    assert facts["erase_share"] == pytest.approx(0.25, abs=0.1)
    assert facts["crop_area_mean"] == pytest.approx(0.6, abs=0.1)
    by_hand = np.mean([(records.views(i)["op1"] == 5) | (records.views(i)["op0"] == 5) for i in range(100)])
    assert facts["op_share"]["Rotate"] == pytest.approx(by_hand)


def test_samples_with_a_wrong_checksum_are_counted(reinforced_digits, tmp_path, facts_of, capsys):
    data, beton = bytearray(reinforced_digits.read_bytes()), ReinforcedBeton.open(reinforced_digits)
    for i in (3, 50, 99):
        data[int(beton.logit_ptr[i]) + 20] ^= 1
    (tmp_path / "r.beton").write_bytes(data)
    assert facts_of(tmp_path / "r.beton")["reinforced"]["view_statistics"]["damaged_samples"] == 3
    inspect(InspectOptions(str(tmp_path / "r.beton")))
    assert "  samples whose checksum is wrong  3\n" in capsys.readouterr().out
