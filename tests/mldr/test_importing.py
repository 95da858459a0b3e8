"""Imported archives replay as the format says, in all their forms; killed runs go on."""

import signal
import subprocess
import sys
import time
from contextlib import suppress

import archive_oracle as oracle
import numpy as np
import pytest
from archive_oracle import AUGMENT, CROP_FLIP, MIX, NORMALIZE, POLICIES, SIDE, config_of, files_of, make_entries
from betons import files_in
from crashes import Ordeal, fresh_process
from imports import imported, run, sizes_of
from PIL import Image

from ffdr.archive import importing
from ffdr.augment.geometry import from_fraction
from ffdr.augment.replay import render
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.loader.dataset import ReinforcedDataset
from ffdr.util.errors import UserError
from ffdr.write import reinforced

PADDED = {"uint8": {}, "random_crop": {"size": 32, "padding": 4}} | NORMALIZE | AUGMENT
CIFAR = {"uint8": {}, "resize": {"size": 48}, "random_crop": {"size": 48, "padding": 5}, "random_horizontal_flip": {}}
CENTERED = {"resize": {"size": 40}, "center_crop": {"size": 32}, "random_horizontal_flip": {}, "rand_augment": {}}
SMALLER = {"random_crop": {"size": 24}, "random_horizontal_flip": {}, "random_erase": {}}


def bare(view):
    plain = view.copy()
    for name in ("op0", "op1", "erase_h"):
        plain[name] = 0
    return plain


def check_half(images, image, record, half, transforms, side):
    """The half as ffdr makes it, once its crop is within a level and the rest is exact."""
    pixels = decode_image(images, image)
    resized = render(pixels, bare(record), side)
    expected = oracle.geometry(Image.fromarray(pixels), half, transforms)
    assert np.abs(resized.astype(int) - expected).max() <= 1
    out = render(pixels, record, side)
    assert np.array_equal(out, oracle.finished(resized, half)), half
    return out


def check_pixels(images, reinforced, entries, transforms):
    dataset, mixes = ReinforcedDataset(images, reinforced), reinforced.header.mixes
    side = reinforced.header.resolution
    for index, samples in entries:
        for k, sample in enumerate(samples):
            record = reinforced.views(index)[k]
            partner, first, second, lam, cut = oracle.halves_of(sample["params"], transforms)
            out = check_half(images, index, record["first"] if mixes else record, first, transforms, side)
            if partner is not None:
                other = check_half(images, partner, record["second"], second, transforms, side)
                expected = oracle.mixed(out, other, lam, cut)
                out = dataset.view(index, k, side)[0]
                assert np.abs(out - expected).max() <= 1, (lam, cut)
            else:
                assert np.array_equal(dataset.view(index, k, side)[0], out)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_four_policies_replay_as_the_oracle(images, tmp_path, policy):
    transforms = POLICIES[policy]
    entries = make_entries(transforms, sizes_of(images), views=4, seed=len(policy))
    reinforced = imported(images, tmp_path, transforms, entries)
    assert reinforced.header.mixes == ("M*" in policy)
    assert (reinforced.header.views, reinforced.header.resolution) == (4, SIDE)
    assert reinforced.header.teachers == ("a", "b")
    check_pixels(images, reinforced, entries, transforms)


@pytest.mark.parametrize("transforms", [PADDED, CIFAR, CENTERED, SMALLER], ids=["padded", "cifar", "centred", "window"])
def test_other_crops_replay_as_the_oracle(small, tmp_path, transforms):
    entries = make_entries(transforms, sizes_of(small), seed=5)
    reinforced = imported(small, tmp_path, transforms, entries)
    check_pixels(small, reinforced, entries, transforms)


def test_resized_windows_of_images_that_are_not_square(images, tmp_path):
    transforms = {"resize": {"size": 60}, "random_crop": {"size": 48, "padding": 6}}
    entries = make_entries(transforms, sizes_of(images), seed=6)
    check_pixels(images, imported(images, tmp_path, transforms, entries), entries, transforms)


def partner_of(sample):
    return oracle.halves_of(sample["params"], CROP_FLIP | MIX)[0]


def test_an_image_mixed_with_another_view_of_itself(small, tmp_path):
    transforms = CROP_FLIP | MIX
    entries = make_entries(transforms, sizes_of(small), seed=7)
    own = [(i, k) for i, samples in entries for k, s in enumerate(samples) if partner_of(s) == i]
    assert len(own) > 20
    reinforced = imported(small, tmp_path, transforms, entries)
    assert all(reinforced.views(i)["mix"]["partner"][k] == i for i, k in own)
    check_pixels(small, reinforced, entries, transforms)


@pytest.mark.parametrize("policy", POLICIES)
def test_both_forms_of_params_say_the_same(images, tmp_path, policy):
    transforms = POLICIES[policy]
    lists, dictionaries = (make_entries(transforms, sizes_of(images), seed=8, compress=c) for c in (True, False))
    assert isinstance(dictionaries[0][1][0]["params"], dict)
    a = imported(images, tmp_path / "a", transforms, lists)
    b = imported(images, tmp_path / "b", transforms, dictionaries)
    assert a.path.read_bytes() == b.path.read_bytes()


def test_logits_are_sorted_and_rounded(small, tmp_path):
    entries = make_entries(CROP_FLIP, sizes_of(small), seed=9)
    entries[0][1][0]["prob"] = ([0.0, 0.25, 0.5], [4, 9, 2])
    reinforced = imported(small, tmp_path, CROP_FLIP, entries)
    ids, log_probs = reinforced.logits(0)
    assert ids[0].tolist() == [2, 9, 0]
    assert log_probs[0].tolist() == [np.float16(np.log(0.5)), np.float16(np.log(0.25)), -65504]
    for index, samples in entries:
        ids, log_probs = reinforced.logits(index)
        for k, sample in enumerate(samples):
            best = sorted(zip(*sample["prob"], strict=True), reverse=True)
            kept = [i for p, i in best if p > 0]
            assert ids[k].tolist()[: len(kept)] == kept
            stored = np.exp(log_probs[k].astype(float))
            assert np.abs(stored - [p for p, _ in best]).max() < 3e-3
            assert stored.sum() <= 1.001


def test_a_tar_file_is_read_in_any_order(small, tmp_path):
    """Several archives: their views follow each other in the order given; one came as a folder, one as a tar file."""
    transforms = POLICIES["+M*+R*"]
    first, second = (make_entries(transforms, sizes_of(small), views=v, seed=v) for v in (3, 2))
    files = files_of(config_of(transforms, views=3), first)
    names = list(files)
    np.random.default_rng(0).shuffle(names)
    assert names[0] != "config.pth.tar"
    tar = oracle.write_tar(tmp_path / "a.tar.gz", files, names)
    folder = oracle.write_folder(tmp_path / "b", files_of(config_of(transforms, views=2), second))
    alone = [run(small, tmp_path / f"{path.name}.beton", path) for path in (tar, folder)]
    both = run(small, tmp_path / "both.beton", tar, folder)
    assert both.header.views == 5
    for i in range(len(small)):
        assert np.array_equal(both.views(i), np.concatenate([one.views(i) for one in alone]))
        for n in range(2):
            assert np.array_equal(both.logits(i)[n], np.concatenate([one.logits(i)[n] for one in alone]))
    assert [name for name in files_in(tmp_path) if "both" in name] == ["both.beton"]


def test_parts_are_checked_and_cleared_away(small, tmp_path, monkeypatch):
    """A part that was damaged after it was written is not copied; parts of archives that are gone are removed."""
    files = files_of(config_of(CROP_FLIP, views=3), make_entries(CROP_FLIP, sizes_of(small), views=3))
    archives = [oracle.write_folder(tmp_path / name, files) for name in "ab"]
    out, merge = tmp_path / "out.beton", importing._merge

    def damaged(parts, *others):
        data = bytearray(parts[1].path.read_bytes())
        data[int(parts[1].view_ptr[7])] ^= 4
        parts[1].path.write_bytes(data)
        merge([parts[0], ReinforcedBeton.open(parts[1].path)], *others)

    monkeypatch.setattr(importing, "_merge", damaged)
    with pytest.raises(UserError, match=r"out.beton.[0-9a-f]{12}.part: sample 7 is damaged"):
        run(small, out, *archives)
    monkeypatch.undo()
    assert not out.exists()
    others = [tmp_path / name for name in ("out.beton.mine.part", "other.beton.0123456789ab.part")]
    for other in others:
        other.write_bytes(b"")
    run(small, out, archives[0])
    assert sorted(tmp_path.glob("*.part")) == sorted(others)


def noted(folder):
    """What the journals of unfinished files say: it changes whenever a run has completed something."""
    sizes = {}
    for path in folder.glob("out.beton*.journal"):
        with suppress(FileNotFoundError):  # finished meanwhile
            sizes[path.name] = path.stat().st_size
    return sizes


def test_a_killed_import_goes_on(small, tmp_path):
    """SIGKILL at several moments; the bytes are those of an undisturbed run, and no final name shows before."""
    entries = make_entries(POLICIES["+M*"], sizes_of(small), views=100, seed=4)
    entries = [(i, samples * 8) for i, samples in entries]
    files = files_of(config_of(POLICIES["+M*"], views=800), entries)
    archives = [oracle.write_tar(tmp_path / f"{n}.tar.gz", files) for n in "ab"]
    once = run(small, tmp_path / "once.beton", *archives).path.read_bytes()
    out = tmp_path / "out.beton"
    arguments = f"import --archive={archives[0]},{archives[1]} --images={small.path} --out={out}".split()
    command = [sys.executable, "-m", "ffdr", *arguments]
    killed = 0
    while not out.exists():
        before = noted(tmp_path)
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and (killed == 4 or noted(tmp_path) == before):
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        assert process.wait() in (0, -signal.SIGKILL)
    assert killed == 4
    assert out.read_bytes() == once


def import_through_kills(images, archives, folder):
    images = ImageBeton.open(images)
    importing.BATCH_VIEWS, reinforced.COMMIT_BYTES = 64, 1 << 10
    ordeal = Ordeal(lambda out: run(images, out, *archives), folder, seed=1)
    return ordeal.run(70), ordeal.whole


def test_killed_at_random_moments(small, tmp_path):
    """Of two archives: the files of both and what they are put together in."""
    files = files_of(config_of(CROP_FLIP, views=3), make_entries(CROP_FLIP, sizes_of(small), views=3))
    archives = [oracle.write_tar(tmp_path / f"{n}.tar.gz", files) for n in "ab"]
    with fresh_process() as process:
        killed, whole = process.submit(import_through_kills, small.path, archives, tmp_path / "work").result()
    assert killed["time"] > 0
    assert sum(killed.values()) >= 70
    assert {"os.rename", "fsync"} <= set(killed)
    once = run(small, tmp_path / "once.beton", *archives).path.read_bytes()
    assert whole == {".x.beton.work": True, "x.beton": once}


def test_a_resumed_import_reads_only_what_is_missing(small, tmp_path):
    entries = make_entries(CROP_FLIP, sizes_of(small), views=100, seed=4)
    files = files_of(config_of(CROP_FLIP, views=100), entries)
    broken = dict(files) | {"99.pth.tar": b"broken"}
    folder = oracle.write_folder(tmp_path / "archive", broken)
    with pytest.raises(UserError, match=r"99.pth.tar: not a zip"):
        run(small, tmp_path / "out.beton", folder)
    assert not (tmp_path / "out.beton").exists()
    (folder / "99.pth.tar").write_bytes(files["99.pth.tar"])
    (folder / "3.pth.tar").write_bytes(b"never read again")
    again = run(small, tmp_path / "out.beton", folder)
    (folder / "3.pth.tar").write_bytes(files["3.pth.tar"])
    assert again.path.read_bytes() == run(small, tmp_path / "anew.beton", folder).path.read_bytes()


def test_the_public_configs_spelling_is_understood(small, tmp_path):
    """Those of Flowers-102 and Food-101 say random_resize_crop."""
    written = {("random_resize_crop" if name == "random_resized_crop" else name): a for name, a in CROP_FLIP.items()}
    written["mixup"] = {"enable": False}
    entries = make_entries(CROP_FLIP, sizes_of(small))
    check_pixels(small, imported(small, tmp_path, written, entries), entries, CROP_FLIP)


def test_the_magnitude_in_the_config_decides_among_equal_ones(small, tmp_path):
    """AutoContrast and Equalize have none, and eight levels of Posterize leave eight bits."""
    transforms = CROP_FLIP | {"rand_augment": {"magnitude": 9}}
    entries = make_entries(transforms, sizes_of(small))
    entries[0][1][0]["params"][2] = [(12, 0.0), (0, 0.0)]
    entries[0][1][1]["params"][2] = [(10, 7.0), (10, 5.0)]
    first, second = imported(small, tmp_path, transforms, entries).views(0)[:2]
    assert (first["level0"], first["level1"]) == (9, 0)
    assert second["level0"] == 9
    assert second["level1"] == 19  # the lowest for which 8 - round(level / 7.5) is 5


def test_crops_of_other_sizes_come_back_in_whole_pixels(images, tmp_path):
    """Each of many boxes is a fraction that stands for exactly its pixels."""
    entries = make_entries(CROP_FLIP, sizes_of(images), views=40, seed=1)
    reinforced = imported(images, tmp_path, CROP_FLIP, entries)
    for index, samples in entries:
        width, height = sizes_of(images)[index]
        views = reinforced.views(index)
        for k, sample in enumerate(samples):
            top, left, h, w = sample["params"][0]
            box = {"crop_x": left, "crop_y": top, "crop_w": w, "crop_h": h}
            for name, pixels in box.items():
                side = width if name in ("crop_x", "crop_w") else height
                assert from_fraction(views[k][name], side) == pixels
