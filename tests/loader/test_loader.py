"""The loader against random access, the file and torchvision; determinism, state, failures, threads."""

import shutil
import threading

import numpy as np
import pytest
import torch
from betons import MIXING, PLAIN, VIEWS
from PIL import Image
from torchvision.transforms import functional as F

from ffdr import ReinforcedDataset, ReinforcedLoader, SparseTargetLoss
from ffdr.augment.check import OK
from ffdr.augment.draw import draw_batch, pack_policy
from ffdr.augment.pick import pick_views
from ffdr.augment.policy import Policy
from ffdr.augment.replay import mix_into, render, visible
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.beton.records import Records
from ffdr.loader.replay.status import ReplayError
from ffdr.util.errors import UserError
from ffdr.util.machine import thread_count

U8 = {"dtype": torch.uint8, "batch_size": 8, "resolution": 40}


def picked_views(seed, epoch, count):
    """Which of its views each image shows."""
    picked = np.empty(count, np.uint64)
    pick_views(np.uint64(seed), np.full(count, epoch), np.arange(count), VIEWS, picked)
    return picked.tolist()


def collect(loader):
    """All batches of one pass as stacked arrays: pixels, ids, log_probs, label, index."""
    parts = [(x, t.ids, t.log_probs, t.label, i) for x, t, i in loader]
    return [torch.cat(column).numpy() for column in zip(*parts, strict=True)]


@pytest.mark.parametrize("policy", [PLAIN, MIXING], ids=["plain", "mixing"])
@pytest.mark.parametrize("source", ["digits", "photos"])
def test_reinforced_batches_are_the_stored_views(request, reinforce, source, policy):
    images = request.getfixturevalue(source)
    reinforced = reinforce(images, policy)
    dataset, file = ReinforcedDataset(images, reinforced), ReinforcedBeton.open(reinforced)
    loader = ReinforcedLoader(images, reinforced, seed=5, drop_last=False, **U8)
    loader.set_epoch(2)
    pixels, ids, log_probs, label, index = collect(loader)
    assert sorted(index) == list(range(len(dataset)))
    picked = picked_views(5, 2, len(dataset))
    for row, image in enumerate(index):
        view = picked[image]
        expected, targets = dataset.view(int(image), int(view), resolution=40)
        assert np.array_equal(pixels[row].transpose(1, 2, 0), expected)
        stored_ids, stored_log_probs = file.logits(int(image))
        assert np.array_equal(ids[row], stored_ids[view])
        assert np.array_equal(log_probs[row], stored_log_probs[view].astype(np.float32))
        assert np.array_equal(targets.ids[0], ids[row])
        assert label[row] == dataset.images.labels[image]


@pytest.mark.parametrize("kind", ["stored", "stored mixing", "drawn", "drawn mixing", "evaluation"])
@pytest.mark.parametrize("source", ["digits", "photos"])
def test_threads_do_not_change_a_byte(request, reinforce, source, kind):
    images = request.getfixturevalue(source)
    policy = MIXING if "mixing" in kind else PLAIN
    options = {**U8, "drop_last": False, "seed": 9}
    if "stored" in kind:
        options["reinforced"] = reinforce(images, policy)
    elif "drawn" in kind:
        options["policy"] = policy
    runs = [collect(ReinforcedLoader(images, workers=workers, **options)) for workers in (1, 2)]
    for one, two in zip(*runs, strict=True):
        assert np.array_equal(one, two)
    assert runs[0][0].std() > 10  # pictures, not blanks


@pytest.mark.parametrize("mixing", [PLAIN, MIXING], ids=["plain", "mixing"])
def test_a_share_of_the_samples_is_drawn(digits, reinforce, mixing):
    """Each sample is what the stored or the drawn loader shows in its place, and the shares are as asked."""
    reinforced = reinforce(digits, PLAIN)
    options = {"seed": 5, "drop_last": False, "order": "sequential", **U8}
    stored, drawn, some, none = (
        collect(ReinforcedLoader(digits, given, **choice, **options))
        for given, choice in (
            (reinforced, {}),
            (None, {"policy": mixing}),
            (reinforced, {"policy": mixing, "reinforced_share": 0.7}),
            (reinforced, {"policy": mixing, "reinforced_share": 0.0}),
        )
    )
    is_stored = (some[0] == stored[0]).all((1, 2, 3))
    assert 55 <= is_stored.sum() <= 85
    assert np.array_equal(some[0][~is_stored], drawn[0][~is_stored])
    assert np.array_equal(none[0], drawn[0])
    for part in (1, 2):
        kept = drawn[part].shape[1]
        assert np.array_equal(some[part][is_stored], stored[part][is_stored])
        assert np.array_equal(some[part][~is_stored, :kept], drawn[part][~is_stored])
    assert (some[2][~is_stored, kept:] == -65504).all()
    with pytest.raises(UserError, match="reinforced_share below 1"):
        ReinforcedLoader(digits, reinforced, policy=mixing, **options)


def test_mixed_batches_are_both_views_mixed(photos):
    """Pixels from whole images decoded one by one, images that can't be seen (and are not decoded) among them."""
    policy = Policy(mixup=1.0, mixup_alpha=0.2, cutmix=0.4)
    loader = ReinforcedLoader(photos, policy=policy, seed=3, drop_last=False, **U8)
    images, unseen = ImageBeton.open(photos), 0
    for pixels, _, index in loader:
        views, mixes, effects = Records.blank(len(index))
        sizes = images.original_sizes
        draw_batch(
            pack_policy(policy),
            np.uint64(3),
            np.zeros(len(index), np.int64),
            index.numpy(),
            sizes,
            views,
            mixes,
            effects,
        )
        for row, image in enumerate(index.tolist()):
            first = render(decode_image(images, image), views[row, 0], 40)
            if mixes[row]["partner"] != image:
                second = render(decode_image(images, int(mixes[row]["partner"])), views[row, 1], 40)
                assert mix_into(first, second, mixes[row]) == OK
            assert np.array_equal(pixels[row].permute(1, 2, 0).numpy(), first)
            unseen += not all(visible(mixes[row]))
    assert unseen >= 3


def test_targets_name_both_labels_of_a_mixed_view_and_their_shares(digits, reinforce):
    labels, path = ImageBeton.open(digits).labels, reinforce(digits, MIXING)
    file, dataset = ReinforcedBeton.open(path), ReinforcedDataset(digits, path)
    loader, mixed = ReinforcedLoader(digits, path, seed=5, **U8), 0
    picked = picked_views(5, 0, len(dataset))
    for _, targets, index in loader:
        for row, image in enumerate(index.tolist()):
            view = picked[image]
            mix = file.views(image)[view]["mix"]
            area = int(mix["cut_w"]) * int(mix["cut_h"]) / 65535**2
            assert targets.partner[row] == labels[mix["partner"]]
            assert targets.share[row] == pytest.approx(int(mix["mixup"]) / 65535 * (1 - area), abs=1e-6)
            mixed += 0.1 < targets.share[row] < 0.9
        alone = dataset.view(image, view, 32)[1]
        assert (alone.partner[0], alone.share[0]) == (targets.partner[row], targets.share[row])
    assert mixed > 20
    for _, targets, _ in ReinforcedLoader(digits, policy=MIXING, **U8):  # of drawn views the entries are the labels
        assert torch.equal(targets.partner, targets.ids[:, 1])
        assert torch.allclose(targets.share, targets.log_probs[:, 0].exp(), atol=1e-6)
    for images in (ReinforcedLoader(digits, **U8), ReinforcedLoader(digits, reinforce(digits, PLAIN), **U8)):
        targets = next(iter(images))[1]
        assert targets.partner is None and targets.share is None


def test_epochs_differ_and_seeds_differ(digits):
    loader = ReinforcedLoader(digits, policy=PLAIN, **U8)
    first, second = collect(loader), collect(loader)
    loader.set_epoch(0)
    again = collect(loader)
    other = collect(ReinforcedLoader(digits, policy=PLAIN, seed=1, **U8))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[4], second[4])
    assert not np.array_equal(first[4], other[4])


def test_a_drawn_view_depends_on_the_image_and_not_on_its_batch(digits):
    by_size = []
    for batch_size in (8, 25):
        options = {**U8, "batch_size": batch_size}
        loader = ReinforcedLoader(digits, policy=MIXING, order="sequential", drop_last=False, **options)
        by_size.append(collect(loader))
    assert all(np.array_equal(a, b) for a, b in zip(*by_size, strict=True))


@pytest.mark.parametrize("source", ["digits", "photos"])
def test_the_evaluation_view_is_resize_and_centre_crop(request, source):
    path = request.getfixturevalue(source)
    beton = ImageBeton.open(path)
    pixels, _, _, label, index = collect(ReinforcedLoader(path, center=0.875, **{**U8, "resolution": 112}))
    assert np.array_equal(index, np.arange(len(beton)))
    assert np.array_equal(label, beton.labels)
    for row in range(0, len(beton), 7):
        image = F.resize(Image.fromarray(decode_image(beton, row)), 128)
        expected = np.asarray(F.center_crop(image, 112)).astype(int)
        assert np.abs(expected - pixels[row].transpose(1, 2, 0)).max() <= 1


def test_floating_batches_are_normalised_channels_last(photos):
    options = {**U8, "resolution": 32}
    pixels = next(iter(ReinforcedLoader(photos, **options)))[0]
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    images = next(iter(ReinforcedLoader(photos, mean=mean, std=std, **{**options, "dtype": torch.float32})))[0]
    expected = F.normalize(pixels.float() / 255, mean, std)
    assert torch.allclose(images, expected, atol=1e-5)
    assert images.is_contiguous(memory_format=torch.channels_last)
    beton = ImageBeton.open(photos)
    default = next(iter(ReinforcedLoader(photos, **{**options, "dtype": torch.float32})))[0]
    assert torch.allclose(default, F.normalize(pixels.float() / 255, beton.mean, beton.std), atol=1e-5)


def test_mixing_targets_are_both_labels_weighted_by_their_share(digits):
    loader = ReinforcedLoader(digits, policy=MIXING, **U8)
    _, ids, log_probs, label, _ = collect(loader)
    probs = np.exp(log_probs)
    assert ids.shape[1] == 2
    assert np.allclose(probs.sum(1), 1, atol=1e-6)
    assert np.array_equal(ids[:, 0], label)
    assert (probs[:, 1] > 0.05).any()
    assert (probs[:, 1] == 0).any()


def test_batches_may_be_kept(digits):
    loader = ReinforcedLoader(digits, policy=PLAIN, **U8)
    kept = list(loader)
    loader.set_epoch(0)
    for (pixels, targets, _), (again, targets_again, _) in zip(kept, loader, strict=True):
        assert torch.equal(pixels, again)
        assert torch.equal(targets.log_probs, targets_again.log_probs)


@pytest.mark.parametrize("stop", [0, 1, 5, 12])
def test_a_resumed_epoch_goes_on_with_the_same_bytes(digits, reinforce, stop):
    def new():
        return ReinforcedLoader(digits, reinforce(digits, MIXING), seed=4, **U8)

    whole = new()
    whole.set_epoch(3)
    two_epochs = [*whole, *whole]
    broken = new()
    broken.set_epoch(3)
    for number, _ in enumerate(broken):
        if number + 1 >= stop:
            break
    state = broken.state_dict() if stop else {**new().state_dict(), "epoch": 3}
    resumed = new()
    resumed.load_state_dict(state)
    expected = two_epochs[stop:]
    rest = [*resumed, *resumed][: len(expected)]
    for (a, ta, ia), (b, tb, ib) in zip(expected, rest, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(ta.ids, tb.ids)
        assert torch.equal(ia, ib)


def test_a_state_of_another_run_is_refused(digits, photos):
    state = ReinforcedLoader(digits, policy=PLAIN, **U8).state_dict()
    with pytest.raises(UserError, match="seed was 0, but this loader's is 1"):
        ReinforcedLoader(digits, policy=PLAIN, seed=1, **U8).load_state_dict(state)
    with pytest.raises(UserError, match="fingerprint was"):
        ReinforcedLoader(photos, policy=PLAIN, **U8).load_state_dict(state)


@pytest.mark.parametrize("open_first", [False, True])
@pytest.mark.parametrize("face", [lambda *files: ReinforcedLoader(*files, **U8), ReinforcedDataset])
def test_a_reinforcement_of_other_images_is_refused(digits, photos, reinforce, face, open_first):
    reinforced = reinforce(digits, PLAIN)
    with pytest.raises(UserError) as caught:
        face(photos, ReinforcedBeton.open(reinforced) if open_first else reinforced)
    for path in (digits, photos):
        assert ImageBeton.open(path).fingerprint in str(caught.value)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"batch_size": 101, "policy": PLAIN}, "100 images do not fill one batch of 101"),
        ({"workers": 1000, "policy": PLAIN}, "1000 decoding threads"),
    ],
)
def test_impossible_options_are_refused(digits, options, part):
    with pytest.raises(UserError, match=part):
        ReinforcedLoader(digits, **{**U8, **options})


def test_a_corrupt_jpeg_names_its_sample_in_the_consumer(photos, folder):
    """Bytes go wrong after the file was opened and checked: the consumer must hear of it, soon and by number."""
    broken = folder / "broken.beton"
    shutil.copy(photos, broken)
    shutil.copy(photos.with_suffix(".json"), broken.with_suffix(".json"))
    beton = ImageBeton.open(broken)
    start = int(beton.data_ptr[17])
    with open(broken, "r+b") as file:
        file.seek(start + 300)
        file.write(bytes(2000))
    loader = ReinforcedLoader(broken, **U8)
    with pytest.raises(ReplayError, match=r"broken\.beton: sample 17: the JPEG is corrupt"):
        list(loader)
    assert threading.active_count() < 20


def test_dropped_iterators_leave_no_threads(digits):
    loader = ReinforcedLoader(digits, policy=PLAIN, **U8)
    next(iter(loader))
    before = threading.active_count()
    for _ in range(50):
        for _ in loader:
            break
    assert threading.active_count() <= before
    threads = torch.get_num_threads()
    ReinforcedLoader(digits, policy=PLAIN, workers=1, **U8)
    assert torch.get_num_threads() == threads


def test_a_plain_pytorch_loop_learns(digits, reinforce):
    """The three lines of the documentation, with the label as target."""
    loader = ReinforcedLoader(digits, policy=PLAIN, batch_size=50, resolution=32, device="cpu")
    loss_fn = SparseTargetLoss(num_classes=10, temperature=1.0)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, 2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(10)
    )
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    losses = []
    for _ in range(40):
        for images, targets, _ in loader:
            loss = loss_fn(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert np.mean(losses[-4:]) < 0.75 * np.mean(losses[:4])


def test_random_access_refuses_what_is_not_there(digits, reinforce):
    dataset = ReinforcedDataset(digits, reinforce(digits, PLAIN))
    with pytest.raises(IndexError, match="image 100"):
        dataset.view(100, 0)
    with pytest.raises(IndexError, match="view 4"):
        dataset.view(0, VIEWS)


def test_the_same_resolution_allocates_nothing(digits, reinforced_digits):
    loader = ReinforcedLoader(digits, reinforced_digits, **U8)
    next(iter(loader))
    buffers, replayer = loader._stream.buffers, loader._stream.replayer
    loader.set_resolution(40)
    next(iter(loader))
    assert loader._stream.buffers is buffers and loader._stream.replayer is replayer
    loader.set_resolution(48)
    assert loader._stream.buffers is not buffers
    assert next(iter(loader))[0].shape == (8, 3, 48, 48)


def test_a_core_is_left_for_the_thread_that_launches_kernels(monkeypatch):
    for cores, on_gpu in ((16, 15), (4, 3), (2, 2)):
        monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", cores)
        assert thread_count(0, gpu=True) == on_gpu and thread_count(0) == cores
        assert thread_count(cores, gpu=True) == cores
    with pytest.raises(UserError, match="3 decoding threads asked for"):
        thread_count(3, gpu=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_batches_on_a_gpu_are_those_on_the_cpu(digits, reinforce, dtype):
    options = {**U8, "dtype": dtype, "seed": 2}
    pair = (ReinforcedLoader(digits, reinforce(digits, MIXING), device=device, **options) for device in ("cpu", "cuda"))
    kept = [list(loader) for loader in pair]  # all batches of an epoch at once: none may be overwritten by a later one
    for (cpu, cpu_targets, cpu_index), (gpu, gpu_targets, gpu_index) in zip(*kept, strict=True):
        assert gpu.device.type == "cuda"
        assert gpu.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(cpu.float(), gpu.cpu().float(), atol=2e-2 if dtype is torch.bfloat16 else 1e-5)
        assert torch.equal(cpu_targets.ids, gpu_targets.ids.cpu())
        assert torch.equal(cpu_targets.log_probs, gpu_targets.log_probs.cpu())
        assert torch.equal(cpu_index, gpu_index)
