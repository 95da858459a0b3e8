"""ReinforcedDataset as a map-style dataset: items are what the loader shows, in every worker, in the right epoch."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from betons import MIXING, PLAIN, VIEWS
from torch.utils.data import DataLoader, Subset
from transformers import default_data_collator

from ffdr import ReinforcedDataset, ReinforcedLoader, SparseTargetLoss, SparseTargets
from ffdr.beton.read import ImageBeton
from ffdr.config.files import PackOptions
from ffdr.util.errors import UserError
from ffdr.write.copy.merge import pack

KINDS = {
    "stored": (PLAIN, {}),
    "stored and mixed": (MIXING, {}),
    "drawn": (None, {"policy": PLAIN}),
    "drawn and mixed": (None, {"policy": MIXING}),
    "partly stored": (PLAIN, {"policy": MIXING, "reinforced_share": 0.5}),
    "evaluation": (None, {"center": 0.8}),
}
"""What the stored views were drawn from, if there are any, and options."""


@pytest.fixture(scope="module")
def dataset(photos, reinforce):
    return ReinforcedDataset(photos, reinforce(photos, MIXING), resolution=32, seed=5, dtype=torch.uint8)


def by_epoch_and_image(batches, epoch):
    """{(epoch, image): (pixels, ids, log-probabilities, label, …)} of batches as the loader's, as bytes."""
    shown = {}
    for images, targets, index in batches:
        parts = [part for part in (images, *targets.parts()) if part is not None]
        for row, image in enumerate(index.tolist()):
            shown[epoch, image] = [part[row].contiguous().numpy().tobytes() for part in parts]
    return shown


def as_batches(batches):
    """Stacked items in the loader's form."""
    return [(batch["pixel_values"], SparseTargets.from_batch(batch), batch["index"]) for batch in batches]


def expected(dataset, epoch):
    """The same of one epoch, item by item."""
    items = (dataset[epoch, i] for i in range(len(dataset)))
    return by_epoch_and_image(as_batches(DataLoader(list(items), batch_size=5)), epoch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_items_are_what_the_loader_shows(photos, reinforce, kind, dtype):
    policy, options = KINDS[kind]
    files = (photos,) if policy is None else (photos, reinforce(photos, policy))
    options = {**options, "resolution": 40, "seed": 7, "dtype": dtype}
    dataset = ReinforcedDataset(*files, **options)
    loader = ReinforcedLoader(*files, **options, batch_size=8, workers=1)
    for epoch in (0, 1, VIEWS + 2):
        loader.set_epoch(epoch)
        want = by_epoch_and_image(loader, epoch)
        assert len(want) == 24
        assert expected(dataset, epoch) == want
        dataset.set_epoch(epoch)
        assert dataset[3]["pixel_values"].equal(dataset[epoch, 3]["pixel_values"])
    assert dataset[3]["pixel_values"].dtype == dtype
    assert (dataset.num_classes, dataset.class_names) == (loader.num_classes, loader.class_names)


def test_normalised_as_asked(photos):
    dataset = ReinforcedDataset(photos, resolution=16, mean=(0.1, 0.2, 0.3), std=[0.5, 1, 1])
    pixels = ReinforcedDataset(photos, resolution=16, dtype=torch.uint8)[2]["pixel_values"].double() / 255
    assert pixels.shape == (3, 16, 16)
    wanted = (pixels - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 1, 1])[:, None, None]
    assert torch.allclose(dataset[2]["pixel_values"].double(), wanted, atol=1e-5)


def test_items_show_stored_views(dataset):
    """Each of the K views once in K epochs, with its targets."""
    for image in (0, 23):
        views = [dataset.view(image, k) for k in range(VIEWS)]
        found = []
        for epoch in range(VIEWS):
            item = dataset[epoch, image]
            (k,) = [k for k, view in enumerate(views) if np.array_equal(view[0], item["pixel_values"].permute(1, 2, 0))]
            assert torch.equal(views[k][1].log_probs[0], item["target_log_probs"])
            assert item["labels"] == int(dataset.images.labels[image]) and item["index"] == image
            found.append(k)
        assert sorted(found) == list(range(VIEWS))


def test_it_is_a_sequence(dataset):
    assert len(dataset) == len(list(dataset)) == 24  # by the sequence protocol, which IndexError ends
    assert dataset[-1]["index"] == dataset[np.int64(23)]["index"] == dataset[torch.tensor(23)]["index"] == 23
    assert dataset[0, -24]["index"] == 0
    for bad in (24, -25, (0, 24)):
        with pytest.raises(IndexError, match="there are 24"):
            _ = dataset[bad]
    for bad in (slice(3), "3", 1.5, None, (1, 2, 3)):
        with pytest.raises(TypeError):
            _ = dataset[bad]


@pytest.mark.parametrize("bad", [-1, 1.5, None, True, "1", 2**63])
def test_an_epoch_that_is_none_is_refused(dataset, bad):
    for use in (lambda: dataset.set_epoch(bad), lambda: dataset[bad, 0]):
        with pytest.raises(UserError, match=r"^epoch: .* is not an integer from 0 to"):
            use()
    assert dataset.epoch == 0


@pytest.mark.parametrize(
    ("method", "workers", "persistent"), [("fork", 2, True), ("fork", 2, False), ("spawn", 1, True), (None, 0, False)]
)
def test_workers_know_the_epoch(dataset, method, workers, persistent):
    """After kernels ran in threads here, too: a fork has none of these."""
    for _ in ReinforcedLoader(dataset.images, batch_size=24, resolution=16, workers=2):
        pass
    dataset = copy.deepcopy(dataset)
    batches = DataLoader(
        dataset,
        batch_size=5,
        shuffle=True,
        num_workers=workers,
        multiprocessing_context=method,
        persistent_workers=persistent,
    )
    for epoch in (0, 1, 6):
        dataset.set_epoch(epoch)
        assert by_epoch_and_image(as_batches(batches), epoch) == expected(dataset, epoch)


def test_drawn_views_in_forks(photos):
    dataset = ReinforcedDataset(photos, policy=MIXING, resolution=32)
    dataset.set_epoch(2)
    part = Subset(dataset, range(6))
    shown = by_epoch_and_image(as_batches(DataLoader(part, 3, num_workers=2, multiprocessing_context="fork")), 2)
    assert shown == {key: value for key, value in expected(dataset, 2).items() if key[1] < 6}


def test_copies_keep_the_epoch_and_have_one_of_their_own(dataset):
    original = copy.deepcopy(dataset)
    original.set_epoch(3)
    for other in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert other.epoch == 3
        assert other[1]["pixel_values"].equal(original[1]["pixel_values"])
        other.set_epoch(4)
        assert (other.epoch, original.epoch) == (4, 3)
        assert other._epoch.is_shared()  # so that forks of this process know of later epochs


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_is_small(digits, reinforce, kind):
    policy, options = KINDS[kind]
    dataset = ReinforcedDataset(digits, *([] if policy is None else [reinforce(digits, policy)]), **options)
    assert len(pickle.dumps(dataset)) < 5000  # no arrays of the length of the data set
    assert pickle.loads(pickle.dumps(dataset))[2, 3]["pixel_values"].equal(dataset[2, 3]["pixel_values"])


def test_threads_share_the_items(dataset):
    want = {key: dataset[key]["pixel_values"] for key in ((e, i) for e in range(3) for i in range(len(dataset)))}
    with ThreadPoolExecutor(8) as pool:
        shown = pool.map(lambda key: dataset[key]["pixel_values"].equal(want[key]), list(want) * 5)
        assert all(shown)


def test_collators_of_others(dataset):
    """PyTorch's and Hugging Face's make the same batch, and the loss takes it."""
    items = [dataset[i] for i in range(4)]
    batch, theirs = next(iter(DataLoader(dataset, 4))), default_data_collator(items)
    assert batch.keys() == theirs.keys()
    for key, values in batch.items():
        assert values.equal(theirs[key]) and values.dtype == theirs[key].dtype, key
    targets = SparseTargets.from_batch(theirs)
    assert targets.label.tolist() == dataset.images.labels[:4].tolist()
    dense = torch.stack([SparseTargets.from_batch(default_data_collator([i])).dense(10)[0] for i in items])
    assert torch.equal(targets.dense(10), dense)
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.kl_div(logits.log_softmax(1), dense, reduction="batchmean")
    assert torch.allclose(SparseTargetLoss(num_classes=10)(logits, targets), wanted, atol=1e-6)
    with pytest.raises(KeyError, match="target_ids"):
        SparseTargets.from_batch({"labels": batch["labels"]})


def test_a_merged_file_shows_its_own_views_unless_there_is_a_policy(photos, reinforce, tmp_path):
    merged, reinforced = tmp_path / "merged.beton", reinforce(photos, PLAIN)
    pack(PackOptions(str(photos), str(reinforced), str(merged)), progress=False)
    for files, options in (((photos, reinforced), {}), ((photos,), {"policy": PLAIN})):
        some = ReinforcedDataset(merged, resolution=32, seed=2, **options)
        assert expected(some, 1) == expected(ReinforcedDataset(*files, resolution=32, seed=2, **options), 1)
    with pytest.raises(UserError, match=r"photos.beton: no stored views \(field aug_params\); give a reinforced beton"):
        _ = ReinforcedDataset(photos).num_views


@pytest.mark.parametrize("bad", [{"reinforced_share": 0.5}, {"policy": 3}, {"center": 2}, {"dtype": int}, {"seed": -1}])
def test_impossible_options_of_a_dataset_are_refused(photos, bad):
    (key,) = bad
    with pytest.raises(UserError, match=f"^{key}: "):
        ReinforcedDataset(photos, **bad)


def test_names_of_classes(digits, photos):
    names = tuple(map(str, range(10)))
    assert ReinforcedLoader(digits, batch_size=8, workers=1).class_names == names
    assert ReinforcedDataset(digits).class_names == names
    assert ReinforcedDataset(photos).class_names == ImageBeton.open(photos).class_names
