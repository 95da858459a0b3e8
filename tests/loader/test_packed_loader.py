"""Packed images stand in for the JPEGs that they were made of: equal batches, whatever is asked for."""

import json
import shutil

import numpy as np
import pytest
import torch
from betons import MIXING, PLAIN
from safetensors.torch import load_file

from ffdr import ReinforcedLoader
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton
from ffdr.cli import main
from ffdr.config.files import InspectOptions, TranscodeOptions, VerifyOptions
from ffdr.inspect.run import inspect
from ffdr.loader.replay.status import ReplayError
from ffdr.write.copy.transcode import transcode
from ffdr.write.verify import verify

U8 = {"batch_size": 8, "resolution": 64, "dtype": torch.uint8}


@pytest.fixture(scope="module")
def packed(photos, folder):
    """The photographs, packed."""
    out = folder / "packed_photos.beton"
    transcode(TranscodeOptions(str(photos), str(out), workers=1), progress=False)
    return out


def check_equal(first, second):
    """Every batch of both, pixels and targets and images."""
    count = 0
    for (a, targets, index), (b, others, numbers) in zip(first, second, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(index, numbers)
        assert torch.equal(targets.ids, others.ids)
        assert torch.equal(targets.log_probs, others.log_probs)
        assert a.float().std() > 20
        count += 1
    assert count == 3


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"policy": PLAIN},
        {"policy": MIXING, "workers": 2},
        {"policy": PLAIN, "os_cache": False, "workers": 1},
    ],
    ids=["evaluation", "drawn", "mixed", "own pages"],
)
def test_batches_are_those_of_the_jpegs(photos, packed, options):
    check_equal(ReinforcedLoader(photos, **U8, **options), ReinforcedLoader(packed, **U8, **options))


@pytest.mark.parametrize("policy", [PLAIN, MIXING], ids=["plain", "mixing"])
def test_reinforcements_stay_valid_at_every_resolution(photos, packed, reinforce, policy):
    reinforced = reinforce(photos, policy)
    loaders = [ReinforcedLoader(images, reinforced, **U8, workers=1) for images in (photos, packed)]
    check_equal(*loaders)
    for loader in loaders:
        loader.set_resolution(96)
    check_equal(*loaders)


def test_single_images_are_those_of_the_jpegs(photos, packed):
    jpegs, beton = ImageBeton.open(photos), ImageBeton.open(packed)
    assert beton.fingerprint == jpegs.fingerprint
    for i in range(len(jpegs)):
        assert np.array_equal(decode_image(beton, i), decode_image(jpegs, i))


def test_a_corrupt_image_names_its_sample_in_the_consumer(packed, tmp_path):
    broken = tmp_path / "broken.beton"
    for suffix in (".beton", ".json"):
        shutil.copy(packed.with_suffix(suffix), broken.with_suffix(suffix))
    start = int(ImageBeton.open(broken).data_ptr[17])
    with broken.open("r+b") as file:
        file.seek(start + 8)
        file.write(b"\xff" * 200)
    with pytest.raises(ReplayError, match=r"broken\.beton: sample 17: the coefficient image is corrupt"):
        list(ReinforcedLoader(broken, **U8))


def test_it_is_inspected_and_verified(packed, tmp_path, capsys):
    assert verify(VerifyOptions(str(packed), decode=True)) == 0
    inspect(InspectOptions(str(packed), grid=str(tmp_path / "grid.png")))
    assert "dct" in capsys.readouterr().out


def test_every_verb_makes_the_same_of_them(teacher, tmp_path, monkeypatch):
    """Reinforcement, trained model and report of packed images are those of the JPEGs, byte for byte."""
    monkeypatch.chdir(tmp_path)

    def ffdr(line):
        assert main(line.split()) == 0

    ffdr("write --source=digits --split=test --per_class=6 --out=jpg.beton --workers=1")
    ffdr("transcode jpg.beton --out=dct.beton --workers=1")
    made = []
    for kind in ("jpg", "dct"):
        ffdr(f"reinforce --images={kind}.beton --out={kind}+.beton --views=2 --topk=3 --teacher.models={teacher}")
        ffdr(
            f"train --task=dr --data.train={kind}.beton --data.reinforced={kind}+.beton --model.name=test_efficientnet "
            f"--out=run_{kind} --epochs=1 --batch_size=16 --resolution=32"
        )
        ffdr(f"eval --checkpoint=run_{kind}/model.safetensors --data={kind}.beton --json={kind}.json --corruptions=1")
        report = json.loads((tmp_path / f"{kind}.json").read_text())
        scores = {key: value for key, value in report.items() if key in ("top1", "nll", "ece", "corruptions")}
        weights = load_file(tmp_path / f"run_{kind}" / "model.safetensors")
        made.append(((tmp_path / f"{kind}+.beton").read_bytes(), scores, weights))
    (views, scores, weights), (other_views, other_scores, other_weights) = made
    assert views == other_views
    assert scores
    assert scores == other_scores
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
