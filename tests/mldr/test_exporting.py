"""What is exported is what the format asks for, and importing it brings every stored value back."""

import errno
import os
import shlex
from dataclasses import asdict

import archive_oracle as oracle
import numpy as np
import pytest
import torch
from betons import MIXING, PLAIN, files_in, put
from PIL import Image

from ffdr.augment.draw import draw
from ffdr.augment.policy import Policy
from ffdr.augment.view import CENTER, FRACTION, MIXED_DTYPE, WIDE, box_to_fractions
from ffdr.beton.header import UNUSED, ReinforcedHeader
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.cli import main
from ffdr.config import recipe
from ffdr.config.files import ExportOptions, ImportOptions
from ffdr.loader.dataset import ReinforcedDataset
from ffdr.mldr import exporting
from ffdr.mldr.exporting import export_archive
from ffdr.mldr.importing import import_archives
from ffdr.util.errors import UserError
from ffdr.write.reinforced import ReinforcedWriter

PADDED = Policy(crop="padded", padding=0.125)


def export(reinforced, images, out, **options):
    options = ExportOptions(reinforced=str(reinforced), images=str(images), out=str(out), **options)
    return export_archive(options, progress=False)


def back(archive, images, out):
    return import_archives(ImportOptions(archive=(str(archive),), images=str(images), out=str(out)), progress=False)


def assert_same(a, b):
    a, b = ReinforcedBeton.open(a), ReinforcedBeton.open(b)
    assert len(a) == len(b)
    for i in range(len(a)):
        assert a.views(i).tobytes() == b.views(i).tobytes()
        assert all(x.tobytes() == y.tobytes() for x, y in zip(a.logits(i), b.logits(i), strict=True))
    assert (a.header.policy, a.header.teachers, a.header.mixes) == (b.header.policy, b.header.teachers, b.header.mixes)


def altered(source, images, out, change, **fields):
    """A copy of a reinforced beton whose views and log-probabilities of each image ``change`` has changed."""
    old, images = ReinforcedBeton.open(source), ImageBeton.open(images)
    header = ReinforcedHeader(**asdict(old.header) | fields)
    with ReinforcedWriter(out, header, images) as writer:
        for i in range(len(old)):
            views, (ids, log_probs) = old.views(i).copy(), map(np.copy, old.logits(i))
            change(i, views, ids, log_probs)
            put(writer, i, views, ids, log_probs)
        writer.finish()
    return out


@pytest.mark.parametrize("policy", [PLAIN, MIXING], ids=["plain", "mixing"])
@pytest.mark.parametrize("name", ["digits", "photos"])
@pytest.mark.parametrize("suffix", ["", ".tar.gz"])
def test_importing_what_was_exported_changes_nothing(request, reinforce, tmp_path, policy, name, suffix):
    images = request.getfixturevalue(name)
    source = reinforce(images, policy)
    archive = export(source, images, tmp_path / f"archive{suffix}")
    assert_same(source, back(archive, images, tmp_path / "back.beton"))


def test_padded_crops_come_back(digits, reinforce, tmp_path):
    source = reinforce(digits, PADDED, seed=4)
    assert ReinforcedBeton.open(source).views(0)["pad"].all()
    archive = export(source, digits, tmp_path / "archive")
    config = torch.load(archive / "config.pth.tar", weights_only=True)
    assert config["reinforce"]["image_augmentation"]["random_crop"] == {"enable": True, "size": 32, "padding": 4}
    assert_same(source, back(archive, digits, tmp_path / "back.beton"))


@pytest.mark.parametrize(
    "crops",
    [
        {"resize": {"size": 48}, "random_crop": {"size": 48, "padding": 5}},
        {"resize": {"size": 40}, "center_crop": {"size": 32}},
    ],
    ids=["placed", "centred"],
)
def test_the_formats_own_crops_come_back(digits, tmp_path, crops):
    """Archive to beton to archive: the entries are those that there were."""
    images = ImageBeton.open(digits)
    transforms = crops | {"random_horizontal_flip": {}, "rand_augment": {}, "random_erase": {}} | oracle.MIX
    entries = oracle.make_entries(transforms, [(32, 32)] * len(images), seed=2)
    first = oracle.write_folder(tmp_path / "first", oracle.files_of(oracle.config_of(transforms), entries))
    beton = back(first, digits, tmp_path / "first.beton")
    second = export(beton, digits, tmp_path / "second")
    assert_same(beton, back(second, digits, tmp_path / "second.beton"))
    for index, samples in entries:
        _, exported = torch.load(second / f"{index}.pth.tar", weights_only=False)
        for old, new in zip(samples, exported, strict=True):
            partner, *halves, lam, cut = oracle.halves_of(old["params"], transforms)
            again, *others, weight, box = oracle.halves_of(new["params"], transforms)
            assert (partner, cut and cut[1:]) == (again, box and box[1:])
            assert lam is weight or abs(lam - weight) < 1e-5
            for half, other in zip(halves, others, strict=True):
                names = ("random_crop", "random_horizontal_flip")
                assert half is other or all(half.get(name) == other.get(name) for name in names)


def test_the_original_code_sees_the_same_pixels(photos, reinforce, tmp_path):
    """The exported entries, replayed by the oracle on the stored images, are what ffdr shows."""
    policy = Policy(randaugment=0, erase=0.5, mixup=0.5, cutmix=0.5)  # no operation that turns a level into many
    images, source = ImageBeton.open(photos), reinforce(photos, policy, seed=5)
    archive = export(source, photos, tmp_path / "archive")
    transforms = torch.load(archive / "config.pth.tar", weights_only=True)["reinforce"]["image_augmentation"]
    dataset = ReinforcedDataset(images, source)
    for i in range(len(images)):
        index, samples = torch.load(archive / f"{i}.pth.tar", weights_only=False)
        assert index == i
        for k, sample in enumerate(samples):
            partner, first, second, lam, cut = oracle.halves_of(sample["params"], transforms)
            shown = [
                oracle.finished(oracle.geometry(Image.fromarray(decode_image(images, n)), half, transforms), half)
                for n, half in ((i, first), (partner, second))
                if n is not None
            ]
            expected = oracle.mixed(shown[0], shown[-1], lam, cut)
            # One level of the resize, one of the rounding after mixup.
            assert np.abs(dataset.view(i, k, 32)[0] - expected).max() <= 2
            stored = np.exp(ReinforcedBeton.open(source).logits(i)[1][k].astype(float))
            assert np.allclose(sample["prob"][0], stored, atol=1e-12)


def test_equal_betons_give_equal_bytes(digits, reinforce, tmp_path, monkeypatch):
    """At another time, too."""
    archives = []
    for n in range(2):
        monkeypatch.setattr("time.time", lambda n=n: 1e9 + 1e6 * n)
        archives.append(export(reinforce(digits, MIXING), digits, tmp_path / f"{n}.tar.gz").read_bytes())
    assert archives[0] == archives[1]
    assert files_in(tmp_path) == ["0.tar.gz", "1.tar.gz"]


def test_unused_entries_and_small_probabilities_come_back(digits, reinforce, tmp_path):
    def change(i, views, ids, log_probs):
        ids[0, 1:], log_probs[0, 1:] = 0, UNUSED
        ids[0, 0] = 0
        ids[1, :], log_probs[1, :] = 0, UNUSED
        log_probs[2, 2] = -700

    source = altered(reinforce(digits, PLAIN), digits, tmp_path / "some.beton", change)
    archive = export(source, digits, tmp_path / "archive")
    assert_same(source, back(archive, digits, tmp_path / "back.beton"))
    _, samples = torch.load(archive / "0.pth.tar", weights_only=False)
    assert all(len(set(sample["prob"][1])) == 3 for sample in samples)


def set_view(**fields):
    def change(i, views, ids, log_probs):
        if i == 7:
            for name, value in fields.items():
                views[2][name] = value

    return change


def set_logits(*values):
    def change(i, views, ids, log_probs):
        if i == 7:
            log_probs[2] = values

    return change


IMPOSSIBLE = {
    "sub-pixel": (set_view(crop_x=1500, crop_w=30000), "its crop is not made of whole pixels"),
    "centre": (set_view(flags=CENTER), "is not cropped as the first view is"),
    "border": (set_view(pad=100), "has a border, which the first view has not"),
    "wide": (set_view(flags=WIDE), "is not cropped"),
    "bins": (set_view(bins=30), "does not count in the policy's 31 magnitude bins"),
    "op": (set_view(op0=200), "has an operation or a level that there is not"),
    "level": (set_view(op0=1, level0=-128), "has an operation or a level that there is not"),
    "erase": (set_view(erase_x=65535, erase_w=65535, erase_h=3), "its erased box reaches beyond"),
    "sum": (set_logits(-0.1, -0.1, -0.1), "their sum is not"),
    "too small": (set_logits(-0.1, -3, -1000), "too small for a float64"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_the_format_cannot_hold_is_named(digits, reinforce, tmp_path, case):
    change, text = IMPOSSIBLE[case]
    source = altered(reinforce(digits, PLAIN), digits, tmp_path / "odd.beton", change)
    with pytest.raises(UserError, match=rf"odd.beton: 7.pth.tar: sample 2: .*{text}") as error:
        export(source, digits, tmp_path / "archive")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "archive").exists()


@pytest.mark.parametrize("name", ["archive", "archive.tar.gz"])
def test_one_run_at_a_time_and_no_remains(digits, reinforced_digits, tmp_path, monkeypatch, name):
    """A second run at once is refused and does no harm; a failure leaves nothing; a killed run's remains go."""
    out, whole, original = tmp_path / "new" / name, tmp_path / name, exporting.zip_around
    export(reinforced_digits, digits, whole)
    calls = []

    def second(data):
        calls.append(1)
        if len(calls) == 50:
            with pytest.raises(UserError, match=f"{name}: another run is writing it"):
                export(reinforced_digits, digits, out)
        return original(data)

    def fail(data):
        calls.append(1)
        if len(calls) > 50:
            raise KeyboardInterrupt
        return original(data)

    monkeypatch.setattr(exporting, "zip_around", fail)
    with pytest.raises(KeyboardInterrupt):
        export(reinforced_digits, digits, out)
    assert not list(out.parent.iterdir())
    partial = out.with_name(name + ".partial")
    if name == "archive":
        partial.mkdir()
        (partial / "9999.pth.tar").write_bytes(b"of a killed run")
    else:
        partial.write_bytes(bytes(10**6))
    calls.clear()
    monkeypatch.setattr(exporting, "zip_around", second)
    export(reinforced_digits, digits, out)
    assert len(calls) > 50
    assert files_in(out.parent) == [out.name]
    if name == "archive":
        assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}
    else:
        assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("name", ["archive", "archive.tar.gz"])
def test_finished_work_outlives_what_keeps_it_from_its_name(digits, reinforced_digits, tmp_path, monkeypatch, name):
    """Something that has appeared meanwhile; a rename that fails, after which the old archive is back."""
    out, original, rename = tmp_path / name, exporting.zip_around, os.replace

    def appears(data):
        if not out.exists():
            out.mkdir() if name == "archive" else out.touch()
        return original(data)

    monkeypatch.setattr(exporting, "zip_around", appears)
    with pytest.raises(UserError, match=f"{name}: has appeared while it was being made"):
        export(reinforced_digits, digits, out)
    partial = out.with_name(f"{name}.partial")
    partial.rename(tmp_path / f"kept-{name}")
    assert_same(reinforced_digits, back(tmp_path / f"kept-{name}", digits, tmp_path / "back.beton"))

    def fails(old, new):
        if new == out:
            raise OSError(errno.EIO, "Input/output error")
        rename(old, new)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="can't be written"):
        export(reinforced_digits, digits, out, overwrite=True)
    assert out.exists() and partial.exists() and not exporting.replaced_path(out).exists()


def test_damaged_samples_are_not_exported(digits, reinforced_digits, tmp_path):
    data = bytearray(reinforced_digits.read_bytes())
    data[int(ReinforcedBeton.open(reinforced_digits).view_ptr[5]) + 3] ^= 4
    (tmp_path / "r.beton").write_bytes(data)
    with pytest.raises(UserError, match=r"r.beton: sample 5 is damaged"):
        export(tmp_path / "r.beton", digits, tmp_path / "archive")
    assert [path.name for path in tmp_path.iterdir()] == ["r.beton"]


def test_other_refusals(digits, photos, reinforce, tmp_path):
    source = reinforce(digits, PLAIN)
    several = altered(source, digits, tmp_path / "several.beton", lambda *_: None, resolution=0)
    with pytest.raises(UserError, match=r"several resolutions; give export.resolution"):
        export(several, digits, tmp_path / "archive")
    assert export(several, digits, tmp_path / "archive", resolution=32).is_dir()
    with pytest.raises(UserError, match=r"archive: exists, made from other contents of --reinforced; --ov"):
        export(source, digits, tmp_path / "archive")
    foreign = altered(source, digits, tmp_path / "foreign.beton", lambda *_: None, policy={"kind": "other"})
    with pytest.raises(UserError, match=r"its policy is not one that ffdr draws from"):
        export(foreign, digits, tmp_path / "b")
    with pytest.raises(UserError, match=r"made for 100 images"):
        export(source, photos, tmp_path / "b")
    padded = reinforce(photos, PADDED, seed=4)
    with pytest.raises(UserError, match=r"has a border other than|is a padded crop that is not 32×32"):
        export(padded, photos, tmp_path / "b")


def test_a_record_that_contradicts_its_params_is_refused(digits, reinforce, tmp_path):
    source = reinforce(digits, MIXING)
    archive = export(source, digits, tmp_path / "archive")
    changed = 0
    for i in range(100):
        index, samples = torch.load(archive / f"{i}.pth.tar", weights_only=False)
        if any("record" in sample for sample in samples):
            record = next(sample for sample in samples if "record" in sample)
            forged = np.frombuffer(record["record"], MIXED_DTYPE).copy()
            forged["first"]["crop_x"], forged["first"]["crop_w"] = box_to_fractions(1, 1, 32)
            record["record"] = forged.tobytes()
            good = (archive / f"{i}.pth.tar").read_bytes()
            (archive / f"{i}.pth.tar").write_bytes(oracle.saved((index, samples)))
            with pytest.raises(UserError, match=rf"{i}.pth.tar: sample .*says something else than its params"):
                back(archive, digits, tmp_path / "back.beton")
            (archive / f"{i}.pth.tar").write_bytes(good)
            changed += 1
        if changed == 3:
            break
    assert changed == 3


def test_the_verbs(digits, reinforce, tmp_path, capsys):
    source = reinforce(digits, PLAIN)
    archive, beton = tmp_path / "archive.tar.gz", tmp_path / "back.beton"
    assert main(["export", f"--reinforced={source}", f"--images={digits}", f"--out={archive}"]) == 0
    assert main(["import", f"--archive={archive}", f"--images={digits}", f"--out={beton}"]) == 0
    assert_same(source, beton)
    comma = tmp_path / "a,b.tar.gz"
    capsys.readouterr()
    assert main(["export", f"--reinforced={source}", f"--images={digits}", f"--out={comma}"]) == 0
    verb, *flags = shlex.split(capsys.readouterr().out.partition("; next: ")[2])[1:]
    assert recipe.parse(verb, flags).archive == (str(comma),)
    capsys.readouterr()
    assert main(["import", f"--archive={tmp_path / 'none'}", f"--images={digits}", f"--out={beton}"]) == 2
    assert capsys.readouterr().err == f"ffdr import: {tmp_path / 'none'}: No such file or directory\n"
    main(["import", "--help"])
    assert "CC-BY-NC-ND" in " ".join(capsys.readouterr().out.split())


def test_drawn_mixes_are_never_lost(digits):
    """The fixture's policy does draw what these tests are about."""
    images = ImageBeton.open(digits)
    drawn = [draw(MIXING, 3, k, i, images.original_sizes)["mix"] for i in range(100) for k in range(4)]
    assert sum(mix["mixup"] != FRACTION and mix["cut_h"] != 0 for mix in drawn) > 50
