"""Layout versions of a reinforcement: which file is of which, what an earlier ffdr says, what strangers may write."""

import hashlib
import json

import numpy as np
import pytest
from betons import EFFECTS, FLIPPED, MIXING, MIXING_EFFECTS, PLAIN
from effects import random_effects, with_effects

from ffdr.augment.check import OK, check_effects
from ffdr.augment.policy import Policy
from ffdr.augment.view import EFFECT_DTYPE, LARGEST_VALUES, SMALLEST_VALUES, record_dtype
from ffdr.augment.view import EFFECTS as NAMES
from ffdr.beton import header as module
from ffdr.beton.header import ReinforcedHeader, check_views, effects_of
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.beton.records import Records, first_effects, first_views, record_of, stored_records
from ffdr.util.errors import UserError

GOOD = {
    "views": 2, "topk": 3, "num_classes": 10, "num_images": 20, "fingerprint": "0" * 32, "mixes": False,
    "policy": {}, "teachers": ("a",), "resolution": 224, "seed": 0,
}  # fmt: skip
BEFORE = "1aa92cdd26c13ad43e21ce021a61a8f0694acadba4b3ed6055a44e588ef84118"
"""SHA-256 of a header, as ffdr packed it before there were effects."""


def packed(magic, **changes):
    """The arguments of a field with another magic or other values, as a stranger might write them."""
    given = GOOD | changes
    text = json.dumps({key: value for key, value in given.items() if value is not ...}).encode()
    return (magic + len(text).to_bytes(2, "little") + text).ljust(1024, b"\0")


def test_headers_without_effects_are_what_they_were():
    """Down to the bytes, for the default policy: that of ffdr before there were effects."""
    header = ReinforcedHeader(**GOOD | {"policy": Policy().settings()})
    assert header.pack()[:8] == b"FFDRRNF1" and b"effects" not in header.pack()
    assert hashlib.sha256(header.pack()).hexdigest() == BEFORE
    assert ReinforcedHeader.unpack(packed(b"FFDRRNF1")).effects is None


@pytest.mark.parametrize(
    ("policy", "effects", "size"),
    [(PLAIN, None, 24), (MIXING, None, 62), (FLIPPED, False, 24), (EFFECTS, True, 56), (MIXING_EFFECTS, True, 126)],
)
def test_what_a_policy_draws_decides_the_version(policy, effects, size):
    assert effects_of(policy) is effects
    header = ReinforcedHeader(**GOOD | {"policy": policy.settings(), "mixes": policy.mixes, "effects": effects})
    assert header.record_dtype == record_dtype(policy.mixes, bool(effects))
    assert (header.record_dtype.itemsize, header.view_bytes) == (size, 2 * size)
    assert header.pack()[:8] == (b"FFDRRNF1" if effects is None else b"FFDRRNF2")
    again = ReinforcedHeader.unpack(header.pack().ljust(1024, b"\0"))
    assert again == header and again.effects is effects
    assert again.pack() == header.pack()


def test_a_long_ensemble_fits_beside_every_effect():
    """Eight members with digests of their weights, and a policy with all that it may have."""
    policy = Policy(
        vertical_flip=0.25, color_jitter=(0.35, 0.35, 0.35, 0.125), color_jitter_prob=0.75, grayscale=0.25, blur=0.125,
        blur_sigma=(0.25, 1.75), solarize=0.125, solarize_threshold=130, mixup=0.25, cutmix=0.25,
    )  # fmt: skip
    teachers = [f"test_efficientnet@{number:012x}" for number in range(6)]
    header = ReinforcedHeader(
        **GOOD | {"teachers": teachers, "policy": policy.settings(), "effects": True, "mixes": True}
    )
    assert len(header.pack()) <= 1024


@pytest.mark.parametrize(
    ("magic", "changes", "said"),
    [
        (b"FFDRRNF1", {"effects": True}, "effects is True in layout version 1"),
        (b"FFDRRNF1", {"effects": False}, "effects is False in layout version 1"),
        (b"FFDRRNF2", {}, "effects is None in layout version 2"),
        (b"FFDRRNF2", {"effects": None}, "effects is None in layout version 2"),
        (b"FFDRRNF2", {"effects": 1}, "effects is 1, not true or false"),
        (b"FFDRRNF2", {"effects": "true"}, "effects is .*true.*, not true or false"),
        (b"FFDRRNF2", {"effects": []}, "effects is .*, not true or false"),
        (b"FFDRRNF2", {"effects": True, "views": 65535, "topk": 10, "num_classes": 65536, "mixes": 1}, "mixes must be"),
        (b"FFDRRNF2", {"effects": True, "effect": True}, "unreadable"),
        (b"FFDRRNF3", {"effects": True}, "by a newer version"),
        (b"FFDRRNF0", {}, "by a newer version"),
        (b"FFDRRNF\xff", {"effects": True}, "by a newer version"),
    ],
)
def test_headers_of_strangers_are_refused_in_a_line(magic, changes, said):
    with pytest.raises(UserError, match=f"reinforced header: .*{said}") as error:
        ReinforcedHeader.unpack(packed(magic, **changes))
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_an_earlier_version_refuses_when_it_opens(digits, reinforce, tmp_path, monkeypatch):
    """It knows one magic: simulated by forgetting the other."""
    path = with_effects(reinforce(digits, PLAIN), digits, tmp_path / "e.beton")
    assert ReinforcedBeton.open(path, ImageBeton.open(digits)).header.effects
    monkeypatch.setattr(module, "HEADER_MAGIC_2", module.HEADER_MAGIC)
    with pytest.raises(UserError, match="not written by ffdr, or by a newer version"):
        ReinforcedBeton.open(path)


def test_records_come_back_as_they_were_stored():
    rng = np.random.default_rng(0)
    records = Records.blank(5)
    for part in records[:2]:
        part.view(np.uint8)[...] = rng.integers(0, 256, part.view(np.uint8).shape)
    records.effects[...] = random_effects(rng, (5, 2))
    for mixes in (False, True):
        for effects in (False, True):
            dtype = record_dtype(mixes, effects)
            stored = stored_records(records, dtype)
            assert stored.dtype == dtype and stored.flags["C_CONTIGUOUS"]
            raw = stored.view(np.uint8).reshape(5, -1)
            parts = [records.views[:, 0], records.mixes, records.views[:, 1]] if mixes else [records.views[:, 0]]
            parts += [records.effects[:, place] for place in range(1 + mixes)] if effects else []
            assert raw[3].tobytes() == b"".join(part[3].tobytes() for part in parts)  # as docs/format.md says
            assert np.array_equal(first_views(stored), records.views[:, 0])
            assert np.array_equal(first_effects(stored), records.effects[:, 0]) or not effects
            found = record_of(stored[3], 17)
            assert found.views[0, 0] == records.views[3, 0]
            assert np.array_equal(found.effects[0, 0]["kind"], records.effects[3, 0]["kind"] if effects else [0] * 8)
            assert found.mixes[0] == records.mixes[3] if mixes else found.mixes[0]["partner"] == 17


def test_effects_are_checked():
    header = ReinforcedHeader(**GOOD | {"effects": True})
    views = np.zeros((3, 2), header.record_dtype)
    assert check_views(views, header) == ""
    for kind, (low, high) in enumerate(zip(SMALLEST_VALUES, LARGEST_VALUES, strict=True)):
        for value, good in ((low, True), (high, True), (low - 1, False), (high + 1, False)):
            if -(1 << 15) <= value < 1 << 15:
                views["first_effects"][1, 1, 0] = kind, value
                assert (check_views(views, header) == "") == good, (kind, value)
    views["first_effects"][1, 1, 0] = len(NAMES), 0
    assert check_views(views, header) == "effect 8 of a view is not below 8"
    views["first_effects"][1, 1, 0] = 0, 0
    views["first_effects"][1, 1, 3] = 5, 0
    assert check_views(views, header) == "a view has an effect behind one that is none"


def test_both_halves_of_a_mixed_view_are_checked():
    header = ReinforcedHeader(**GOOD | {"effects": True, "mixes": True})
    views = np.zeros((3, 2), header.record_dtype)
    views["second_effects"][0, 0, 0] = 7, 256
    assert check_views(views, header) == "Solarize 256 of a view is not from 0 to 255"


def test_a_reader_refuses_what_the_replay_would():
    """Random bytes near to what is allowed, by the kernels' own check."""
    rng, header = np.random.default_rng(0), ReinforcedHeader(**GOOD | {"effects": True})
    views, agreed = np.zeros((1, 1), header.record_dtype), []
    for _ in range(2000):
        effects = random_effects(rng, ())
        if rng.integers(2):
            effects[rng.integers(8)] = rng.choice([0, 0, 5, 6, 7, 8, 65535]), rng.choice([-32768, -1, 0, 1, 255, 256])
        views["first_effects"][0, 0] = effects
        agreed.append((check_views(views, header) == "", check_effects(effects) == OK))
    assert all(ours == theirs for ours, theirs in agreed) and {ours for ours, _ in agreed} == {False, True}
    assert EFFECT_DTYPE.itemsize == 4
