"""Imported archives replay as the format says, in all their forms; what does not fit is named, and no file appears."""

import copy
import io
import signal
import subprocess
import sys
import tarfile
import time

import archive_oracle as oracle
import numpy as np
import pytest
from archive_oracle import AUGMENT, CROP_FLIP, MIX, NORMALIZE, POLICIES, SIDE, config_of, files_of, make_entries
from PIL import Image

from ffdr.archive.importing import import_archives
from ffdr.augment.geometry import from_fraction
from ffdr.augment.replay import render
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.errors import UserError
from ffdr.loader import ReinforcedDataset
from ffdr.options import ImportOptions

PADDED = {"uint8": {}, "random_crop": {"size": 32, "padding": 4}} | NORMALIZE | AUGMENT
CIFAR = {"uint8": {}, "resize": {"size": 48}, "random_crop": {"size": 48, "padding": 5}, "random_horizontal_flip": {}}
CENTERED = {"resize": {"size": 40}, "center_crop": {"size": 32}, "random_horizontal_flip": {}, "rand_augment": {}}
SMALLER = {"random_crop": {"size": 24}, "random_horizontal_flip": {}, "random_erase": {}}


@pytest.fixture(scope="module")
def images(photos):
    return ImageBeton.open(photos)


@pytest.fixture(scope="module")
def small(digits):
    return ImageBeton.open(digits)


def sizes_of(images):
    return [tuple(map(int, size)) for size in images.original_sizes]


def run(images, out, *archives):
    options = ImportOptions(archive=tuple(map(str, archives)), images=str(images.path), out=str(out))
    return ReinforcedBeton.open(import_archives(options, progress=False), images)


def imported(images, tmp_path, transforms, entries, **config):
    files = files_of(config_of(transforms, views=len(entries[0][1]), **config), entries)
    return run(images, tmp_path / "out.beton", oracle.write_folder(tmp_path / "archive", files))


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
    assert sorted(path.name for path in tmp_path.iterdir() if "both" in path.name) == ["both.beton"]


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
    for _ in range(30):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        started = len(list(tmp_path.glob("out.beton*.journal")))
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(tmp_path.glob("out.beton*.journal"))) > started or killed:
                time.sleep(0.2 + 0.15 * killed)
                break
            time.sleep(0.02)
        if process.poll() is None and not out.exists() and killed < 4:
            process.send_signal(signal.SIGKILL)
            killed += 1
        if process.wait(timeout=120) == 0:
            break
    assert killed >= 2
    assert out.read_bytes() == once


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


def spoil(change):
    """A change of one sample (of image 5) of a good archive."""

    def apply(entries):
        change(entries[5][1][2])

    return apply


def param(place, value):
    def change(sample):
        sample["params"][place] = value

    return spoil(change)


def prob(place, value):
    def change(sample):
        sample["prob"] = tuple(value if n == place else part for n, part in enumerate(sample["prob"]))

    return spoil(change)


def mix(partner, lam, cut):
    def change(sample):
        halves = [e if sample["params"][0] is None else e[0] for e in sample["params"][1:5]]
        pairs = halves if partner is None else [[half, half] for half in halves]
        sample["params"] = [partner, *pairs, lam, cut]

    return spoil(change)


PLAIN_MISTAKES = {
    "crop": (param(0, (0, 0, 33, 3)), r"5.pth.tar: sample 2: crop \(0, 0, 33, 3\) .* not inside image 5, .* 32×32"),
    "negative": (param(0, (-1, 0, 3, 3)), "not inside image 5"),
    "empty": (param(0, (1, 0, 0, 3)), "not inside image 5"),
    "fraction": (param(0, (1, 0, 1.5, 3)), "sample 2: its crop is not four whole numbers"),
    "text": (param(0, ("1", "2", "3", "4")), "sample 2: its crop is not four whole numbers"),
    "huge": (param(0, (1, 0, 10**30, 3)), "a number is too large"),
    "flip": (param(1, 1), "sample 2: its flip is not true or false"),
    "one op": (param(2, [(1, 0.0)]), "sample 2: its rand_augment is not 2 operations"),
    "unknown op": (param(2, [(14, 0.0), (1, 0.0)]), "sample 2: operation 14 is not one of 0 to 13"),
    "no bin": (param(2, [(0, 0.0), (1, 0.095)]), "sample 2: ShearX has magnitude 0.095, which is none of its 31"),
    "unsigned": (param(2, [(0, 0.0), (11, -255.0)]), "sample 2: Solarize has magnitude -255, which is none"),
    "nan": (param(2, [(0, 0.0), (1, float("nan"))]), "ShearX has magnitude nan"),
    "erase": (param(3, (40, 0, 9, 3)), r"sample 2: erased box \(40, 0, 9, 3\) is not inside 48 pixels"),
    "twice": (prob(1, [3, 1, 3]), r"sample 2: class ids \[3, 1, 3\] repeat a class"),
    "class": (prob(1, [3, 1, 10]), r"sample 2: class ids \[3, 1, 10\] are not all below 10"),
    "sum": (prob(0, [0.5, 0.4, 0.2]), "sample 2: probabilities .* their sum is not"),
    "below 0": (prob(0, [0.5, 0.4, -0.1]), "sample 2: probabilities .* are not from 0 to 1"),
    "nan prob": (prob(0, [0.5, 0.4, float("nan")]), "sample 2: probabilities .* are not from 0 to 1"),
    "short": (prob(0, [0.5, 0.4]), "sample 2: its probabilities are not 3 numbers"),
    "samples": (lambda entries: entries[5][1].pop(), "5.pth.tar: has 2 samples, but the first entry read has 3"),
    "params": (spoil(lambda sample: sample["params"].pop()), "sample 2: its params are not the 4 values"),
    "no params": (spoil(lambda sample: sample.pop("params")), "5.pth.tar: sample 2: has no params"),
}
MIXING_MISTAKES = {
    "partner": (mix(100, 0.5, None), "sample 2: its partner 100 is not an image"),
    "no partner": (mix(None, 0.5, None), "sample 2: is mixed, but names no partner"),
    "weight": (mix(3, 1.5, None), "sample 2: mixup 1.5 is not from 0 to 1"),
    "box": (mix(3, None, [0.5, 0, 0, 49, 3]), r"sample 2: cutmix box \[0, 0, 49, 3\] is not inside 48 pixels"),
    "inverted": (mix(3, None, [0.5, 5, 0, 4, 3]), "sample 2: cutmix box"),
    "no box": (mix(3, None, 0.5), "sample 2: its cutmix is not a share and a box"),
    "no pair": (
        spoil(lambda s: s.update(params=[3, (0, 0, 3, 3), [True, True], [None, None], [None, None], 0.5, None])),
        "not a pair",
    ),
}


@pytest.mark.parametrize("mistake", [*PLAIN_MISTAKES, *MIXING_MISTAKES])
def test_mistakes_are_named(small, tmp_path, mistake):
    change, text = (PLAIN_MISTAKES | MIXING_MISTAKES)[mistake]
    transforms = POLICIES["+M*+R*" if mistake in MIXING_MISTAKES else "+RA/RE"]
    entries = copy.deepcopy(make_entries(transforms, sizes_of(small)))
    change(entries)
    with pytest.raises(UserError, match=text) as error:
        imported(small, tmp_path, transforms, entries)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.beton").exists()


def test_missing_and_superfluous_entries_are_named(small, tmp_path):
    files = files_of(config_of(CROP_FLIP), make_entries(CROP_FLIP, sizes_of(small)))
    files["100.pth.tar"] = files.pop("7.pth.tar")
    text = "has 100 images: entries missing: 7; entries without an image: 100"
    for path in (oracle.write_folder(tmp_path / "a", files), oracle.write_tar(tmp_path / "a.tar.gz", files)):
        with pytest.raises(UserError, match=text):
            run(small, tmp_path / "out.beton", path)
        assert not (tmp_path / "out.beton").exists()
    many = {name: data for name, data in files.items() if len(name) != len("12.pth.tar")}
    with pytest.raises(UserError, match=r"missing: 7, 10, 11, 12, 13 and 86 more"):
        run(small, tmp_path / "out.beton", oracle.write_folder(tmp_path / "b", many))


BAD_CONFIGS = {
    "unknown": ({"random_grayscale": {}}, "transform random_grayscale can't be held by a view record"),
    "misspelt": ({"random_erasee": {}}, r"random_erasee .*\(did you mean random_erase\?\)"),
    "interpolation": ({"rand_augment": {"interpolation": "bilinear"}}, "rand_augment: interpolation bilinear"),
    "fill": ({"rand_augment": {"fill": 128}}, "rand_augment: fill 128"),
    "three ops": ({"rand_augment": {"num_ops": 3}}, "policy.ops: 3"),
    "two crops": ({"random_crop": {"size": 32}}, r"crops by random_crop \+ random_resized_crop"),
    "resized twice": ({"resize": {"size": 256}}, r"crops by resize \+ random_resized_crop"),
    "oblong": ({"random_resized_crop": {"size": [224, 192]}}, r"size \[224, 192\] is not one side"),
    "bicubic": ({"random_resized_crop": {"size": 224, "interpolation": "bicubic"}}, "interpolation bicubic"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_transforms_that_no_record_holds_are_named(small, tmp_path, name):
    change, text = BAD_CONFIGS[name]
    with pytest.raises(UserError, match=f"config.pth.tar: .*{text}"):
        imported(small, tmp_path, CROP_FLIP | change, make_entries(CROP_FLIP, sizes_of(small)))


def test_an_entry_under_another_name_is_refused(small, tmp_path):
    entries = make_entries(CROP_FLIP, sizes_of(small))
    files = files_of(config_of(CROP_FLIP), entries) | {"5.pth.tar": oracle.saved(entries[6])}
    with pytest.raises(UserError, match=r"5.pth.tar: is the entry of image 6"):
        run(small, tmp_path / "out.beton", oracle.write_folder(tmp_path / "a", files))
    files["5.pth.tar"] = oracle.saved(entries[5])
    tar = oracle.write_tar(tmp_path / "a.tar.gz", files, [*files, "8.pth.tar"])
    with pytest.raises(UserError, match=r"a.tar.gz: holds 8.pth.tar twice"):
        run(small, tmp_path / "out.beton", tar)


def test_damaged_tar_files_are_refused(small, tmp_path):
    """Cut off, flipped, too long a member, paths that lead elsewhere: one line, and nothing outside is read."""
    files = files_of(config_of(CROP_FLIP), make_entries(CROP_FLIP, sizes_of(small)))
    good = oracle.write_tar(tmp_path / "good.tar.gz", files).read_bytes()
    bad = tmp_path / "bad.tar.gz"
    for cut in (10, 5000, len(good) // 2, len(good) - 3):
        bad.write_bytes(good[:cut])
        with pytest.raises(UserError, match=r"bad.tar.gz: (cut off or damaged|holds no)"):
            run(small, tmp_path / "out.beton", bad)
    bad.write_bytes(good[:5000] + bytes([good[5000] ^ 255]) + good[5001:])
    with pytest.raises(UserError, match=r"bad.tar.gz"):
        run(small, tmp_path / "out.beton", bad)
    with tarfile.open(bad, "w:gz") as tar:
        huge = tarfile.TarInfo("reinforced_data/0.pth.tar")
        huge.size = 17 << 20
        tar.addfile(huge, io.BytesIO(bytes(huge.size)))
    with pytest.raises(UserError, match=r"has 17825792 bytes; no file of an archive has more than 16777216"):
        run(small, tmp_path / "out.beton", bad)
    with tarfile.open(bad, "w:gz") as tar:
        link = tarfile.TarInfo("reinforced_data/config.pth.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        up = tarfile.TarInfo("../../0.pth.tar")
        up.size = len(files["0.pth.tar"])
        tar.addfile(up, io.BytesIO(files["0.pth.tar"]))
    with pytest.raises(UserError, match=r"holds no config.pth.tar"):
        run(small, tmp_path / "out.beton", bad)
    assert not (tmp_path / "out.beton").exists()


def test_padded_crops_of_oblong_images_are_refused(images, tmp_path):
    transforms = {"random_crop": {"size": 100, "padding": 4}}
    with pytest.raises(UserError, match=r"padding 4 of image 0 with 250×188 pixels .* not square"):
        imported(images, tmp_path, transforms, make_entries(transforms, sizes_of(images)))


def test_archives_of_other_data_are_refused(small, tmp_path):
    entries = make_entries(CROP_FLIP, sizes_of(small))
    with pytest.raises(UserError, match=r"made for 1000 classes, but .* has 10"):
        imported(small, tmp_path / "a", CROP_FLIP, entries, classes=1000)
    with pytest.raises(UserError, match=r"image 8 of class 0 follows one of class 9"):
        imported(small, tmp_path / "b", CROP_FLIP, entries, dataset="imagenet")
    with pytest.raises(UserError, match=r"config.pth.tar: it has no reinforce.image_augmentation"):
        run(small, tmp_path / "c.beton", oracle.write_folder(tmp_path / "c", files_of({"a": 1}, entries)))
    with pytest.raises(UserError, match=r"holds no config.pth.tar"):
        files = {"0.pth.tar": oracle.saved(entries[0])}
        run(small, tmp_path / "d.beton", oracle.write_folder(tmp_path / "d", files))
    with pytest.raises(UserError, match=r"holds no entry"):
        run(small, tmp_path / "e.beton", oracle.write_folder(tmp_path / "e", {}))
    with pytest.raises(UserError, match=r"No such file"):
        run(small, tmp_path / "f.beton", tmp_path / "f")


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
