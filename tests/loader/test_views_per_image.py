"""Several views per image: the samples of as many plain epochs, in batches that hold all views of an image."""

import pytest
import torch
from betons import EFFECTS, MIXING, MIXING_EFFECTS, PLAIN, TOPK, VIEWS

from ffdr import ReinforcedLoader
from ffdr.beton.read import ReinforcedBeton
from ffdr.config.files import TranscodeOptions
from ffdr.util.errors import UserError
from ffdr.write.copy.transcode import transcode

SEED, BATCH = 5, 8


@pytest.fixture(scope="module")
def files(folder, digits, photos, reinforce):
    """Function (raw, jpg or dct; policy) → image beton and its reinforcement."""

    def make(kind, policy):
        reinforced = reinforce(digits if kind == "raw" else photos, policy)
        coefficients = folder / "several_coefficients.beton"
        if kind == "dct" and not coefficients.exists():
            transcode(TranscodeOptions(str(photos), str(coefficients), workers=1), progress=False)
        return {"raw": digits, "jpg": photos, "dct": coefficients}[kind], reinforced

    return make


def loader(images, reinforced=None, **options):
    chosen = {"batch_size": BATCH, "resolution": 32, "dtype": torch.uint8, "seed": SEED, "workers": 2, **options}
    return ReinforcedLoader(images, reinforced, **chosen)


def read(source, epoch):
    """The batches of an epoch."""
    source.set_epoch(epoch)
    return list(map(parts_of, source))


def parts_of(batch):
    """Index, pixels and all that targets have."""
    images, targets, index = batch
    return index, images.clone(), *(part for part in targets.parts() if part is not None)


def same(mine, theirs):
    return all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def shown_of(source, views, cycle):
    """(epoch of the view, image) → pixels and targets of all samples of a cycle; and its images in order."""
    shown, order = {}, []
    for epoch in range(cycle * views, (cycle + 1) * views):
        for index, *parts in read(source, epoch):
            images = index[::views]
            assert len(index) == BATCH and torch.equal(index, images.repeat_interleave(views))
            order += images.tolist()
            for row, image in enumerate(index.tolist()):
                shown[cycle * views + row % views, image] = [part[row] for part in parts]
    return shown, order


SOURCES = {
    "stored": (PLAIN, {}),
    "stored mixing": (MIXING_EFFECTS, {}),
    "drawn": (None, {"policy": EFFECTS}),
    "drawn mixing": (None, {"policy": MIXING}),
    "both": (PLAIN, {"policy": MIXING_EFFECTS, "reinforced_share": 0.5}),
}


@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", ["raw", "jpg", "dct"])
def test_a_cycle_shows_the_samples_of_as_many_plain_epochs(files, kind, source, views):
    policy, options = SOURCES[source]
    images, reinforced = files(kind, policy or PLAIN)
    options["reinforced"] = None if policy is None else reinforced
    several = loader(images, views_per_image=views, **options)
    plain = loader(images, order="sequential", drop_last=False, **options)
    count = several.num_images // BATCH * BATCH
    assert len(several) == count // BATCH
    orders = []
    for cycle in (0, 2):
        shown, order = shown_of(several, views, cycle)
        assert len({*order}) == len(order) == count and len(shown) == views * count
        orders.append(order)
        for epoch in range(cycle * views, (cycle + 1) * views):
            whole = [torch.cat(parts) for parts in zip(*read(plain, epoch), strict=True)]
            for image in order:
                assert same(shown[epoch, image], [part[image] for part in whole[1:]])
    assert orders[0] != orders[1]


def test_all_stored_views_come_once_before_any_comes_twice(digits, reinforced_digits):
    """K is 4: two cycles of two views."""
    stored, several = ReinforcedBeton.open(reinforced_digits), loader(digits, reinforced_digits, views_per_image=2)
    seen = {}
    for epoch in range(VIEWS):
        for index, _, ids, log_probs, *_ in read(several, epoch):
            for image, *teacher in zip(index.tolist(), ids.tolist(), log_probs.tolist(), strict=True):
                seen.setdefault(image, []).append(teacher)
    whole = [found for found in seen.values() if len(found) == VIEWS]
    assert len(whole) > 90  # each cycle leaves out four images
    for image, found in seen.items():
        ids, log_probs = (part.tolist() for part in stored.logits(image))
        expected = list(map(list, zip(ids, log_probs, strict=True)))
        assert len(ids[0]) == TOPK
        assert all(found.count(teacher) == 1 for teacher in found if len(found) == VIEWS)
        assert all(teacher in expected for teacher in found)


@pytest.mark.parametrize(("policy", "options"), [(PLAIN, {"os_cache": False}), (MIXING, {"workers": 1})])
@pytest.mark.parametrize("order", ["random", "quasi_random"])
def test_threads_and_pages_do_not_change_a_byte(photos, policy, options, order):
    shape = {"policy": policy, "views_per_image": 4, "order": order}
    first, second = loader(photos, **shape), loader(photos, **shape, **options)
    for epoch in (0, 5):
        assert all(map(same, read(first, epoch), read(second, epoch)))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_show_the_batches_of_one_process(digits, reinforced_digits, world_size):
    shape = {"views_per_image": 2, "resolutions": (32, 24, 40)}
    whole = read(loader(digits, reinforced_digits, **shape), 3)
    shape["batch_size"] = BATCH // world_size
    ranks = [
        read(loader(digits, reinforced_digits, rank=rank, world_size=world_size, **shape), 3)
        for rank in range(world_size)
    ]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert same(batch, [torch.cat(part) for part in zip(*parts, strict=True)])
    assert len({batch[1].shape for batch in whole}) > 1


@pytest.mark.parametrize(("epoch", "at"), [(0, 3), (1, 7), (3, 1)])
def test_a_resumed_loader_shows_the_rest_of_epoch_and_cycle(digits, reinforced_digits, epoch, at):
    whole, state = loader(digits, reinforced_digits, views_per_image=4), None
    whole.set_epoch(epoch)
    rest = []
    for number, batch in enumerate(whole):
        if number == at:
            state = whole.state_dict()
        elif number > at:
            rest.append(parts_of(batch))
    again = loader(digits, reinforced_digits, views_per_image=4)
    again.load_state_dict(state)
    found = list(map(parts_of, again))
    assert len(found) == len(whole) - at - 1 and all(map(same, found, rest))
    assert all(map(same, map(parts_of, again), read(whole, epoch + 1)))
    half = loader(digits, reinforced_digits, views_per_image=4, batch_size=4, rank=1, world_size=2)
    half.load_state_dict(state)
    for mine, batch in zip(map(parts_of, half), rest, strict=True):
        assert same(mine, [part[4:] for part in batch])


def test_a_state_of_another_number_of_views_is_refused(digits, reinforced_digits):
    one, two = (loader(digits, reinforced_digits, views_per_image=views) for views in (1, 2))
    with pytest.raises(UserError, match=r"^loader state: views_per_image was 1, but this loader's is 2$"):
        two.load_state_dict(one.state_dict())
    earlier = {key: value for key, value in one.state_dict().items() if key != "views_per_image"}
    one.load_state_dict(earlier)
    with pytest.raises(UserError, match="views_per_image was 1"):
        two.load_state_dict(earlier)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views_per_image": 3}, r"^batch_size: 8 is no multiple of views_per_image, 3$"),
        ({"views_per_image": 0}, r"^views_per_image: 0 is not an integer of at least 1"),
        ({"views_per_image": 2.0}, r"^views_per_image: 2.0 is not an integer"),
        ({"views_per_image": 2, "drop_last": False}, r"^drop_last=False: with 2 views_per_image all batches are full"),
        ({"views_per_image": 2, "policy": None}, r"^views_per_image: 2 views of an image .* there is but one"),
        ({"views_per_image": 16, "batch_size": 112}, r"^batch_size: 100 images do not fill one batch of 112"),
    ],
)
def test_what_makes_no_such_batch_is_refused(digits, options, message):
    with pytest.raises(UserError, match=message) as caught:
        loader(digits, **{"policy": PLAIN, **options})
    assert "\n" not in str(caught.value)


def test_a_stored_view_does_not_come_twice_in_a_batch(digits, reinforced_digits):
    for options in ({}, {"policy": PLAIN, "reinforced_share": 0.5}):
        with pytest.raises(UserError, match=r"^views_per_image: 8 views .* there are 4 stored ones, and none should"):
            loader(digits, reinforced_digits, views_per_image=8, **options)
