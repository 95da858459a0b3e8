"""ReinforcedDataset: the same views wherever it goes, to threads, copies, forks and other processes."""

import copy
import gc
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from betons import EFFECTS, MIXING, MIXING_EFFECTS, PLAIN
from torch.utils.data import DataLoader
from view_sums import ViewSums

from ffdr import ReinforcedDataset, ReinforcedLoader
from ffdr.augment.draw import draw
from ffdr.augment.view import blank_effects
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.loader.replay.replayer import Replayer
from ffdr.loader.replay.status import ReplayError
from ffdr.loader.views import ViewBatch
from ffdr.util.errors import UserError


@pytest.fixture(scope="module")
def dataset(photos, reinforce):
    return ReinforcedDataset(photos, reinforce(photos, MIXING))


def views_of(dataset):
    """{(image, view): (pixels, ids)} of all views at 32 px."""
    keys = [(i, k) for i in range(len(dataset)) for k in range(dataset.num_views)]
    return {key: (dataset.view(*key, 32)[0], dataset.view(*key, 32)[1].ids.numpy()) for key in keys}


def same(some, others):
    return all((a == b).all() for key in some for a, b in zip(some[key], others[key], strict=True))


def copied(path, folder):
    """A copy of a beton and its manifest."""
    out = folder / path.name
    for suffix in (".beton", ".json"):
        if path.with_suffix(suffix).exists():
            shutil.copy(path.with_suffix(suffix), out.with_suffix(suffix))
    return out


def test_views_are_those_that_the_loader_shows(digits, reinforce):
    """They are read another way, for forks: records, mixed ones and plain, and targets."""
    for policy in (PLAIN, MIXING, EFFECTS, MIXING_EFFECTS):
        dataset = ReinforcedDataset(digits, reinforce(digits, policy))
        source = dataset._source
        for image in (0, 17, 99):
            for view in range(dataset.num_views):
                found = source.read(image, view)
                expected = ViewBatch.blank(1, source.entries)
                expected.effects["kind"] = 99
                source.read_batch(np.array([image]), np.array([view]), expected)
                assert found.views[0, 0] == expected.views[0, 0] and found.mixes == expected.mixes
                assert not policy.mixes or found.views[0, 1] == expected.views[0, 1]
                assert (found.ids == expected.ids).all() and (found.log_probs == expected.log_probs).all()
                assert np.array_equal(found.effects, expected.effects)
                drawn = draw(policy, 3, view, image, dataset.images.original_sizes)
                assert found.views[0, 0] == drawn["first"]
                for place, name in enumerate(("first_effects", "second_effects")):
                    is_stored = policy.has_effects and (policy.mixes or place == 0)
                    assert np.array_equal(found.effects[0, place], drawn[name] if is_stored else blank_effects(1)[0, 0])


@pytest.mark.parametrize("used", [False, True])
def test_a_copy_outlives_the_original(photos, reinforce, used):
    original = ReinforcedDataset(photos, reinforce(photos, MIXING))
    want = views_of(ReinforcedDataset(photos, reinforce(photos, MIXING)))
    if used:
        original.view(0, 0, 32)
    others = [copy.deepcopy(original), copy.copy(original), pickle.loads(pickle.dumps(original))]
    del original
    gc.collect()
    for other in others:
        assert same(want, views_of(other))


def test_a_pickle_reopens_by_path_from_anywhere(digits, reinforced_digits, tmp_path, monkeypatch):
    monkeypatch.chdir(digits.parent)
    dataset = ReinforcedDataset(digits.name, reinforced_digits.name)
    dataset.view(3, 1, 32)
    data = pickle.dumps(dataset)
    assert len(data) < 5000  # neither file nor scratch travels along
    monkeypatch.chdir(tmp_path)
    there = pickle.loads(data)
    assert np.array_equal(there.view(3, 1, 32)[0], dataset.view(3, 1, 32)[0])
    assert there.images.memmap.ctypes.data != dataset.images.memmap.ctypes.data


def test_a_pickle_of_files_that_were_replaced_is_refused(photos, digits, reinforce, tmp_path):
    images, reinforced = copied(photos, tmp_path), copied(reinforce(photos, MIXING), tmp_path)
    dataset = ReinforcedDataset(images, reinforced)
    data, here = pickle.dumps(dataset), pickle.dumps(dataset.images)
    os.replace(copied(reinforce(photos, MIXING, seed=4), tmp_path), reinforced)  # of the same images, other views
    with pytest.raises(UserError, match=rf"{reinforced}: is another file than the one that was opened"):
        pickle.loads(data)
    assert copy.deepcopy(dataset).reinforced is dataset.reinforced  # a copy here is of the very file that is open
    assert pickle.loads(here).fingerprint == dataset.images.fingerprint
    os.replace(copied(digits, tmp_path), images)
    shutil.copy(digits.with_suffix(".json"), images.with_suffix(".json"))
    for beton in (here, data):
        with pytest.raises(UserError, match="is another file"):
            pickle.loads(beton)
    images.unlink()
    with pytest.raises(UserError, match="no such file"):
        pickle.loads(here)


def test_opened_files_are_copied_and_pickled(photos, reinforce):
    for kind, path in ((ImageBeton, photos), (ReinforcedBeton, reinforce(photos, PLAIN))):
        beton = kind.open(path)
        assert copy.copy(beton) is copy.deepcopy(beton) is beton
        there = pickle.loads(pickle.dumps(beton))
        assert type(there) is kind and there is not beton and there.stamp == beton.stamp


def test_threads_share_a_dataset(dataset):
    want = views_of(dataset)
    keys = list(want) * 10
    with ThreadPoolExecutor(8) as pool:
        shown = pool.map(lambda key: dataset.view(*key, 32), keys)
        wrong = [key for key, (pixels, _) in zip(keys, shown, strict=True) if (pixels != want[key][0]).any()]
    assert wrong == []
    assert 1 <= len(dataset._idle[32]) <= 8


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_of_a_dataloader_show_the_same_views(dataset, method, workers):
    """After it was used here, too."""
    sums = ViewSums(dataset)
    want = [sums[i] for i in range(len(sums))]
    batches = DataLoader(sums, batch_size=6, num_workers=workers, multiprocessing_context=method)
    assert torch.cat(list(batches)).tolist() == want


@pytest.mark.parametrize("layer", ["omp", "default"])
def test_a_fork_has_the_dataset_and_is_refused_the_loader(digits, reinforced_digits, layer):
    if layer == "omp":
        pytest.importorskip("numba.np.ufunc.omppool")
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / "helpers" / "forks.py"),
        str(digits),
        str(reinforced_digits),
    ]
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)  # tbb has its say, too
    assert said["wrong views"] == said["wrong items"] == "0", done.stderr
    for name in ("next", "iter", "set_resolution"):
        assert "is a fork of the one that made the loader; build a loader in each process" in said[name], said
        assert said[name].startswith("RuntimeError: ")
    assert said["close"] == said["del"] == "None"
    if layer == "omp":
        assert said["new"].startswith("RuntimeError: Numba's OpenMP threads don't survive a fork"), said
    assert said["here"].startswith("12 ")


def test_what_holds_addresses_can_not_be_copied(digits, reinforced_digits):
    loader = ReinforcedLoader(digits, reinforced_digits, batch_size=8, resolution=32, workers=1)
    next(iter(loader))
    for thing, instead in (
        (loader, r"a loader can't be copied or pickled; build a loader in each process; .*state_dict"),
        (loader._stream, "a loader can't be copied or pickled; build"),
        (Replayer(loader.images, 32, 1), "a replayer can't be copied or pickled; make one in each process"),
    ):
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=instead) as caught:
                duplicate(thing)
            assert "\n" not in str(caught.value)


def test_an_error_of_a_view_pickles():
    error = ReplayError("x.beton", 17, 1001)
    there = pickle.loads(pickle.dumps(error))
    assert (str(there), there.sample) == ("x.beton: sample 17: the JPEG is corrupt", 17)
    assert str(copy.copy(there)) == str(error)


@pytest.mark.parametrize("resolution", [0, -1, 2.5, True, (64, 96), [32], "32", 1 << 20])
def test_a_resolution_that_is_none_is_refused(dataset, resolution):
    with pytest.raises(UserError, match=r"resolution: .* is not an integer from 1 to 26754; views are square"):
        dataset.view(0, 0, resolution)


@pytest.mark.parametrize("bad", ["", 5, None, b"x", ["a"]])
def test_what_is_no_path_is_refused(digits, bad):
    with pytest.raises(UserError, match=r"images: .* is neither a path nor an opened beton"):
        ReinforcedDataset(bad)
    if bad is not None:
        with pytest.raises(UserError, match=r"reinforced: .* is neither a path nor an opened beton"):
            ReinforcedDataset(digits, bad)
    for kind in (ImageBeton, ReinforcedBeton):
        with pytest.raises(UserError, match=r"not a path; give that of a \.beton file"):
            kind.open(bad)


def test_numbers_of_other_kinds_name_a_view(dataset):
    assert np.array_equal(dataset.view(np.int64(3), torch.tensor(1), 32)[0], dataset.view(3, 1, 32)[0])
    with pytest.raises(TypeError):
        dataset.view(0.5, 0)
