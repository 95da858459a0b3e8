"""The inverse DCT, two blocks at a time: packed groups in, 16×8 samples out.

It is libjpeg's accurate one ("islow": Loeffler, Ligtenberg and Moschytz 1989 with 12 multiplications, 13 fractional
bits, columns first) with the same roundings, so that samples are those of libjpeg-turbo, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ffdr.codec.dct.format import GROUPS
from ffdr.jit.vector import (
    I8,
    I16,
    I32,
    I64,
    Code,
    constant,
    in_both_versions,
)

_A = types.int64

TYPE_BYTES = 64
"""Bytes of a type in the table of types: for each of 8 lanes the numbers of the two bytes to load, the uint16 factor
that moves the value to the top, the int16 factor whose high product moves it down again, the bias."""
ENTRY_BYTES = 16
"""Bytes of a codebook entry for four groups: for each the uint16 place of its type in the table of types; for each the
uint8 place of its bytes behind the first one's; the uint8 number of bytes of all; 3 more that are not read here."""

_PASS1, _PASS2 = 11, 18
"""Bits to drop after columns and rows: 13 of the factors; 2 more are kept between the passes, 3 are the DCT's scale."""


def _load_group(code: Code, type_: Any, payload: Any) -> Any:
    """8 int16 whose values begin at the bytes that the type names; junk above and below them."""
    if not code.fast:
        lanes: Any = ir.Constant(ir.VectorType(I16, 8), ir.Undefined)
        for lane in range(8):
            place = code.at(payload, code.number(code.at(type_, 2 * lane), I8))
            lanes = code.b.insert_element(lanes, code.load(place, I16), I32(lane))
        return lanes
    kind = ir.VectorType(I8, 16)
    data, order = code.load(payload, kind), code.load(type_, kind)
    return code.b.bitcast(code.call("llvm.x86.ssse3.pshuf.b.128", kind, data, order), ir.VectorType(I16, 8))


def _unpack_group(code: Code, places: Sequence[tuple[Any, Any]]) -> Any:
    """16 int16: a group of each of two blocks. places: address of its type and of its bytes."""
    eight = ir.VectorType(I16, 8)
    lanes = code.joined(*(_load_group(code, type_, payload) for type_, payload in places))
    up, down, bias = (code.joined(*(code.load(code.at(t, at), eight) for t, _ in places)) for at in (16, 32, 48))
    return code.b.add(code.high(code.b.mul(lanes, up), down), bias)


def _unpack_entry(code: Code, entries: Sequence[Any], payloads: Sequence[Any], table: Any, count: int) -> list[Any]:
    """The first ``count`` of the four groups that a codebook entry of each block describes."""
    groups = []
    for group in range(count):
        places = []
        for entry, payload in zip(entries, payloads, strict=True):
            type_ = code.at(table, code.number(code.at(entry, 2 * group), I16))
            places.append((type_, code.at(payload, code.number(code.at(entry, 8 + group), I8))))
        groups.append(_unpack_group(code, places))
    return groups


def _rows(code: Code, groups: Sequence[Any], dcs: Sequence[Any]) -> list[Any]:
    """Eight rows of coefficients (natural order) of two blocks, out of their groups and DCs; None: all 0."""
    zero = constant(I16, [0] * 16)
    rows: list[Any] = [zero, *[None] * 7]
    for row in range(8):
        for group, values in enumerate(groups):
            lane_of = {position: lane for lane, position in enumerate(GROUPS[group].tolist())}
            lanes = [lane_of.get(8 * row + column, 16) for column in range(8)]
            if min(lanes) < 16:
                order = lanes + [lane if lane == 16 else lane + 8 for lane in lanes]
                part = code.shuffle(values, zero, order)
                rows[row] = part if rows[row] is None else code.b.or_(rows[row], part)
    for block, dc in enumerate(dcs):
        rows[0] = code.b.insert_element(rows[0], code.b.trunc(dc, I16), I32(8 * block))
    return rows


def _fixed(value: float) -> int:
    return round(value * (1 << 13))


_C0298, _C0390, _C0541, _C0765 = map(_fixed, (0.298631336, 0.390180644, 0.541196100, 0.765366865))
_C0899, _C1175, _C1501, _C1847 = map(_fixed, (0.899976223, 1.175875602, 1.501321110, 1.847759065))
_C1961, _C2053, _C2562, _C3072 = map(_fixed, (1.961570560, 2.053119869, 2.562915447, 3.072711026))


def _even(code: Code, x: Sequence[Any], half: int, round_: Any) -> list[Any]:
    """What the even coefficients give to the first four samples, and to the last four in reverse."""
    b, zero = code.b, constant(I16, [0] * 16)
    if x[4] is None and x[6] is None:
        x02 = code.pairs(x[0], x[2] or zero)[half]
        factors = (_C0541 + _C0765, _C0541, -_C0541, -_C0541 - _C0765)
        return [b.add(code.sums(x02, 1 << 13, factor), round_) for factor in factors]
    x04, x26 = code.pairs(x[0], x[4])[half], code.pairs(x[2], x[6] or zero)[half]
    t0 = b.add(code.sums(x04, 1 << 13, 1 << 13), round_)
    t1 = b.add(code.sums(x04, 1 << 13, -(1 << 13)), round_)
    t2 = code.sums(x26, _C0541, _C0541 - _C1847)
    t3 = code.sums(x26, _C0541 + _C0765, _C0541)
    return [b.add(t0, t3), b.add(t1, t2), b.sub(t1, t2), b.sub(t0, t3)]


def _odd(code: Code, x: Sequence[Any], half: int) -> list[Any]:
    """What the odd coefficients add to the first four samples, and take from the last four in reverse."""
    b, zero = code.b, constant(I16, [0] * 16)
    z3, z4 = (_C1175 - _C1961, _C1175), (_C1175, _C1175 - _C0390)
    if x[5] is None and x[7] is None:  # the same sums, with the factors added up beforehand
        x31 = code.pairs(x[3] or zero, x[1])[half]
        factors = (
            (z4[0], z4[1] + _C1501 - _C0899),
            (z3[0] + _C3072 - _C2562, z3[1]),
            (z4[0] - _C2562, z4[1]),
            (z3[0], z3[1] - _C0899),
        )
        return [code.sums(x31, *two) for two in factors]
    x1, x3, x5, x7 = (x[i] or zero for i in (1, 3, 5, 7))
    z34 = code.pairs(b.add(x7, x3), b.add(x5, x1))[half]
    x71, x53 = code.pairs(x7, x1)[half], code.pairs(x5, x3)[half]
    sum3, sum4 = code.sums(z34, *z3), code.sums(z34, *z4)
    return [
        b.add(code.sums(x71, -_C0899, _C1501 - _C0899), sum4),
        b.add(code.sums(x53, -_C2562, _C3072 - _C2562), sum3),
        b.add(code.sums(x53, _C2053 - _C2562, -_C2562), sum4),
        b.add(code.sums(x71, _C0298 - _C0899, -_C0899), sum3),
    ]


def _pass(code: Code, x: Sequence[Any], round_: int) -> list[tuple[Any, Any]]:
    """One dimension of the inverse DCT over eight vectors of 16 int16 (None: all 0; the first two are not), plus
    ``round_``: of each result two vectors of 8 int32, as ``Code.pairs`` orders them."""
    rounding = constant(I32, [round_] * 8)
    halves = []
    for half in range(2):
        both = list(zip(_even(code, x, half, rounding), _odd(code, x, half), strict=True))
        halves.append([code.b.add(*two) for two in both] + [code.b.sub(*two) for two in reversed(both)])
    return list(zip(*halves, strict=True))


def _interleave(code: Code, first: Any, second: Any, size: int, high: bool) -> Any:
    """Elements of ``size`` lanes taken in turn from the low (or high) parts of both halves of two vectors."""
    count = first.type.count
    half = count // 2
    order = []
    for start in (0, half):
        for element in range(half // 2 // size):
            lane = start + (half // 2 if high else 0) + element * size
            order += [lane + i for i in range(size)] + [count + lane + i for i in range(size)]
    return code.shuffle(first, second, order)


def _transpose(code: Code, x: Sequence[Any]) -> list[Any]:
    """Rows and columns exchanged in both 8×8 blocks of eight vectors of 16 int16."""
    for size in (1, 2, 4):
        out: list[Any] = [None] * 8
        for i in range(8):
            if i & size:
                continue
            out[i] = _interleave(code, x[i], x[i + size], size, high=False)
            out[i + size] = _interleave(code, x[i], x[i + size], size, high=True)
        x = out
    # The three exchanges leave row i where the bits of i are reversed.
    return [x[4 * (i & 1) + (i & 2) + (i >> 2)] for i in range(8)]


def _samples(code: Code, sums: Sequence[tuple[Any, Any]]) -> list[Any]:
    """Columns of samples, two in a vector of 32 bytes: of each half the first one's 8 rows, then the second one's.

    Of every sum the upper 16 bits are kept, so the rows come in the order ``_ROW_ORDER``.
    """
    short = ir.VectorType(I16, 16)
    columns = []
    for low, high in sums:
        low, high = (code.b.bitcast(part, short) for part in (low, high))
        upper = code.shuffle(low, high, [2 * (i // 2) + 1 + 16 * (i % 2) for i in range(16)])
        columns.append(code.b.ashr(upper, constant(I16, [_PASS2 - 16] * 16)))
    return [code.saturated(*two) for two in zip(columns[::2], columns[1::2], strict=True)]


_ROW_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


def _store_samples(code: Code, columns: Sequence[Any], out: Any, stride: Any) -> None:
    """Store two blocks side by side."""
    quads = []
    for first, second in (columns[:2], columns[2:]):
        even, odd = (_interleave(code, first, second, 1, high) for high in (False, True))
        quads.append([_interleave(code, even, odd, 1, high) for high in (False, True)])
    for part in range(2):
        for high in (False, True):
            rows = code.b.bitcast(_interleave(code, quads[0][part], quads[1][part], 4, high), ir.VectorType(I64, 4))
            for row in range(2):
                place = code.at(out, code.b.mul(stride, I64(_ROW_ORDER[4 * part + 2 * high + row])))
                code.store(code.shuffle(rows, rows, [row, row + 2]), place)


def _decode_pair(code: Code, arguments: Sequence[Any], count: int) -> None:
    builder = code.b
    out, stride, low_a, low_b, high_a, high_b, payload_a, payload_b, dc_a, dc_b, quant, table = arguments
    payloads, lows = (payload_a, payload_b), (low_a, low_b)
    groups = _unpack_entry(code, lows, payloads, table, min(count, 4))
    if count > 4:
        sizes = (code.number(code.at(entry, 12), I8) for entry in lows)
        behind = [code.at(payload, size) for payload, size in zip(payloads, sizes, strict=True)]
        groups += _unpack_entry(code, (high_a, high_b), behind, table, count - 4)
    rows = _rows(code, groups, (dc_a, dc_b))
    for row, values in enumerate(rows):
        if values is not None:
            factors = code.load(code.at(quant, 16 * row), ir.VectorType(I16, 8))
            rows[row] = builder.mul(values, code.joined(factors, factors))
    down = constant(I32, [_PASS1] * 8)
    sums = _pass(code, rows, 1 << (_PASS1 - 1))
    shifted = ((builder.ashr(low, down), builder.ashr(high, down)) for low, high in sums)
    columns = _transpose(code, [code.narrow(*two) for two in shifted])
    used = {0, *(GROUPS[:count][GROUPS[:count] >= 0] % 8).tolist()}
    columns = [column if i in used else None for i, column in enumerate(columns)]
    middle = 128 << _PASS2
    _store_samples(code, _samples(code, _pass(code, columns, (1 << (_PASS2 - 1)) + middle)), out, stride)


def _pair_intrinsic(count: int) -> Callable[..., None]:
    @intrinsic
    def decode_pair(
        typingctx: Any,
        fast: Any,
        out: Any,
        stride: Any,
        low_a: Any,
        low_b: Any,
        high_a: Any,
        high_b: Any,
        payload_a: Any,
        payload_b: Any,
        dc_a: Any,
        dc_b: Any,
        quant: Any,
        table: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            in_both_versions(builder, arguments[0], lambda code: _decode_pair(code, arguments[1:], count))
            return context.get_dummy_value()

        return types.void(types.boolean, *[_A] * 8, types.int64, types.int64, _A, _A), generate

    return decode_pair


pair_1, pair_2, pair_4, pair_8 = map(_pair_intrinsic, (1, 2, 4, 8))
"""Decode two neighbouring blocks that have nothing behind their first 1, 2, 4 or 8 groups, to 16×8 samples at ``out``,
rows ``stride`` bytes apart.

Arguments behind ``fast`` (bool) are addresses, int64, but for ``stride`` and the quantised DCs. low, high: codebook
entries of groups 0 to 3 and 4 to 7 (``ENTRY_BYTES``); payload: a block's first byte, of which 16 are read from each
group's place on; quant: 64 uint16, natural order; table: of types (``TYPE_BYTES``).
"""


def _unpack_dc(code: Code, out: Any, payload: Any, type_: Any, base: Any) -> None:
    eight = ir.VectorType(I16, 8)
    up, down = (code.load(code.at(type_, at), eight) for at in (16, 32))
    values = code.high(code.b.mul(_load_group(code, type_, payload), up), down, signed=False)
    code.store(code.b.add(values, code.splat(code.b.trunc(base, I16), 8)), out)


@intrinsic
def unpack_dc(typingctx: Any, fast: Any, out: Any, payload: Any, type_: Any, base: Any) -> Any:
    """DC of eight blocks, 8 int16 at ``out``: ``base`` plus unsigned values of the width that the type has."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        in_both_versions(builder, arguments[0], lambda code: _unpack_dc(code, *arguments[1:]))
        return context.get_dummy_value()

    return types.void(types.boolean, _A, _A, _A, types.int64), generate


@intrinsic
def fill_pair(typingctx: Any, out: Any, stride: Any, first: Any, second: Any) -> Any:
    """Two blocks of one level each: 8 rows of 16 bytes. first, second: the levels, int64 0 to 255."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = Code(builder, False)
        to, step, *levels = arguments
        samples = code.joined(*(code.splat(builder.trunc(level, I8), 8) for level in levels))
        for row in range(8):
            code.store(samples, code.at(to, builder.mul(step, I64(row))))
        return context.get_dummy_value()

    return types.void(_A, _A, types.int64, types.int64), generate
