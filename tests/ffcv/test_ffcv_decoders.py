"""Decoders for FFCV's own Loader: bytes and targets of ``ReinforcedLoader``, in its epochs, of files of every kind."""

import gc
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from betons import MIXING, PLAIN, TOPK
from ffcv.fields.decoders import IntDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline import Compiler, PipelineSpec
from ffcv.pipeline.operation import Operation
from ffcv.transforms import NormalizeImage, Squeeze, ToTensor, ToTorchImage
from numba import get_num_threads

from ffdr import ReinforcedLoader, SparseTargetLoss, SparseTargets
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.files import PackOptions, TranscodeOptions, WriteOptions
from ffdr.ffcv import CUSTOM_FIELDS, ReplayImageDecoder, TargetIdsDecoder, TargetLogProbsDecoder
from ffdr.loader.replay.status import ReplayError
from ffdr.util import lean_ffcv
from ffdr.util.errors import UserError
from ffdr.write.copy.merge import pack
from ffdr.write.copy.transcode import transcode
from ffdr.write.images import write_images

SIDE = 40
UNUSED = {"origin": None, "aug_params": None, "logits": None}


@pytest.fixture(autouse=True)
def uncompiled():
    """FFCV's compiling takes seconds for each Loader, so it does it for some of the tests only."""
    yield
    Compiler.set_enabled(True)


@pytest.fixture(scope="module")
def merged(folder, digits, photos, reinforce):
    """Function (raw, jpg or dct; policy) → merged beton."""

    def make(kind, policy):
        out = folder / f"ops_{kind}_{policy.mixes}.beton"
        if not out.exists():
            images = digits if kind == "raw" else photos
            reinforced = reinforce(images, policy)
            if kind == "dct":
                images = folder / "ops_coefficients.beton"
                transcode(TranscodeOptions(str(photos), str(images), workers=1), progress=False)
            pack(PackOptions(str(images), str(reinforced), str(out)), progress=False)
        return out

    return make


def stock(path, files=None, seed=0, after=(), targets="logits", compiled=False, **options):
    """FFCV's Loader of views, labels, ids and log-probabilities, and its decoder of images."""
    files = files or [path]
    arguments = {"batch_size": 7, "num_workers": 1, "order": OrderOption.RANDOM, "seed": 5, "drop_last": False}
    decoder = ReplayImageDecoder(*files, resolution=SIDE, seed=seed)
    pipelines = {
        "image": [decoder, *(after or [ToTensor()])],
        "label": [IntDecoder(), ToTensor(), Squeeze(1)],
        **UNUSED,
        "ids": PipelineSpec(targets, TargetIdsDecoder(*files, seed=seed), [ToTensor()]),
        "log_probs": PipelineSpec(targets, TargetLogProbsDecoder(*files, seed=seed), [ToTensor()]),
    }
    if len(files) > 1:
        pipelines = {name: pipelines[name] for name in pipelines if name not in ("aug_params", "logits")}
    fields = CUSTOM_FIELDS if len(files) == 1 else {}
    Compiler.set_enabled(compiled)
    return Loader(str(path), pipelines=pipelines, custom_fields=fields, **(arguments | options)), decoder


def batches(loader):
    """What a pass yields, copied out of FFCV's buffers."""
    return [[part.clone() for part in batch] for batch in loader]


def expected(images, reinforced, epoch, seed=0, side=SIDE):
    """All images of an epoch, in file order, by ReinforcedLoader."""
    loader = ReinforcedLoader(
        images, reinforced, batch_size=8, resolution=side, dtype=torch.uint8, seed=seed, order="sequential",
        drop_last=False, workers=1,
    )  # fmt: skip
    loader.set_epoch(epoch)
    parts = [(images.clone(), t.label, t.ids, t.log_probs) for images, t, _ in loader]
    views, *rest = map(torch.cat, zip(*parts, strict=True))
    return views.permute(0, 2, 3, 1), *rest


def copied(path, out, damaged=None):
    """A copy of a beton, perhaps with a sample whose JPEG is none."""
    for suffix in (".beton", ".json"):
        shutil.copy(path.with_suffix(suffix), out.with_suffix(suffix))
    if damaged is not None:
        with out.open("r+b") as file:
            file.seek(int(ImageBeton.open(path).data_ptr[damaged]))
            file.write(b"\0" * 64)
    return out


def order_of(loader, epoch):
    """The images of an epoch in FFCV's own order."""
    return np.random.default_rng(loader.seed + epoch).permutation(loader.reader.num_samples)


def check_epoch(loader, images, reinforced, epoch, found, **options):
    """Whether the batches of an epoch are those of ReinforcedLoader, sample by sample."""
    truth, order = expected(images, reinforced, epoch, **options), order_of(loader, epoch)
    count = sum(len(batch[0]) for batch in found)
    for part, true in zip(map(torch.cat, zip(*found, strict=True)), truth, strict=True):
        assert part.shape[1:] == true.shape[1:]
        assert torch.equal(part, true[order[:count]])
    assert truth[0].float().std() > 20
    return count


@pytest.mark.parametrize("kind", ["raw", "jpg", "dct"])
@pytest.mark.parametrize("policy", [PLAIN, MIXING], ids=["plain", "mixing"])
def test_views_and_targets_are_those_of_our_loader(merged, kind, policy):
    path = merged(kind, policy)
    loader, _ = stock(path, seed=2, num_workers=2, drop_last=True, compiled=kind == "dct")
    for epoch in range(3):
        count = check_epoch(loader, path, path, epoch, batches(loader), seed=2)
        assert count == loader.reader.num_samples // 7 * 7


def test_views_differ_between_epochs_and_seeds(merged):
    path = merged("raw", PLAIN)
    first, second, other = (expected(path, path, epoch, seed) for epoch, seed in ((0, 0), (1, 0), (0, 1)))
    for changed in (second, other):
        assert not torch.equal(first[0], changed[0]) and not torch.equal(first[2], changed[2])


@pytest.mark.parametrize("options", [{"os_cache": False}, {"recompile": True}, {"batch_size": 1000}], ids=str)
def test_whatever_the_loader_is_asked_for(merged, options):
    path = merged("jpg", MIXING)
    loader, _ = stock(path, **options)
    for epoch in range(2):
        assert check_epoch(loader, path, path, epoch, batches(loader)) == 24


def test_a_pass_left_half_way_does_not_shift_the_epochs(merged):
    path = merged("raw", PLAIN)
    loader, decoder = stock(path)
    left, unread = iter(loader), iter(loader)
    assert [len(next(left)[0]) for _ in range(3)] == [7, 7, 7]
    check_epoch(loader, path, path, 2, batches(loader))
    loader.next_epoch = 6
    decoder.output_size = (24, 24)
    check_epoch(loader, path, path, 6, batches(loader), side=24)
    assert decoder.output_size == (24, 24)
    for iterator in (left, unread):  # FFCV's threads go on until somebody says so
        iterator.close()


def test_passes_side_by_side_have_each_their_epoch(merged):
    path = merged("raw", PLAIN)
    loader, _ = stock(path)
    first, second = iter(loader), iter(loader)
    both = [([part.clone() for part in a], [part.clone() for part in b]) for a, b in zip(first, second, strict=True)]
    for epoch, found in enumerate(zip(*both, strict=True)):
        check_epoch(loader, path, path, epoch, found)


def test_images_and_reinforcement_apart(photos, reinforce):
    reinforced = reinforce(photos, PLAIN)
    loader, _ = stock(photos, files=[photos, reinforced], targets="label")
    check_epoch(loader, photos, reinforced, 0, batches(loader))


def test_some_of_the_images(merged):
    path, chosen = merged("raw", PLAIN), [90, 3, 41]
    loader, _ = stock(path, indices=chosen, order=OrderOption.SEQUENTIAL)
    (found,) = batches(loader)
    for part, true in zip(found, expected(path, path, 0), strict=True):
        assert torch.equal(part, true[chosen])


def test_compiled_operations_of_ffcv_follow(merged):
    path = merged("jpg", PLAIN)
    mean, std = np.array([120.0, 110.0, 100.0]), np.array([60.0, 50.0, 40.0])
    after = [NormalizeImage(mean, std, np.float32), ToTensor(), ToTorchImage(convert_back_int16=False)]
    loader, _ = stock(path, after=after, compiled=True)
    images = torch.cat([batch[0] for batch in batches(loader)]).permute(0, 2, 3, 1)
    assert images.dtype == torch.float32
    truth = (expected(path, path, 0)[0][order_of(loader, 0)].numpy() - mean) / std
    np.testing.assert_allclose(images, truth, atol=1e-5)


class Probe(Operation):
    """Somebody's operation, not compiled, that notes Numba's number of threads and may fail."""

    def __init__(self, error=None):
        super().__init__()
        self.seen, self.error = set(), error

    def declare_state_and_memory(self, previous_state):
        return replace(previous_state, jit_mode=False), None

    def generate_code(self):
        def note(batch, _):
            self.seen.add(get_num_threads())
            if self.error:
                raise self.error
            return batch

        return note


@pytest.mark.parametrize("workers", [1, 2])
def test_decoding_takes_as_many_threads_as_the_loader_has(merged, workers):
    """And leaves them to the operations that follow."""
    probe = Probe()
    loader, decoder = stock(merged("raw", PLAIN), after=[probe], num_workers=workers)
    list(loader)
    assert probe.seen == {workers}
    assert decoder._replayer.threads == workers


def test_an_error_of_any_operation_reaches_the_consumer(merged):
    loader, _ = stock(merged("raw", PLAIN), after=[Probe(KeyError("mine"))])
    (error,) = in_time(lambda: list(loader))
    assert isinstance(error, KeyError)


def test_a_list_begins_with_a_decoder(merged):
    """FFCV's own decoder of the field does not come before ours."""
    path = merged("dct", PLAIN)
    pipelines = {
        "image": [ReplayImageDecoder(path, resolution=SIDE)], "logits": [TargetIdsDecoder(path)],
        "aug_params": [TargetLogProbsDecoder(path)], "label": None, "origin": None,
    }  # fmt: skip
    Compiler.set_enabled(False)
    loader = Loader(str(path), batch_size=24, num_workers=1, pipelines=pipelines, custom_fields=CUSTOM_FIELDS)
    ((images, log_probs, ids),) = loader
    views, _, other_ids, other_log_probs = expected(path, path, 0)
    for found, true in ((images, views), (ids, other_ids), (log_probs, other_log_probs)):
        assert found.dtype == true.numpy().dtype and np.array_equal(found, true)


def test_targets_are_learned_from(merged):
    """The loss of the batch equals that of our loader's targets."""
    path = merged("raw", MIXING)
    loader, _ = stock(path, batch_size=100)
    ((_, label, ids, log_probs),) = batches(loader)
    assert ids.shape == log_probs.shape == (100, TOPK) and label.shape == (100,)
    outputs = torch.randn(100, 10, generator=torch.Generator().manual_seed(0))
    _, truth, other_ids, other_log_probs = expected(path, path, 0)
    order = order_of(loader, 0)
    loss_fn = SparseTargetLoss(num_classes=10)
    found = loss_fn(outputs, SparseTargets(ids, log_probs, label))
    assert torch.equal(found, loss_fn(outputs, SparseTargets(other_ids[order], other_log_probs[order], truth[order])))


def test_the_decoders_of_a_pipeline_share_the_opened_file(merged, tmp_path, monkeypatch):
    path, opened = copied(merged("raw", PLAIN), tmp_path / "x.beton"), []
    real = ReinforcedBeton.open
    monkeypatch.setattr(ReinforcedBeton, "open", lambda *arguments: opened.append(1) or real(*arguments))
    held = stock(path)
    assert opened == [1]
    del held
    gc.collect()
    TargetIdsDecoder(path)
    assert opened == [1, 1]


def test_a_changed_file_is_opened_anew(merged, tmp_path):
    decoders = [TargetIdsDecoder(copied(merged(kind, PLAIN), tmp_path / "x.beton")) for kind in ("raw", "jpg")]
    assert [decoder._files.images.num_images for decoder in decoders] == [100, 24]


def in_time(function, seconds=60):
    """What a function raises, which must not wait for ever."""
    raised = []

    def call():
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive()
    return raised


@pytest.mark.parametrize("ahead", [1, 3])
def test_a_bad_sample_is_named_in_the_consumer(merged, tmp_path, ahead):
    path = copied(merged("jpg", PLAIN), tmp_path / "bad.beton", damaged=17)
    loader, _ = stock(path, batches_ahead=ahead, batch_size=3)
    position = order_of(loader, 0).tolist().index(17) // 3
    seen, iterator = [], iter(loader)

    def consume():
        for batch in iterator:
            seen.append(batch[0].clone())

    (error,) = in_time(consume)
    assert isinstance(error, ReplayError) and error.sample == 17
    assert str(error) == f"{path}: sample 17: the JPEG is corrupt"
    assert len(seen) == position
    (again,) = in_time(consume)
    assert again is error
    iterator.join(10)
    assert not iterator.is_alive()


def test_a_thread_that_fails_ends_when_nobody_listens(merged, tmp_path):
    path = copied(merged("jpg", PLAIN), tmp_path / "bad.beton", damaged=17)
    loader, _ = stock(path, batches_ahead=1, batch_size=1)
    position, iterator = order_of(loader, 0).tolist().index(17), iter(loader)
    assert position > 1 and len([next(iterator) for _ in range(position - 1)]) == position - 1
    iterator.join(10)  # the last good batch fills the queue
    assert not iterator.is_alive()
    seen = []
    (error,) = in_time(lambda: seen.extend(iterator))  # who comes back is told
    assert len(seen) == 1 and isinstance(error, ReplayError)


def test_python_ends_after_the_threads_of_passes_that_were_left(merged):
    loader, _ = stock(merged("raw", PLAIN), batch_size=2, indices=list(range(100)) * 5, batches_ahead=2)
    iterators = [iter(loader) for _ in range(3)]
    next(iterators[0])
    assert all(iterator.is_alive() for iterator in iterators)
    lean_ffcv._end_all()
    assert not any(iterator.is_alive() for iterator in iterators)


@pytest.mark.parametrize("index", [100, -1])
def test_an_image_that_is_not_there(merged, index):
    """Before anything is read: FFCV believes the indices that it is given."""
    path = merged("raw", PLAIN)
    pipelines = {**UNUSED, "image": [ReplayImageDecoder(path, resolution=SIDE)], "label": None}
    loader = Loader(
        str(path), batch_size=2, num_workers=1, indices=[0, index], pipelines=pipelines, custom_fields=CUSTOM_FIELDS
    )
    (error,) = in_time(lambda: list(loader))
    assert str(error) == f"indices: {index} is not the number of an image; there are 100"


def test_what_is_refused_before_a_loader_is_made(digits, merged, tmp_path):
    path = merged("raw", PLAIN)
    for decoder in (ReplayImageDecoder, TargetIdsDecoder, TargetLogProbsDecoder):
        with pytest.raises(UserError, match=r"digits\.beton: holds images, but no views; give the reinforced"):
            decoder(digits)
        with pytest.raises(UserError, match=r"made for 24 images .* has 100"):
            decoder(path, merged("jpg", PLAIN))
        with pytest.raises(UserError, match="seed: -1 is not an integer from 0 to"):
            decoder(path, seed=-1)
        with pytest.raises(UserError, match="missing"):
            decoder(tmp_path / "missing.beton")
        with pytest.raises(UserError, match="images: 3 is neither a path nor"):
            decoder(3)
    with pytest.raises(UserError, match="resolution: 0 is not an integer from 1"):
        ReplayImageDecoder(path, resolution=0)
    decoder = ReplayImageDecoder(path)
    for size in ((32, 24), 32, (1, 2, 3), ("a", "a")):
        with pytest.raises(UserError, match=r"views are square"):
            decoder.output_size = size
    assert decoder.output_size == (224, 224)
    with pytest.raises(UserError, match="in the thread of a pass of FFCV's Loader only"):
        decoder._decode(np.arange(2), np.zeros((2, 224, 224, 3), np.uint8))


def test_a_loader_of_images_of_the_same_sizes_is_refused(digits, reinforced_digits, folder):
    """Raw images of one size lie in the same places, whatever they show."""
    others = folder / "other_digits.beton"
    options = WriteOptions("digits", split="test", out=str(others), mode="raw", per_class=10, workers=1)
    write_images(options, progress=False)
    first, second = ImageBeton.open(digits), ImageBeton.open(others)
    assert np.array_equal(first.data_ptr, second.data_ptr) and not np.array_equal(first.labels, second.labels)
    with pytest.raises(UserError, match=r"/digits\.beton: FFCV's Loader reads another file, or"):
        stock(others, files=[digits, reinforced_digits], targets="label")


@pytest.mark.parametrize("targets", ["logits", "origin"])
def test_a_loader_of_another_file_is_refused(merged, targets):
    other = merged("raw" if targets == "origin" else "jpg", PLAIN)
    with pytest.raises(UserError, match=r"ops_raw_False\.beton: FFCV's Loader reads another file, or"):
        stock(other, files=[merged("raw", PLAIN)], targets=targets)
