"""ffdr transcode: coefficients bit for bit, there and back; and copies of coefficient images by the other verbs."""

import json
from dataclasses import replace

import numpy as np
import pytest
from betons import PLAIN
from jpegs import jpeg_440, make_files, pixels_of
from offset_table import read_offset_table

from ffdr.beton.fields import custom_fields
from ffdr.beton.layout import DCT, JPG, RAW
from ffdr.beton.manifest import manifest_path
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.cli import main
from ffdr.codec.dct.pack import unpack
from ffdr.codec.jpeg.read import read_jpeg
from ffdr.codec.jpeg.segments import encode_jpeg
from ffdr.config.files import (
    PackOptions,
    SplitOptions,
    SubsetOptions,
    TranscodeOptions,
    VerifyOptions,
    WriteOptions,
)
from ffdr.util.errors import UserError
from ffdr.write import encode, partial
from ffdr.write.copy.merge import pack, split
from ffdr.write.copy.subset import subset
from ffdr.write.copy.transcode import transcode
from ffdr.write.images import write_images
from ffdr.write.verify import verify


def transcoded(path, out, **changes):
    return transcode(TranscodeOptions(str(path), str(out), workers=1, **changes), progress=False)


def write(out, **changes):
    return write_images(replace(WriteOptions(source="digits", out=str(out), per_class=8, workers=1), **changes), False)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """80 digits, JPEG and raw."""
    return write(tmp_path_factory.mktemp("mixed") / "mixed.beton", mode="proportion")


def coefficients_of(beton, i):
    return unpack(beton.data(i), beton.coding, *beton.sizes[i].tolist())


def same_coefficients(one, other):
    return (one.sampling, one.width, one.height) == (other.sampling, other.width, other.height) and all(
        np.array_equal(*pair) for pair in zip((one.quant, *one.planes), (other.quant, *other.planes), strict=True)
    )


def same_files(path, other):
    """Betons and manifests."""
    return path.read_bytes() == other.read_bytes() and (
        manifest_path(path).read_bytes() == manifest_path(other).read_bytes()
    )


def test_jpegs_come_back_byte_for_byte(photos, tmp_path):
    there = transcoded(photos, tmp_path / "there.beton")
    jpegs, dct = ImageBeton.open(photos), ImageBeton.open(there)
    assert (dct.modes == DCT).all()
    for i in range(len(jpegs)):
        assert same_coefficients(coefficients_of(dct, i), read_jpeg(jpegs.data(i))[0])
    assert dct.manifest["coefficients"] == {"kept": 24}
    assert dct.manifest["options"]["mode"] == "dct"
    assert dct.manifest["jpeg_images"] == 0
    assert dct.manifest["image_bytes"] == dct.data_size.sum()
    assert dct.fingerprint == jpegs.fingerprint
    assert read_offset_table(jpegs.data(0)) is not None
    assert same_files(transcoded(there, tmp_path / "back.beton"), photos)


def test_raw_images_stay_raw(mixed, tmp_path):
    before, there = ImageBeton.open(mixed), transcoded(mixed, tmp_path / "there.beton")
    after = ImageBeton.open(there)
    assert set(after.modes.tolist()) == {RAW, DCT}
    assert np.array_equal(after.modes == RAW, before.modes == RAW)
    for i in np.flatnonzero(after.modes == RAW).tolist():
        assert np.array_equal(after.data(i), before.data(i))
    for name in ("labels", "origins", "sizes"):
        assert np.array_equal(getattr(after, name), getattr(before, name))
    back = ImageBeton.open(transcoded(there, tmp_path / "back.beton"))
    assert all(np.array_equal(back.data(i), before.data(i)) for i in range(len(before)))


def test_samplings_without_a_table(tmp_path):
    """What restart segments do not help stays a plain JPEG, with the pixels of the source."""
    files = make_files(tmp_path / "files")
    dct = write(tmp_path / "p.beton", source="imagefolder", path=str(files), split="", mode="dct", per_class=0)
    jpegs = ImageBeton.open(transcoded(dct, tmp_path / "j.beton", growth=2))
    assert (jpegs.modes == JPG).all()
    for i, path in enumerate(sorted(files.glob("a/*"))[:5]):
        assert np.array_equal(pixels_of(jpegs.data(i)), pixels_of(path.read_bytes()))
        assert (read_offset_table(jpegs.data(i)) is not None) == (path.stem[4:] in ("420", "progressive"))
        assert same_coefficients(read_jpeg(jpegs.data(i))[0], coefficients_of(ImageBeton.open(dct), i))
    assert "coefficients" not in jpegs.manifest
    assert jpegs.manifest["jpeg_images"] == len(jpegs)


def test_what_can_not_be_kept_is_encoded_and_counted(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(encode, "encode_jpeg", lambda pixels, quality, growth: jpeg_440(pixels, quality))
        old = write(tmp_path / "old.beton", per_class=2)
    new = ImageBeton.open(transcoded(old, tmp_path / "new.beton", quality=80))
    assert new.manifest["coefficients"] == {"unsupported JPEG": 20}
    assert "20 images encoded anew: unsupported JPEG" in capsys.readouterr().err
    pixels = pixels_of(ImageBeton.open(old).data(3))
    assert same_coefficients(coefficients_of(new, 3), read_jpeg(encode_jpeg(pixels, 80))[0])


@pytest.mark.parametrize("mode", ["dct", "jpg"])
def test_killed_or_shared_the_bytes_are_the_same(mixed, tmp_path, monkeypatch, mode):
    source = mixed if mode == "dct" else transcoded(mixed, tmp_path / "source.beton")
    whole = transcoded(source, tmp_path / "whole.beton")
    original = partial.Partial.commit
    for after in (1, 3):
        calls = []

        def commit(self, record, calls=calls, after=after):
            if len(calls) == after:
                raise KeyboardInterrupt
            calls.append(1)
            original(self, record)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(partial.Partial, "commit", commit)
            transcoded(source, tmp_path / "x.beton")
        assert not (tmp_path / "x.beton").exists()
        assert same_files(transcoded(source, tmp_path / "x.beton"), whole)
        (tmp_path / "x.beton").unlink()
    if mode == "dct":
        transcode(TranscodeOptions(str(source), str(tmp_path / "x.beton"), workers=2), progress=False)
        assert same_files(tmp_path / "x.beton", whole)


def test_other_options_start_afresh(mixed, tmp_path, monkeypatch, capsys):
    dct = transcoded(mixed, tmp_path / "p.beton")
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(partial.Partial, "publish", lambda *_: (_ for _ in ()).throw(RuntimeError))
        transcoded(dct, tmp_path / "x.beton", growth=1.5)
    transcoded(dct, tmp_path / "x.beton")
    assert "starting afresh" in capsys.readouterr().err


def test_refusals_name_the_way_out(mixed, digits, reinforced_digits, tmp_path):
    dct = transcoded(mixed, tmp_path / "p.beton")
    both = pack(PackOptions(str(digits), str(reinforced_digits), str(tmp_path / "both.beton")), progress=False)
    for path, options, text in (
        (both, {}, "ffdr split takes it apart first"),
        (digits, {}, "holds raw images only"),
        (dct, {"mode": "dct"}, "is a beton of mode dct already"),
        (mixed, {"mode": "jpg"}, "is a beton of mode jpg already"),
    ):
        with pytest.raises(UserError, match=text):
            transcoded(path, tmp_path / "x.beton", **options)
    with pytest.raises(UserError, match="would replace a file"):
        transcoded(dct, dct)
    with pytest.raises(UserError, match=r"transcode.mode: 'dtc' is not one of jpg, dct \(did you mean dct\?\)"):
        TranscodeOptions("a", "b", mode="dtc")
    assert not list(tmp_path.glob("x.beton*"))


def test_damage_stops_with_the_sample(mixed, tmp_path):
    for source in (mixed, transcoded(mixed, tmp_path / "p.beton")):
        images, copy = ImageBeton.open(source), tmp_path / "copy.beton"
        data = bytearray(source.read_bytes())
        data[int(images.data_ptr[41]) + 20] ^= 1
        copy.write_bytes(data)
        with pytest.raises(UserError, match=r"copy\.beton: sample 41 is damaged"):
            transcoded(copy, tmp_path / "x.beton")


def test_command_line(mixed, tmp_path, capsys):
    out = str(tmp_path / "x.beton")
    assert main(["transcode", str(mixed), f"--out={out}", "--workers=1"]) == 0
    assert ImageBeton.open(out).coding is not None
    assert main(["transcode", out]) == 2
    assert "transcode.out: give the path of a file" in capsys.readouterr().err


@pytest.fixture(scope="module")
def dct_photos(photos, tmp_path_factory):
    return transcoded(photos, tmp_path_factory.mktemp("dct") / "dct.beton")


def test_reinforcements_fit_both_kinds(photos, dct_photos, reinforce):
    reinforced = reinforce(photos, PLAIN)
    for images in (photos, dct_photos):
        ReinforcedBeton.open(reinforced, ImageBeton.open(images))


def test_merged_with_a_reinforcement_and_split_again(photos, dct_photos, reinforce, tmp_path):
    reinforced = reinforce(photos, PLAIN)
    both = pack(PackOptions(str(dct_photos), str(reinforced), str(tmp_path / "both.beton")), progress=False)
    images = ImageBeton.open(both)
    assert images.coding.pack() == ImageBeton.open(dct_photos).coding.pack()
    assert set(custom_fields(images)) == {"image", "aug_params", "logits"}
    assert verify(VerifyOptions(str(both)), progress=False) == 0
    names = str(tmp_path / "i.beton"), str(tmp_path / "r.beton")
    split(SplitOptions(str(both), *names), progress=False)
    assert same_files(tmp_path / "i.beton", dct_photos)
    assert (tmp_path / "r.beton").read_bytes() == reinforced.read_bytes()


def test_a_subset_keeps_the_coding(dct_photos, tmp_path):
    few = subset(SubsetOptions(str(dct_photos), str(tmp_path / "few.beton"), indices="5,2"), progress=False)
    images, full = ImageBeton.open(few), ImageBeton.open(dct_photos)
    assert images.coding.pack() == full.coding.pack()
    assert [images.data(n).tobytes() for n in range(2)] == [full.data(i).tobytes() for i in (5, 2)]
    assert "coefficients" not in json.loads(manifest_path(few).read_text())
    assert verify(VerifyOptions(str(few)), progress=False) == 0
