"""An archive that does not fit is named with the place and what is wrong, in one line, and no file appears."""

import copy
import io
import tarfile

import archive_oracle as oracle
import pytest
from archive_oracle import CROP_FLIP, POLICIES, config_of, files_of, make_entries
from imports import imported, run, sizes_of

from ffdr.util.errors import UserError


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
