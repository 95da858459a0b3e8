"""Betons put together equal what would have been made in one go; what does not fit together is refused."""

import json
import shutil
from dataclasses import asdict, replace
from fractions import Fraction

import numpy as np
import pytest
from betons import MIXING, PLAIN, TOPK, VIEWS
from crashes import Ordeal, fresh_process

from ffdr.beton.layout import DCT, JPG
from ffdr.beton.manifest import manifest_path
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.cli import main
from ffdr.config.files import ConcatOptions, PackOptions, SubsetOptions, TranscodeOptions, WriteOptions
from ffdr.data.source import FileSource
from ffdr.loader.dataset import ReinforcedDataset
from ffdr.util.errors import UserError
from ffdr.write import images as images_module
from ffdr.write.copy import copying
from ffdr.write.copy.concat import concat
from ffdr.write.copy.copying import Copy
from ffdr.write.copy.merge import pack
from ffdr.write.copy.subset import subset
from ffdr.write.copy.transcode import transcode
from ffdr.write.images import write_images
from ffdr.write.partial import Partial
from ffdr.write.pixel_sums import PixelSums
from ffdr.write.reinforced import ReinforcedWriter


def joined(out, *files):
    return concat(ConcatOptions(tuple(map(str, files)), str(out)), progress=False)


def part(file, out, indices="", **options):
    return subset(SubsetOptions(str(file), str(out), indices=indices, **options), progress=False)


def manifest_of(path):
    return manifest_path(path).read_text()


@pytest.fixture(scope="module")
def shards(photos, tmp_path_factory):
    """Two shards and the whole of 24 photographs in mixed order, eight more of which can't be read."""
    folder = tmp_path_factory.mktemp("shards")
    shutil.copytree(photos.with_suffix(""), folder / "pictures")
    classes = sorted(path.name for path in (folder / "pictures").iterdir())
    for number in range(8):
        (folder / "pictures" / classes[number] / "bad.jpg").write_bytes(b"no picture")
    names = [str(path.relative_to(folder / "pictures")) for path in sorted((folder / "pictures").rglob("*.jpg"))]
    np.random.default_rng(0).shuffle(names)
    with pytest.MonkeyPatch.context() as patched:
        for name, some in (("whole", names), ("a", names[:20]), ("b", names[20:])):
            labels = [classes.index(path.partition("/")[0]) for path in some]
            source = FileSource(folder / "pictures", some, labels, classes)
            patched.setattr(images_module, "open_source", lambda *_, source=source: source)
            options = {"mode": "proportion", "on_error": "skip", "workers": 1, "max_resolution": 130}
            write_images(WriteOptions("imagefolder", "x", out=str(folder / f"{name}.beton"), **options), progress=False)
    return folder


def test_shards_become_what_one_write_makes(shards):
    out = joined(shards / "joined.beton", shards / "a.beton", shards / "b.beton")
    whole = ImageBeton.open(shards / "whole.beton")
    assert len(whole.manifest["skipped"]) == 8 and 0 < whole.manifest["jpeg_images"] < 24
    assert ImageBeton.open(shards / "a.beton").mean != ImageBeton.open(shards / "b.beton").mean
    assert out.read_bytes() == whole.path.read_bytes()
    assert manifest_of(out) == manifest_of(whole.path)
    turned = ImageBeton.open(joined(shards / "turned.beton", shards / "b.beton", shards / "a.beton"))
    assert turned.fingerprint != whole.fingerprint
    assert sorted(turned.checksums) == sorted(whole.checksums)
    assert (turned.mean, turned.std) == (whole.mean, whole.std)
    assert main(["verify", str(turned.path), "--decode"]) == 0


@pytest.fixture(scope="module")
def coded(photos, tmp_path_factory):
    """The photographs as coefficient images."""
    out = tmp_path_factory.mktemp("coded") / "coded.beton"
    return transcode(TranscodeOptions(str(photos), str(out), workers=1), progress=False)


@pytest.mark.parametrize("mode", ["jpg", "dct"])
def test_parts_of_a_file_become_the_file_again(photos, coded, tmp_path, mode):
    """Coefficient images too, where they are coded alike."""
    whole = photos if mode == "jpg" else coded
    parts = [part(whole, tmp_path / f"{name}.beton", name) for name in ("0:7", "7:20", "20:24")]
    out = joined(tmp_path / "out.beton", *parts)
    assert out.read_bytes() == whole.read_bytes()
    expected = json.loads(manifest_of(whole))
    expected.pop("coefficients", None)  # a part does not say of which images they were kept
    assert json.loads(manifest_of(out)) == expected


def test_coefficients_join_jpegs_but_none_of_another_coding(photos, coded, tmp_path):
    first, second = part(coded, tmp_path / "first.beton", "0:12"), part(photos, tmp_path / "second.beton", "12:24")
    mixed = ImageBeton.open(joined(tmp_path / "mixed.beton", second, first))
    assert mixed.modes.tolist() == [JPG] * 12 + [DCT] * 12
    for n in range(24):
        assert np.array_equal(decode_image(mixed, n), decode_image(ImageBeton.open(photos), (n + 12) % 24))
    other = transcode(TranscodeOptions(str(second), str(tmp_path / "other.beton"), workers=1), progress=False)
    text = "other.beton: its coefficient images are coded in another way than those of .*first.beton; ffdr transcode"
    with pytest.raises(UserError, match=text):
        joined(tmp_path / "out.beton", first, other)


def test_sums_come_back_from_rounded_moments():
    rng = np.random.default_rng(1)
    for size in (1, 50, 2_000, 10**6, 6 * 10**10):
        for _ in range(50):
            totals = [int(size * 255 * share) for share in rng.random(3)]
            # At most what so many bytes of this sum can have: all of them 0 or 255.
            squares = [total * total // size + 1 + int((255 * total - total**2 / size) * 0.9) for total in totals]
            sums = PixelSums(size, totals, squares)
            if min(sums.std()) > 1 / 255:
                assert PixelSums.of_moments(sums.mean(), sums.std(), size) == sums
    one, other = PixelSums(2, [3, 4, 5], [5, 8, 13]), PixelSums(1, [9, 9, 9], [81, 81, 81])
    assert one + other == PixelSums(3, [12, 13, 14], [86, 89, 94])
    assert (one + other).mean()[0] == pytest.approx(float(Fraction(12, 3 * 255)))


@pytest.mark.parametrize("policy", [PLAIN, MIXING], ids=["plain", "mixing"])
def test_views_follow_each_other(digits, reinforce, tmp_path, policy):
    files = [reinforce(digits, policy, seed) for seed in (3, 44, 45)]
    members = [ReinforcedBeton.open(file) for file in files]
    out = ReinforcedBeton.open(joined(tmp_path / "out.beton", *files), ImageBeton.open(digits))
    assert out.header == replace(members[0].header, views=3 * VIEWS)
    for i in range(100):
        assert np.array_equal(out.views(i), np.concatenate([member.views(i) for member in members]))
        for found, parts in zip(
            out.logits(i), zip(*(member.logits(i) for member in members), strict=True), strict=True
        ):
            assert np.array_equal(found, np.concatenate(parts))
    assert main(["verify", str(out.path), "--against", str(digits)]) == 0
    images = ImageBeton.open(digits)
    seen, target = ReinforcedDataset(images, out).view(7, VIEWS + 2, 32)
    expected, other = ReinforcedDataset(images, members[1]).view(7, 2, 32)
    assert np.array_equal(seen, expected)
    assert np.array_equal(target.ids, other.ids)
    assert part(out.path, tmp_path / "first.beton", views=VIEWS).read_bytes() == files[0].read_bytes()


def test_stock_betons_become_one_of_stock(stock, tmp_path):
    whole, out = ImageBeton.open(stock / "jpg.beton"), tmp_path / "out.beton"
    found = ImageBeton.open(joined(out, stock / "first.beton", stock / "second.beton"))
    assert found.fingerprint == whole.fingerprint
    assert found.manifest is None
    assert all(found.data(i).tobytes() == whole.data(i).tobytes() for i in range(24))


def changed_header(path, out, images, **changes):
    beton = ReinforcedBeton.open(path)
    with ReinforcedWriter(out, replace(beton.header, **changes), images) as writer:
        for i in range(len(beton)):
            ids, log_probs = beton.logits(i)
            writer.put(np.array([i]), beton.views(i)[None], ids[None], log_probs[None])
        writer.finish()
    return out


@pytest.fixture
def refused(tmp_path, capsys):
    """Function that gives the one line with which ``concat`` refuses files."""

    def call(*files):
        out = tmp_path / "refused.beton"
        assert main(["concat", f"--files={','.join(map(str, files))}", f"--out={out}"]) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1 and not said.out
        assert not list(tmp_path.glob("refused*"))
        return said.err

    return call


def renamed(path, out, **changes):
    shutil.copy(path, out)
    manifest_path(out).write_text(json.dumps(json.loads(manifest_of(path)) | changes))
    return out


def test_images_that_do_not_fit_are_refused(photos, digits, stock, tmp_path, refused):
    first, second = (part(photos, tmp_path / f"{name}.beton", name) for name in ("0:12", "12:24"))
    assert f"{photos} and {photos} are one file" in refused(photos, photos)
    assert "is one file; name two at least" in refused(photos)
    again = part(photos, tmp_path / "again.beton", "20:24,3")
    assert f"{again}: image 4 and {first}: image 3 are one image, known by its path" in refused(first, again)
    names = list(ImageBeton.open(photos).class_names)
    other = renamed(second, tmp_path / "other.beton", class_names=[*names[:3], "cat", *names[4:]])
    assert f"{other}: class 3 is called 'cat', but that of {first} 'class_03'" in refused(first, other)
    more = renamed(second, tmp_path / "more.beton", class_names=[*names, "cat"], num_classes=11)
    assert f"{more}: has 11 classes, but {first} has 10" in refused(first, more)
    assert f"{stock / 'jpg.beton'}: has no manifest, unlike {photos}; ffdr adopt" in refused(
        photos, stock / "jpg.beton"
    )
    assert "no such file" in refused(photos, tmp_path / "none.beton")


def test_views_that_do_not_fit_are_refused(photos, digits, reinforce, tmp_path, refused):
    one, images = reinforce(digits, PLAIN), ImageBeton.open(digits)
    two = reinforce(digits, PLAIN, 44)
    assert f"{one}: holds views, but {digits} holds images; ffdr pack" in refused(digits, one)
    merged = pack(PackOptions(str(digits), str(one), str(tmp_path / "merged.beton")), progress=False)
    assert f"{merged}: is a merged beton; ffdr split takes it apart" in refused(two, merged)
    assert f"but {one} for 100 with {images.fingerprint}" in refused(one, reinforce(photos, PLAIN))
    fewer = part(two, tmp_path / "fewer.beton", topk=TOPK - 1)
    assert f"{one}: has 3 teacher entries per view, but {fewer} 2; ffdr subset --topk=2" in refused(one, fewer)
    assert "made with policy.mixup 0.5" in refused(one, reinforce(digits, MIXING, 44))
    for number, (change, text) in enumerate(
        (
            ({"teachers": ("else",)}, "made with teachers ('else',), but"),
            ({"resolution": 64}, "made with resolution 64, but"),
            ({"policy": asdict(PLAIN) | {"magnitude": 5}}, "made with policy.magnitude 5, but"),
        )
    ):
        other = changed_header(two, tmp_path / f"other{number}.beton", images, **change)
        assert text in refused(one, other)
    copy = shutil.copy(one, tmp_path / "copy.beton")
    assert f"{copy}: its view 0 is view 0 of {one}; ffdr reinforce draws others" in refused(one, copy)
    both = joined(tmp_path / "both.beton", one, two)
    assert f"{both}: its view 4 is view 0 of {two}" in refused(two, both)


def test_damage_is_not_copied(shards, tmp_path):
    bad = renamed(shards / "b.beton", tmp_path / "bad.beton")
    data = bytearray(bad.read_bytes())
    data[int(ImageBeton.open(bad).data_ptr[3]) + 20] ^= 1
    bad.write_bytes(data)
    with pytest.raises(UserError, match=r"bad.beton: sample 3 is damaged"):
        joined(tmp_path / "out.beton", shards / "a.beton", bad)


def through_kills(files, folder):
    copying.COMMIT_BYTES = 1 << 11
    ordeal = Ordeal(lambda out: joined(out, *files), folder, seed=2)
    return ordeal.run(24), ordeal.whole


def test_killed_at_random_moments(shards, tmp_path):
    files = [str(shards / "a.beton"), str(shards / "b.beton")]
    with fresh_process() as process:
        killed, whole = process.submit(through_kills, files, tmp_path / "work").result()
    assert sum(killed.values()) >= 24 and {"os.rename", "fsync", "commit"} <= set(killed)
    assert whole["x.beton"] == (shards / "whole.beton").read_bytes()


def test_views_that_were_copied_are_not_copied_again(digits, reinforce, tmp_path, monkeypatch):
    files = [reinforce(digits, PLAIN, seed) for seed in (3, 44)]
    whole, out = joined(tmp_path / "whole.beton", *files), tmp_path / "x.beton"
    monkeypatch.setattr(copying, "COMMIT_BYTES", 1 << 12)
    commit, records, copied = Partial.commit, [], []

    def die(self, record):
        if len(records) == 4:
            raise KeyboardInterrupt
        commit(self, record)
        records.append(len(record) // 4)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Partial, "commit", die)
        joined(out, *files)
    check = Copy._check_source
    monkeypatch.setattr(Copy, "_check_source", lambda self, n: (copied.append(n), check(self, n)))
    joined(out, *files)
    assert out.read_bytes() == whole.read_bytes()
    assert copied == list(range(sum(records[1:]), 100)) and len(copied) < 100
