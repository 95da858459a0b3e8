"""Subsets: fewer images, views, entries; the pair cut with the same indices fits together; what can't be cut."""

import json
import resource
import signal
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from betons import MIXING, PLAIN, put
from bounded import bounded

from ffdr import ReinforcedLoader
from ffdr.augment.view import MIXED_DTYPE
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.files import PackOptions, SubsetOptions
from ffdr.util.errors import UserError
from ffdr.write.copy.merge import pack
from ffdr.write.copy.subset import parse_indices, subset
from ffdr.write.reinforced import ReinforcedWriter

INDICES, INDEX = "90:95,3,50:60", [*range(90, 95), 3, *range(50, 60)]

KILLED = """
import os, signal, sys
from ffdr.write.copy import copying
from ffdr.write.partial import Partial
from ffdr.write.copy.subset import subset
from ffdr.config.files import SubsetOptions

copying.COMMIT_BYTES = 1 << 10
commit = Partial.commit

def die(self, record):
    commit(self, record)
    if len(record) == 4:  # one checksum, so it is no longer the identity
        os.kill(os.getpid(), signal.SIGKILL)

Partial.commit = die
subset(SubsetOptions(sys.argv[1], sys.argv[2], indices=sys.argv[3]), progress=False)
"""


def cut(file, out, **options):
    return subset(SubsetOptions(str(file), str(out), **options), progress=False)


def test_images_and_reinforcement_cut_alike_fit_together(digits, reinforced_digits, tmp_path):
    images = ImageBeton.open(cut(digits, tmp_path / "i.beton", indices=INDICES))
    path = cut(reinforced_digits, tmp_path / "r.beton", indices=INDICES, images=str(digits), views=3, topk=2)
    reinforced = ReinforcedBeton.open(path, images)
    full, all_views = ImageBeton.open(digits), ReinforcedBeton.open(reinforced_digits)
    assert len(images) == len(reinforced) == len(INDEX)
    assert (reinforced.header.views, reinforced.header.topk) == (3, 2)
    assert reinforced.header.policy == all_views.header.policy
    for n, i in enumerate(INDEX):
        assert images.data(n).tobytes() == full.data(i).tobytes()
        assert images.labels[n] == full.labels[i]
        assert images.origins[n].tolist() == full.origins[i].tolist()
        assert reinforced.views(n).tobytes() == all_views.views(i)[:3].tobytes()
        for entries, all_entries in zip(reinforced.logits(n), all_views.logits(i), strict=True):
            assert entries.tobytes() == all_entries[:3, :2].tobytes()
        assert images.is_intact(n)
        assert reinforced.is_intact(n)
    assert len(list(ReinforcedLoader(images, reinforced, batch_size=8, resolution=32, workers=1))) == 2


def test_manifest_is_that_of_the_images_that_stay(digits, tmp_path):
    images = ImageBeton.open(cut(digits, tmp_path / "i.beton", indices=INDICES))
    full = ImageBeton.open(digits)
    counts = [sum(full.labels[i] == label for i in INDEX) for label in range(10)]
    assert images.manifest["images_per_class"] == counts
    assert images.manifest["num_images"] == len(INDEX)
    assert images.manifest["image_bytes"] == len(INDEX) * 32 * 32 * 3
    assert images.manifest["jpeg_images"] == 0
    assert images.manifest["fingerprint"] == images.fingerprint != full.fingerprint
    changed = {"num_images", "fingerprint", "images_per_class", "image_bytes"}
    assert {key for key in full.manifest if full.manifest[key] != images.manifest[key]} == changed


def test_everything_is_the_file_itself(digits, reinforced_digits, tmp_path):
    """The layout is that of the writers."""
    assert cut(digits, tmp_path / "i.beton", indices="0:100").read_bytes() == digits.read_bytes()
    assert cut(reinforced_digits, tmp_path / "r.beton", views=4).read_bytes() == reinforced_digits.read_bytes()


def test_a_merged_subset_is_the_merged_subsets(digits, reinforced_digits, tmp_path):
    cut(digits, tmp_path / "i.beton", indices=INDICES)
    cut(reinforced_digits, tmp_path / "r.beton", indices=INDICES, images=str(digits), views=2)
    first = PackOptions(str(tmp_path / "i.beton"), str(tmp_path / "r.beton"), str(tmp_path / "a.beton"))
    second = PackOptions(str(digits), str(reinforced_digits), str(tmp_path / "full.beton"))
    for options in (first, second):
        pack(options, progress=False)
    cut(tmp_path / "full.beton", tmp_path / "b.beton", indices=INDICES, views=2)
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "b.beton").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def mixed_pairs(path, images):
    """Views that mix image i with the other one of its pair (i ^ 1); view 2 of image 7 with image 20."""
    header = ReinforcedHeader(
        3, 1, 10, len(images), images.fingerprint, True, asdict(MIXING), ("made-up",), 32, 0
    )  # fmt: skip
    with ReinforcedWriter(path, header, images) as writer:
        for i in range(len(images)):
            views = np.zeros(3, MIXED_DTYPE)
            views["first"]["crop_w"] = i + 1
            views["mix"]["partner"] = (i ^ 1, i, 20 if i == 7 else i ^ 1)
            put(writer, i, views, np.ones((3, 1), np.uint16), np.zeros((3, 1), np.float16))
        writer.finish()
    return path


def test_partners_are_numbered_anew_or_refused(digits, tmp_path):
    full = mixed_pairs(tmp_path / "m.beton", ImageBeton.open(digits))
    path = cut(full, tmp_path / "r.beton", images=str(digits), indices="5,4,21,20,7,6")
    reinforced = ReinforcedBeton.open(path)
    partners = [reinforced.views(n)["mix"]["partner"].tolist() for n in range(6)]
    assert partners == [[1, 0, 1], [0, 1, 0], [3, 2, 3], [2, 3, 2], [5, 4, 3], [4, 5, 4]]
    assert [int(reinforced.views(n)["first"]["crop_w"][0]) for n in range(6)] == [6, 5, 22, 21, 8, 7]
    with pytest.raises(UserError, match="view 2 of image 7 is mixed with image 20"):
        cut(full, tmp_path / "x.beton", images=str(digits), indices="0:10")
    assert not list(tmp_path.glob("x.beton*"))
    cut(full, tmp_path / "x.beton", images=str(digits), indices="0:10", views=2)


@pytest.mark.parametrize(
    ("text", "index"), [("5,0:3", [5, 0, 1, 2]), ("0:2,2:4", [0, 1, 2, 3]), ("7", [7]), ("", [*range(8)])]
)
def test_indices_keep_their_order(text, index):
    assert parse_indices(text, 8).tolist() == index


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8", "'8' is no range"),
        ("0:9", "'0:9' is no range"),
        ("3:3", "'3:3' is no range"),
        ("0:99999999999999999999", "no range of images; there are 8"),
        ("-1", "neither a number"),
        ("1:", "neither a number"),
        ("1,,2", "neither a number"),
        ("1.5", "neither a number"),
        ("²", "neither a number"),
        ("4,0:5", "image 4 is named twice"),
    ],
)
def test_bad_indices_are_told(text, message):
    with pytest.raises(UserError, match=message):
        parse_indices(text, 8)


def test_choices_that_a_file_does_not_offer_are_told(digits, reinforced_digits, photos, tmp_path):
    out = tmp_path / "x.beton"
    for text, file, options in (
        ("subset.images: to take images out", reinforced_digits, {"indices": "0:5"}),
        ("subset.images: .* holds the images itself", digits, {"indices": "0:5", "images": str(photos)}),
        ("fingerprint", reinforced_digits, {"indices": "0:5", "images": str(photos)}),
        ("is an image beton and has none", digits, {"topk": 1}),
        ("subset.views: 5 is more than the 4", reinforced_digits, {"views": 5}),
        ("subset.topk: 4 is more than the 3", reinforced_digits, {"topk": 4}),
        ("say what to keep", digits, {}),
    ):
        with pytest.raises(UserError, match=text):
            cut(file, out, **options)
    with pytest.raises(UserError, match="would replace a file"):
        cut(digits, digits, indices="0:5")
    assert not list(tmp_path.iterdir())


def test_killed_subset_resumes_and_other_choices_start_afresh(digits, tmp_path, capsys):
    whole, out = cut(digits, tmp_path / "whole.beton", indices=INDICES), tmp_path / "x.beton"
    unnamed = tmp_path / "unnamed.beton"
    unnamed.write_bytes(digits.read_bytes())

    def kill(file, indices):
        child = subprocess.run([sys.executable, "-c", KILLED, str(file), str(out), indices], check=False)
        assert child.returncode == -signal.SIGKILL
        assert out.with_name("x.beton.partial.journal").exists()
        assert not out.exists()

    kill(digits, INDICES)
    cut(digits, out, indices=INDICES)
    assert "starting afresh" not in capsys.readouterr().err
    assert out.read_bytes() == whole.read_bytes()
    manifest = json.loads(out.with_suffix(".json").read_text())
    assert manifest == json.loads(whole.with_suffix(".json").read_text())
    out.unlink()
    out.with_suffix(".json").unlink()
    kill(unnamed, "0:16")  # as many images, so the places are the same, and no manifest that would differ
    cut(unnamed, out, indices=INDICES)
    assert "starting afresh" in capsys.readouterr().err
    assert out.read_bytes() == whole.read_bytes()


def test_a_subset_shows_the_pixels_of_the_full_file(photos, reinforce, tmp_path):
    from ffdr.loader.dataset import ReinforcedDataset

    reinforced = reinforce(photos, PLAIN)
    cut(photos, tmp_path / "i.beton", indices="4,2")
    cut(reinforced, tmp_path / "r.beton", images=str(photos), indices="4,2")
    few, full = ReinforcedDataset(tmp_path / "i.beton", tmp_path / "r.beton"), ReinforcedDataset(photos, reinforced)
    for n, i in enumerate((4, 2)):
        assert np.array_equal(few.view(n, 1, 48)[0], full.view(i, 1, 48)[0])


def test_crafted_indices_take_neither_time_nor_memory():
    with bounded(5):
        for text in ("9" * 5000, "0:" + "9" * 5000, "x" * 10**6):
            with pytest.raises(UserError, match="neither a number") as told:
                parse_indices(text, 8)
            assert len(str(told.value)) < 400
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(UserError, match="image 0 is named twice"):
            parse_indices(",".join(["0:100000"] * 10_000), 100_000)  # 8 GB
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
