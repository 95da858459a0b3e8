"""Every argument of a loader: what is meant is accepted, anything else is refused in one line before any work."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from betons import PLAIN

from ffdr import ReinforcedLoader
from ffdr.beton.read import ImageBeton
from ffdr.config.learning import DataOptions
from ffdr.util.arguments import per_channel
from ffdr.util.errors import UserError

GIVEN = {"dtype": torch.uint8, "batch_size": 8, "resolution": 24, "workers": 1}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("resolution", (64, 96), r"resolution: \(64, 96\) is not an integer from 1 to 26754; views are square"),
        ("resolution", 0, "resolution: 0 is not"),
        ("resolution", -32, "resolution: -32"),
        ("resolution", 32.0, "resolution: 32.0"),
        ("resolution", True, "resolution: True"),
        ("resolution", 30_000, "resolution: 30000"),
        ("batch_size", 0, "batch_size: 0 is not an integer of at least 1"),
        ("batch_size", -1, "batch_size: -1"),
        ("batch_size", 2.5, r"batch_size: 2\.5"),
        ("batch_size", True, "batch_size: True"),
        ("batch_size", "8", "batch_size: '8'"),
        ("batch_size", None, "batch_size: None"),
        ("batch_size", torch.tensor([8, 8]), r"batch_size: tensor\(\[8, 8\]\)"),
        ("seed", -1, "seed: -1 is not an integer from 0 to 9223372036854775807"),
        ("seed", 1 << 63, "seed: 9223372036854775808"),
        ("seed", 0.5, r"seed: 0\.5"),
        ("seed", None, "seed: None"),
        ("workers", -1, "workers: -1 is not an integer of at least 0"),
        ("workers", 1.0, r"workers: 1\.0"),
        ("workers", 5000, "workers: 5000 decoding threads asked for"),
        ("batches_ahead", 0, "batches_ahead: 0 is not an integer of at least 1"),
        ("batches_ahead", math.inf, "batches_ahead: inf"),
        ("center", 0, "center: 0 is not a number from 0.001 to 1"),
        ("center", 1.5, r"center: 1\.5"),
        ("center", math.nan, "center: nan"),
        ("center", "0.9", r"center: '0\.9'"),
        ("reinforced_share", -0.1, r"reinforced_share: -0\.1 is not a number from 0 to 1"),
        ("reinforced_share", 2, "reinforced_share: 2"),
        ("reinforced_share", math.nan, "reinforced_share: nan"),
        ("reinforced_share", 0.5, r"reinforced_share: 0\.5, but there is no reinforced beton"),
        ("dtype", torch.int64, r"dtype: torch.int64 is not one of torch\.uint8, torch\.float16, .*torch\.float64"),
        ("dtype", torch.bool, "dtype: torch.bool"),
        ("dtype", "float32", "dtype: 'float32'"),
        ("dtype", np.float32, r"dtype: .*float32"),
        ("device", "gpu", r"device: 'gpu' is none here; cpu, cuda and cuda:N are usual \(.+\)"),
        ("device", "", "device: '' is none here"),
        ("device", None, "device: None is none here"),
        ("device", "cuda:900", "device: cuda:900, but torch finds .* CUDA device"),
        ("order", "shuffled", "order: 'shuffled' is not one of random, sequential, quasi_random"),
        ("order", "", "order: ''"),
        ("order", ["random"], r"order: \['random'\]"),
        ("policy", {"flip": 0.5}, r"policy: \{'flip': 0\.5\} is not a Policy"),
        ("policy", "imagenet", "policy: 'imagenet' is not a Policy"),
        ("drop_last", "no", "drop_last: 'no' is neither True nor False"),
        ("os_cache", "false", "os_cache: 'false' is neither"),
        ("os_cache", 0, "os_cache: 0 is neither"),
        ("reuse_buffers", None, "reuse_buffers: None is neither"),
        ("mean", (123.675, 116.28, 103.53), r"mean: 123\.675 is above 1, but means are .* in \[0, 1\]; divide by 255"),
        ("mean", np.array([0.5, 0.5, 1.5]), r"mean: 1\.5 is above 1"),
        ("mean", (0.5, 0.5, -0.1), r"mean: -0\.1 is not from 0 to 1"),
        ("mean", (0.5, 0.5, math.nan), "mean: nan is not from 0 to 1"),
        ("mean", (math.inf, 0.5, 0.5), "mean: inf is not from 0 to 1"),
        ("mean", 0.5, r"mean: 0\.5 is not a number for each channel"),
        ("mean", torch.tensor(0.5), "mean: 1 values, but there are 3 channels"),
        ("mean", np.array(0.5), "mean: 1 values, but there are 3 channels"),
        ("mean", (0.5,), "mean: 1 values, but there are 3 channels"),
        ("mean", "abc", "mean: 'abc' is not a number for each channel"),
        ("mean", (True, False, True), "mean: .* is not a number for each channel"),
        ("std", torch.tensor([58.4, 57.1, 57.4]), r"std: 58\.4 is above 1, but standard deviations are of pixels"),
        ("std", (0.2, 0.0, 0.2), "std: 0 is not above 0 and up to 1"),
        ("std", (-0.2, 0.2, 0.2), r"std: -0\.2 is not above 0"),
        ("std", (0.2, math.nan, 0.2), "std: nan is not above 0"),
        ("std", ((0.2, 0.2, 0.2),), "std: .* is not a number for each channel"),
    ],
)  # fmt: skip
def test_a_bad_argument_is_one_line(digits, key, value, text):
    with pytest.raises(UserError, match=text) as caught:
        ReinforcedLoader(digits, **{**GIVEN, key: value})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("rank", "size", "text"),
    [
        (3, 3, r"rank: 3 is not an integer from 0 to 2 \(world_size is 3\)"),
        (-1, 2, "rank: -1"),
        (0.0, 2, r"rank: 0\.0"),
        (True, 2, "rank: True"),
        (0, 0, "world_size: 0 is not an integer of at least 1"),
        (0, "2", "world_size: '2'"),
        (0, None, "rank 0, world_size None: give both or none"),
    ],
)
def test_a_rank_that_is_none_is_refused(digits, rank, size, text):
    with pytest.raises(UserError, match=text):
        ReinforcedLoader(digits, rank=rank, world_size=size, **GIVEN)


@pytest.mark.parametrize("bad", ["", None, 7, b"x.beton"])
def test_what_is_no_path_is_refused(digits, reinforced_digits, bad):
    with pytest.raises(UserError, match=r"images: .* is neither a path nor an opened beton of that kind"):
        ReinforcedLoader(bad, **GIVEN)
    if bad is not None:
        with pytest.raises(UserError, match=r"reinforced: .* is neither a path nor an opened beton of that kind"):
            ReinforcedLoader(digits, bad, **GIVEN)
    swapped = ImageBeton.open(digits)
    with pytest.raises(UserError, match=r"reinforced: ImageBeton.* is neither"):
        ReinforcedLoader(digits, swapped, **GIVEN)
    with pytest.raises(UserError, match="not a path"):
        ReinforcedLoader("a\0b.beton", **GIVEN)


@pytest.mark.parametrize(
    "make",
    [
        tuple,
        list,
        np.array,
        torch.tensor,
        lambda x: np.array(x, np.float32),
        lambda x: torch.tensor(x).view(1, 3, 1, 1),
        lambda x: [np.float64(y) for y in x],
        lambda x: [torch.tensor(y) for y in x],
        lambda x: [Fraction(y) for y in x],
    ],
)
def test_means_come_in_any_form(digits, make):
    given = {**GIVEN, "dtype": torch.float32}
    plain = next(iter(ReinforcedLoader(digits, mean=MEAN, std=STD, **given)))[0]
    loader = ReinforcedLoader(digits, mean=make(MEAN), std=make(STD), **given)
    assert all(type(x) is float for x in loader.mean + loader.std)
    assert torch.allclose(next(iter(loader))[0], plain, atol=1e-6)


@pytest.mark.parametrize("none", [None, (), [], np.array([])])
def test_no_means_are_the_manifests(digits, none):
    images = ImageBeton.open(digits)
    loader = ReinforcedLoader(images, mean=none, std=none, **GIVEN)
    assert (loader.mean, loader.std) == (images.mean, images.std)


def test_integers_of_any_kind_are_integers(digits):
    given = {"batch_size": np.int64(8), "resolution": torch.tensor(24), "seed": np.uint8(3), "workers": np.int32(1)}
    loader = ReinforcedLoader(digits, policy=PLAIN, dtype=torch.float64, os_cache=np.True_, **given)
    same = ReinforcedLoader(digits, policy=PLAIN, seed=3, **GIVEN)
    state = loader.state_dict()
    assert state == same.state_dict() and all(type(x) in (int, str) for x in state.values())
    images, _, index = next(iter(loader))
    assert images.dtype is torch.float64 and images.shape == (8, 3, 24, 24)
    assert torch.equal(index, next(iter(same))[2])


def test_options_and_arguments_agree_on_means():
    for key, values in (
        ("mean", (124.0, 0.5, 0.5)),
        ("std", (0.0, 0.2, 0.2)),
        ("std", (0.2, 0.2)),
        ("mean", (-1, 0, 0)),
    ):
        with pytest.raises(UserError) as caught:
            DataOptions(**{key: values})
        with pytest.raises(UserError) as direct:
            per_channel(f"data.{key}", values)
        assert str(caught.value) == str(direct.value) and str(caught.value).startswith(f"data.{key}: ")
    assert DataOptions(mean=MEAN, std=STD).mean == MEAN
    assert DataOptions().std == ()
