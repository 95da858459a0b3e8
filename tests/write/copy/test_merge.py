"""Merged betons: split gives back what went into pack; loaders and stock FFCV read them; killed runs resume."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from betons import MIXING, PLAIN, files_in, student_recipe
from crashes import Ordeal, fresh_process

from ffdr import ReinforcedLoader
from ffdr.beton import layout
from ffdr.beton.fields import FIELDS, BlockDecoder, custom_fields
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.beton.tables import read_tables
from ffdr.config.evaluation import EvalOptions
from ffdr.config.files import PackOptions, SplitOptions, SubsetOptions
from ffdr.config.learning import ModelOptions
from ffdr.loader.dataset import ReinforcedDataset
from ffdr.util.errors import UserError, WriteError
from ffdr.write import partial
from ffdr.write.copy import copying
from ffdr.write.copy.copying import Copy
from ffdr.write.copy.merge import pack, split
from ffdr.write.copy.subset import subset

PACK = """
import os, signal, sys
from ffdr.write.copy import copying
from ffdr.write.partial import Partial
from ffdr.write.copy.merge import pack
from ffdr.config.files import PackOptions

images, reinforced, out, commits = sys.argv[1:]
copying.COMMIT_BYTES = 1 << 14
commit = Partial.commit

def die(self, record):
    global commits
    commits = int(commits) - 1
    if commits < 0:
        self.file.flush()  # the samples are in the file, the journal does not know of them
        os.kill(os.getpid(), signal.SIGKILL)
    commit(self, record)

Partial.commit = die
pack(PackOptions(images, reinforced, out), progress=False)
"""


@pytest.fixture(scope="module", params=["digits-plain", "photos-mixing"])
def pair(request, digits, photos, reinforce):
    """Image beton and reinforced beton."""
    images, policy = request.param.split("-")
    images = {"digits": digits, "photos": photos}[images]
    return images, reinforce(images, {"plain": PLAIN, "mixing": MIXING}[policy])


@pytest.fixture(scope="module")
def merged(pair, tmp_path_factory):
    out = tmp_path_factory.mktemp("merged") / "merged.beton"
    assert pack(PackOptions(*map(str, pair), str(out)), progress=False) == out
    return out


def test_split_gives_back_what_was_packed(pair, merged, tmp_path):
    written = split(SplitOptions(str(merged), str(tmp_path / "i.beton"), str(tmp_path / "r.beton")), progress=False)
    assert written == (tmp_path / "i.beton", tmp_path / "r.beton")
    for path, original in zip(written, pair, strict=True):
        assert path.read_bytes() == original.read_bytes()
    manifest = pair[0].with_suffix(".json").read_bytes()
    assert (tmp_path / "i.json").read_bytes() == merged.with_suffix(".json").read_bytes() == manifest
    assert files_in(tmp_path) == ["i.beton", "i.json", "r.beton"]


def test_images_that_followed_skipped_ones_come_back_too(tmp_path, reinforce):
    """The writer's tables leave room for all images, and that room moves the data."""
    from PIL import Image

    from ffdr.config.files import WriteOptions
    from ffdr.write.images import write_images

    count = 200
    for n in range(count):
        path = tmp_path / "s" / f"class{n % 4}" / f"{n:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if n < count // 2:
            Image.new("RGB", (16, 16), (n, 0, 0)).save(path)
        else:
            path.write_bytes(b"no image")
    options = WriteOptions(
        source="imagefolder", path=str(tmp_path / "s"), split="", out=str(tmp_path / "skip.beton"), mode="raw",
        workers=1, on_error="skip",
    )  # fmt: skip
    images = write_images(options, progress=False)
    assert int(ImageBeton.open(images).data_ptr[0]) > layout.data_start(read_tables(images).specs, count // 2)
    pack(PackOptions(str(images), str(reinforce(images, PLAIN)), str(tmp_path / "p.beton")), progress=False)
    split(SplitOptions(str(tmp_path / "p.beton"), images=str(tmp_path / "i.beton")), progress=False)
    assert (tmp_path / "i.beton").read_bytes() == images.read_bytes()
    few = subset(SubsetOptions(str(tmp_path / "p.beton"), str(tmp_path / "few.beton"), indices="0:90"), progress=False)
    split(SplitOptions(str(few), images=str(tmp_path / "fi.beton")), progress=False)
    alone = subset(SubsetOptions(str(images), str(tmp_path / "alone.beton"), indices="0:90"), progress=False)
    assert (tmp_path / "fi.beton").read_bytes() == alone.read_bytes()


def test_images_lie_together_and_so_does_their_reinforcement(merged):
    tables, images, reinforced = read_tables(merged), ImageBeton.open(merged), ReinforcedBeton.open(merged)
    assert [spec.name for spec in tables.specs] == ["image", "label", "origin", "aug_params", "logits"]
    origins = tables.regions("origin")
    assert (np.diff(images.data_ptr.astype(np.int64)) > 0).all()
    assert int(origins.pointers[-1]) + 24 <= int(reinforced.view_ptr[0])
    gap = reinforced.logit_ptr.astype(np.int64) - reinforced.view_ptr.astype(np.int64) - reinforced.header.view_bytes
    assert ((gap >= 0) & (gap < 8)).all()
    for i in range(len(images)):
        assert images.is_intact(i)
        assert reinforced.is_intact(i)


@pytest.mark.parametrize("options", [{}, {"order": "quasi_random", "os_cache": False}])
def test_batches_are_those_of_the_two_files(pair, merged, options):
    if ReinforcedBeton.open(pair[1]).header.mixes:
        options = {key: value for key, value in options.items() if key != "os_cache"}

    def batches(*files, **more):
        loader = ReinforcedLoader(*files, batch_size=8, resolution=48, seed=5, workers=1, **options, **more)
        return [[images, *filter(torch.is_tensor, targets.parts()), index] for images, targets, index in loader]

    for files, same_files in (
        (pair, (merged, merged)),
        (pair, (ImageBeton.open(merged), ReinforcedBeton.open(merged))),
        (pair[:1], (merged,)),  # evaluation
    ):
        for batch, other in zip(batches(*files), batches(*same_files), strict=True):
            assert all(torch.equal(part, other_part) for part, other_part in zip(batch, other, strict=True))
    for batch, other in zip(batches(pair[0], policy=PLAIN), batches(merged, policy=PLAIN), strict=True):
        assert torch.equal(batch[0], other[0])


def test_dataset_takes_a_merged_file_alone(pair, merged):
    for i, k in ((0, 0), (7, 3)):
        pixels, targets = ReinforcedDataset(merged).view(i, k, 32)
        expected, expected_targets = ReinforcedDataset(*pair).view(i, k, 32)
        assert np.array_equal(pixels, expected)
        assert torch.equal(targets.log_probs, expected_targets.log_probs)
    with pytest.raises(UserError, match="aug_params"):
        ReinforcedDataset(pair[0]).view(0, 0)


def test_training_takes_a_merged_file_alone(digits, reinforced_digits, teacher, tmp_path):
    from dataclasses import replace

    from ffdr.evaluate.run import run as evaluate
    from ffdr.train.run import run

    merged = tmp_path / "merged.beton"
    pack(PackOptions(str(digits), str(reinforced_digits), str(merged)), progress=False)
    weights = []
    for name, images in (("pair", digits), ("merged", merged)):
        plan = student_recipe("dr", images, reinforced_digits, teacher, tmp_path / name, epochs=1)
        if name == "merged":
            plan = replace(plan, data=replace(plan.data, reinforced=""))
        run(plan, progress=False)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    checkpoint = str(tmp_path / "pair" / "model.safetensors")
    results = [
        evaluate(EvalOptions(checkpoint=checkpoint, data=str(path)), ModelOptions()) for path in (digits, merged)
    ]
    assert results[0]["top1"] == results[1]["top1"]


def test_stock_loader_reads_merged_betons(pair, merged):
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline.compiler import Compiler

    def read(path, names, custom_fields, **pipelines):
        skipped = {name: None for name in names if name not in pipelines}
        loader = Loader(
            str(path), batch_size=4, num_workers=1, order=OrderOption.SEQUENTIAL, custom_fields=custom_fields,
            pipelines=skipped | pipelines,
        )  # fmt: skip
        batches = [[torch.as_tensor(part).numpy().copy() for part in batch] for batch in loader]
        return [np.concatenate(part) for part in zip(*batches, strict=True)]

    reinforced = ReinforcedBeton.open(pair[1])
    plain, both = ("image", "label", "origin"), ("image", "label", "origin", "aug_params", "logits")
    assert custom_fields(ImageBeton.open(merged)) == FIELDS
    Compiler.set_enabled(False)
    try:
        decoders = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
        expected = read(pair[0], plain, {}, **decoders)
        found = read(merged, both, FIELDS, **decoders)
        views, logits = read(merged, both, FIELDS, aug_params=[BlockDecoder()], logits=[BlockDecoder()])
    finally:
        Compiler.set_enabled(True)
    assert found[0].std() > 40
    assert all(np.array_equal(part, expected_part) for part, expected_part in zip(found, expected, strict=True))
    for i in range(len(reinforced)):
        assert views[i].tobytes() == reinforced.views(i).tobytes()
        ids, log_probs = reinforced.logits(i)
        assert logits[i].tobytes() == np.concatenate([ids, log_probs.view("<u2")], axis=1).tobytes()


@pytest.mark.parametrize("commits", [0, 1, 2, 4])
def test_killed_pack_resumes_with_the_same_bytes(pair, merged, tmp_path, commits, monkeypatch):
    out = tmp_path / "merged.beton"
    arguments = [sys.executable, "-c", PACK, *map(str, pair), str(out)]
    killed = subprocess.run([*arguments, str(commits)], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert out.with_name("merged.beton.partial").exists()
    with out.with_name("merged.beton.partial.journal").open("rb") as journal:
        records = list(partial._records(journal))
    assert len(records) == commits
    copied = []
    monkeypatch.setattr(Copy, "_check_source", lambda self, n: copied.append(n))
    pack(PackOptions(*map(str, pair), str(out)), progress=False)
    assert out.read_bytes() == merged.read_bytes()
    done = sum(len(record) for record in records[1:]) // 4
    assert copied == list(range(done, len(ImageBeton.open(merged))))
    assert files_in(tmp_path) == ["merged.beton", "merged.json"]


def pack_through_kills(pair, folder):
    copying.COMMIT_BYTES = 1 << 14
    ordeal = Ordeal(lambda out: pack(PackOptions(*pair, str(out)), progress=False), folder, seed=1)
    return ordeal.run(60), ordeal.whole


def test_killed_at_random_moments(pair, merged, tmp_path):
    with fresh_process() as process:
        killed, whole = process.submit(pack_through_kills, tuple(map(str, pair)), tmp_path / "work").result()
    assert killed["time"] > 0
    assert sum(killed.values()) >= 60
    assert {"os.rename", "fsync"} <= set(killed)
    manifest = merged.with_suffix(".json").read_bytes()
    assert whole == {".x.beton.work": True, "x.beton": merged.read_bytes(), "x.json": manifest}


def test_samples_that_a_power_cut_took_back_are_copied_again(pair, merged, tmp_path):
    out = tmp_path / "merged.beton"
    subprocess.run([sys.executable, "-c", PACK, *map(str, pair), str(out), "3"], check=False, capture_output=True)
    unfinished = out.with_name("merged.beton.partial")
    data = bytearray(unfinished.read_bytes())
    at = int(ReinforcedBeton.open(merged).logit_ptr[1])
    data[at : at + 8] = bytes(8)
    unfinished.write_bytes(data)
    pack(PackOptions(*map(str, pair), str(out)), progress=False)
    assert out.read_bytes() == merged.read_bytes()


def test_room_is_asked_for_to_the_byte(pair, merged, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(partial.Partial, "reserve", lambda self, size: asked.append(size))
    pack(PackOptions(*map(str, pair), str(tmp_path / "p.beton")), progress=False)
    split(SplitOptions(str(merged), str(tmp_path / "i.beton"), str(tmp_path / "r.beton")), progress=False)
    assert asked == [path.stat().st_size for path in (merged, *pair)]


def test_damaged_samples_are_not_copied(pair, tmp_path):
    for which, beton in ((0, ImageBeton.open(pair[0])), (1, ReinforcedBeton.open(pair[1]))):
        copies = [tmp_path / f"{which}-{path.name}" for path in pair]
        for path, duplicate in zip(pair, copies, strict=True):
            duplicate.write_bytes(path.read_bytes())
        data = bytearray(copies[which].read_bytes())
        at = int(beton.data_ptr[5]) + 30 if which == 0 else int(beton.view_ptr[5]) + 3
        data[at] ^= 4
        copies[which].write_bytes(data)
        with pytest.raises(UserError, match=f"{copies[which].name}: sample 5 is damaged"):
            pack(PackOptions(*map(str, copies), str(tmp_path / "p.beton")), progress=False)
        assert not (tmp_path / "p.beton").exists()


def test_mistakes_are_told_before_anything_is_written(pair, merged, photos, digits, tmp_path, monkeypatch):
    images, reinforced = map(str, pair)
    other = str(photos if pair[0] == digits else digits)
    (tmp_path / "taken.json").write_text(json.dumps({"somebody": "else's"}))
    (tmp_path / "link.beton").symlink_to(reinforced)
    for text, options in (
        ("fingerprint", PackOptions(other, reinforced, str(tmp_path / "x.beton"))),
        ("aug_params", PackOptions(images, images, str(tmp_path / "x.beton"))),
        ("would replace a file", PackOptions(images, reinforced, images)),
        ("would replace a file", PackOptions(images, reinforced, str(tmp_path / "link.beton"))),
        ("would replace a file", PackOptions(images, reinforced, images.removesuffix(".beton"))),
        ("not a manifest of ffdr", PackOptions(images, reinforced, str(tmp_path / "taken.beton"))),
    ):
        with pytest.raises(UserError, match=text):
            pack(options, progress=False)
    for text, options in (
        ("holds no views", SplitOptions(images, images=str(tmp_path / "x.beton"))),
        ("holds no images", SplitOptions(reinforced, images=str(tmp_path / "x.beton"))),
        ("would replace a file", SplitOptions(str(merged), reinforced=str(merged))),
        ("would replace a file", SplitOptions(str(merged), str(tmp_path / "x.beton"), str(tmp_path / "x.beton"))),
    ):
        with pytest.raises(UserError, match=text):
            split(options, progress=False)
    (tmp_path / "t.py").write_text("")
    for out in ("t.py/x.beton", "t.py/new/x.beton"):
        with pytest.raises(UserError, match=r"can't be written: .*/t.py is not a folder$"):
            pack(PackOptions(images, reinforced, str(tmp_path / out)), progress=False)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(partial.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(WriteError, match=r"x.beton: needs \d+ MiB more, but 0 MiB are free"):
        pack(PackOptions(images, reinforced, str(tmp_path / "x.beton")), progress=False)
    assert not (tmp_path / "x.beton").exists()


def test_betons_of_stock_ffcv_pack(tmp_path, reinforce):
    """Their images get the origins that they are read with, so that the reinforcement still fits."""

    stock = tmp_path / "stock.beton"
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 30, 3), np.uint8)
    code = f"""
import os
import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter
class Data:
    def __len__(self): return 12
    def __getitem__(self, i): return i % 3, np.random.default_rng(0).integers(0, 256, (12, 20, 30, 3), np.uint8)[i]
fields = {{"label": IntField(), "image": RGBImageField(write_mode="raw")}}
DatasetWriter({str(stock)!r}, fields, num_workers=1).from_indexed_dataset(Data(), chunksize=5)
os._exit(0)  # on one core Numba's TBB would wait for ever at the end
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    reinforced = reinforce(stock, PLAIN)
    merged = pack(PackOptions(str(stock), str(reinforced), str(tmp_path / "p.beton")), progress=False)
    images = ImageBeton.open(merged)
    assert images.fingerprint == ImageBeton.open(stock).fingerprint
    assert np.array_equal([decode_image(images, i) for i in range(12)], pixels)
    assert (
        ReinforcedBeton.open(merged, images).views(3).tobytes() == ReinforcedBeton.open(reinforced).views(3).tobytes()
    )
    assert not merged.with_suffix(".json").exists()
    assert not Path(os.fspath(stock) + ".partial").exists()
