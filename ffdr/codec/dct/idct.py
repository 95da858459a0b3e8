"""The inverse DCT, two blocks at a time: packed groups in, 16×8 samples out.

It is libjpeg's accurate one ("islow": Loeffler, Ligtenberg and Moschytz 1989 with 12 multiplications, 13 fractional
bits, columns first) with the same roundings, so that samples are those of libjpeg-turbo, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from ffdr.codec.dct.format import GROUPS
from ffdr.jit.ir import I8, I16, I32, I64, Code, Value, constant, instruction

# Two neighbouring blocks, a and b, go through it side by side, so that one 256-bit register holds a row of both:
#
#     group g      a0 a1 a2 a3 a4 a5 a6 a7 | b0 b1 b2 b3 b4 b5 b6 b7      16 int16, lanes as GROUPS[g] says
#     row y        a(y,0) .......... a(y,7) | b(y,0) .......... b(y,7)     8 of them: coefficients × quantisation
#     pass 1       the same; every lane is a column, and all 16 are transformed at once
#     transposed   a(0,x) .......... a(7,x) | b(0,x) .......... b(7,x)     8 of them, one for each column x
#     pass 2       the same; every lane is a row
#     samples      8 stores of 16 bytes, a's row and b's row y
#
# Within a pass, lanes are held as int32 in two vectors of 8: lanes 0-3 and 8-11, and lanes 4-7 and 12-15. So does
# AVX2 widen and narrow, which never cross the middle of a register (``Code.pairs``, ``Code.narrow``).
#
# Which rows and columns can hold anything but 0 is known while code is emitted, from the number of groups; None stands
# for those that can't. That is what makes pair_1, pair_2 and pair_4 cheaper than pair_8.

TYPE_BYTES = 64
"""Bytes of a type in the table of types, four vectors of 16 bytes: for each of 8 lanes the numbers of the two bytes
that hold its value, the uint16 factor that moves the value to the top, the int16 factor whose high product moves it
down again, the bias."""
# How a value of width w gets out of its two bytes, 16 bits of which the lowest o and the highest 16 - w - o belong to
# its neighbours (w + o is at most 16, by the choice of the widths):
#
#     loaded       n n n n n v v v v v v n n n n n     w = 6, o = 5
#     × 2^(16-w-o) v v v v v v n n n n n 0 0 0 0 0     the multiplication wraps, so what is above falls off
#     × 2^w >> 16  s s s s s s s s s s v v v v v v     signed: an arithmetic shift by 16 - w
#
# Two multiplications, because AVX2 can shift 16-bit lanes by one common count only.
ENTRY_BYTES = 16
"""Bytes of a codebook entry for four groups: for each the uint16 place of its type in the table of types; for each the
uint8 place of its bytes behind the first one's; the uint8 number of bytes of all; 3 more that are not read here."""

_PASS1, _PASS2 = 11, 18
"""Bits to drop after columns and rows: 13 of the factors; 2 more are kept between the passes, 3 are the DCT's scale."""


def _load_group(code: Code, type_: Value, payload: Value) -> Value:
    """8 int16 whose values begin at the bytes that the type names; junk above and below them."""
    if not code.has_avx2:
        lanes = ir.Constant(ir.VectorType(I16, 8), ir.Undefined)
        for lane in range(8):
            place = code.at(payload, code.number(code.at(type_, 2 * lane), I8))
            lanes = code.b.insert_element(lanes, code.load(place, I16), I32(lane))
        return lanes
    kind = ir.VectorType(I8, 16)
    data, order = code.load(payload, kind), code.load(type_, kind)
    return code.b.bitcast(code.call("llvm.x86.ssse3.pshuf.b.128", kind, data, order), ir.VectorType(I16, 8))


def _unpack_group(code: Code, places: Sequence[tuple[Value, Value]]) -> Value:
    """16 int16: a group of each of two blocks. places: address of its type and of its bytes."""
    eight = ir.VectorType(I16, 8)
    lanes = code.joined(*(_load_group(code, type_, payload) for type_, payload in places))
    up, down, bias = (code.joined(*(code.load(code.at(t, at), eight) for t, _ in places)) for at in (16, 32, 48))
    return code.b.add(code.high_product(code.b.mul(lanes, up), down), bias)


def _unpack_entry(
    code: Code, entries: Sequence[Value], payloads: Sequence[Value], table: Value, count: int
) -> list[Value]:
    """The first ``count`` of the four groups that a codebook entry of each block describes."""
    groups = []
    for group in range(count):
        places = []
        for entry, payload in zip(entries, payloads, strict=True):
            type_ = code.at(table, code.number(code.at(entry, 2 * group), I16))
            places.append((type_, code.at(payload, code.number(code.at(entry, 8 + group), I8))))
        groups.append(_unpack_group(code, places))
    return groups


def _coefficient_rows(code: Code, groups: Sequence[Value], dcs: Sequence[Value]) -> list[Any]:
    """Eight rows of coefficients (natural order) of two blocks, out of their groups and DCs; None: all 0."""
    zero = constant(I16, [0] * 16)
    rows: list[Any] = [zero, *[None] * 7]
    for row in range(8):
        for group, values in enumerate(groups):
            # Zig-zag runs across rows, so a row collects its lanes from several groups; lane 16 of (values, zero) is 0.
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


# One dimension, on x0 to x7. The paper's rotations are written as libjpeg-turbo's vector code does it: z1 = (x2 + x6) ×
# 0.541 and then t3 = z1 + x2 × 0.765 is x2 × (0.541 + 0.765) + x6 × 0.541, one multiply-add of neighbouring lanes
# (``Code.sums``) with the factors added up beforehand. In integers that is exact. Sums of two x wrap at 16 bits.


def _even(code: Code, x: Sequence[Value], half: int, rounding: Value) -> list[Value]:
    """What the even coefficients give to the first four samples, and to the last four in reverse."""
    b, zero = code.b, constant(I16, [0] * 16)
    if x[4] is None and x[6] is None:
        x02 = code.pairs(x[0], x[2] or zero)[half]
        factors = (_C0541 + _C0765, _C0541, -_C0541, -_C0541 - _C0765)
        return [b.add(code.sums(x02, 1 << 13, factor), rounding) for factor in factors]
    x04, x26 = code.pairs(x[0], x[4])[half], code.pairs(x[2], x[6] or zero)[half]
    t0 = b.add(code.sums(x04, 1 << 13, 1 << 13), rounding)
    t1 = b.add(code.sums(x04, 1 << 13, -(1 << 13)), rounding)
    t2 = code.sums(x26, _C0541, _C0541 - _C1847)
    t3 = code.sums(x26, _C0541 + _C0765, _C0541)
    return [b.add(t0, t3), b.add(t1, t2), b.sub(t1, t2), b.sub(t0, t3)]


def _odd(code: Code, x: Sequence[Value], half: int) -> list[Value]:
    """What the odd coefficients add to the first four samples, and take from the last four in reverse."""
    b, zero = code.b, constant(I16, [0] * 16)
    z3, z4 = (_C1175 - _C1961, _C1175), (_C1175, _C1175 - _C0390)
    if x[5] is None and x[7] is None:  # x1 is z4, x3 is z3, so theirs are added to the other factors, too
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


def _pass(code: Code, x: Sequence[Value], rounding: int) -> list[tuple[Value, Value]]:
    """One dimension of the inverse DCT over eight vectors of 16 int16 (None: all 0; the first two are not), plus
    ``rounding``: of each result two vectors of 8 int32, as ``Code.pairs`` orders them."""
    constants = constant(I32, [rounding] * 8)
    halves = []
    for half in range(2):
        both = list(zip(_even(code, x, half, constants), _odd(code, x, half), strict=True))
        halves.append([code.b.add(*two) for two in both] + [code.b.sub(*two) for two in reversed(both)])
    return list(zip(*halves, strict=True))


def _interleave(code: Code, first: Value, second: Value, size: int, high: bool) -> Value:
    """Elements of ``size`` lanes taken in turn from the low (or high) parts of both halves of two vectors."""
    count = first.type.count
    half = count // 2
    order = []
    for start in (0, half):
        for element in range(half // 2 // size):
            lane = start + (half // 2 if high else 0) + element * size
            order += [lane + i for i in range(size)] + [count + lane + i for i in range(size)]
    return code.shuffle(first, second, order)


def _transpose(code: Code, x: Sequence[Value]) -> list[Value]:
    """Rows and columns exchanged in both 8×8 blocks of eight vectors of 16 int16."""
    for size in (1, 2, 4):
        out: list[Value] = [None] * 8
        for i in range(8):
            if i & size:
                continue
            out[i] = _interleave(code, x[i], x[i + size], size, high=False)
            out[i + size] = _interleave(code, x[i], x[i + size], size, high=True)
        x = out
    # The three exchanges leave row i where the bits of i are reversed.
    return [x[4 * (i & 1) + (i & 2) + (i >> 2)] for i in range(8)]


def _samples(code: Code, sums: Sequence[tuple[Value, Value]]) -> list[Value]:
    """Columns of samples, two in a vector of 32 bytes: of each half the first one's 8 rows, then the second one's.

    Rows come in the order ``_ROW_ORDER``.
    """
    # A sample is its sum >> 18. Taking the upper 16 bits is a shuffle that shifts by 16 and narrows at once; the last
    # two bits follow. To do it in one blend and one shift, the two vectors' lanes are taken in turn:
    #
    #     low   rows 0 1 2 3       upper halves in turn   0 4 1 5 2 6 3 7
    #     high  rows 4 5 6 7
    short = ir.VectorType(I16, 16)
    columns = []
    for low, high in sums:
        low, high = (code.b.bitcast(part, short) for part in (low, high))
        upper = code.shuffle(low, high, [2 * (i // 2) + 1 + 16 * (i % 2) for i in range(16)])
        columns.append(code.b.ashr(upper, constant(I16, [_PASS2 - 16] * 16)))
    return [code.saturated(*two) for two in zip(columns[::2], columns[1::2], strict=True)]


_ROW_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


def _store_samples(code: Code, columns: Sequence[Value], out_a: Value, out_b: Value, stride: Value) -> None:
    """Store two blocks. columns: four vectors, as ``_samples`` makes them."""
    # Bytes of one half, which is one block; s(row, column), rows in the order 0 4 1 5 2 6 3 7:
    #
    #     columns   s00 s40 s10 .. s70  s01 s41 s11 .. s71         four vectors of two columns each
    #     quads     s00 s01 s02 s03  s40 s41 s42 s43  s10 ..       4 bytes of each of 4 rows; columns 0-3, then 4-7
    #     rows      s00 s01 .. s07   s40 s41 .. s47                8 bytes of each of 2 rows
    quads = []
    for first, second in (columns[:2], columns[2:]):
        even, odd = (_interleave(code, first, second, 1, high) for high in (False, True))
        quads.append([_interleave(code, even, odd, 1, high) for high in (False, True)])
    for part in range(2):
        for high in (False, True):
            rows = code.b.bitcast(_interleave(code, quads[0][part], quads[1][part], 4, high), ir.VectorType(I64, 4))
            for row in range(2):
                along = code.b.mul(stride, I64(_ROW_ORDER[4 * part + 2 * high + row]))
                for block, out in enumerate((out_a, out_b)):
                    code.store(code.b.extract_element(rows, I32(row + 2 * block)), code.at(out, along))


def _places(count: int) -> np.ndarray:
    """Natural-order positions of DC and of the coefficients in the first ``count`` groups."""
    return np.append(GROUPS[:count][GROUPS[:count] >= 0], 0)


def _inverse_columns(code: Code, rows: Sequence[Any], count: int) -> list[Any]:
    """The first pass, over rows of dequantised coefficients, and its results transposed: eight columns of 16 int16.

    count: of groups; a column that none of their coefficients lie in is None.
    """
    down = constant(I32, [_PASS1] * 8)
    sums = _pass(code, rows, 1 << (_PASS1 - 1))
    shifted = ((code.b.ashr(low, down), code.b.ashr(high, down)) for low, high in sums)
    columns = _transpose(code, [code.narrow(*two) for two in shifted])
    used = set((_places(count) % 8).tolist())
    return [column if i in used else None for i, column in enumerate(columns)]


def _inverse_rows(code: Code, columns: Sequence[Any]) -> list[Value]:
    """The second pass, over columns, and samples as ``_samples`` makes them."""
    # Samples are centred on 128, which is added before the last shift, with the rounding.
    middle = 128 << _PASS2
    return _samples(code, _pass(code, columns, (1 << (_PASS2 - 1)) + middle))


class Pair(NamedTuple):
    """Two neighbouring blocks, a and b, and where their samples go. All but ``stride`` and the DCs are addresses."""

    out: int
    """16 bytes of each of 8 rows are written from here on."""
    stride: int
    """Bytes from row to row."""
    low_a: int
    """Codebook entries of groups 0 to 3 (``ENTRY_BYTES``)."""
    low_b: int
    high_a: int
    """Codebook entries of groups 4 to 7."""
    high_b: int
    payload_a: int
    """A block's first byte. 16 bytes are read from the place of each group on, so up to 16 behind the last one."""
    payload_b: int
    dc_a: int
    """Quantised."""
    dc_b: int
    quant: int
    """64 uint16, natural order."""
    types: int
    """The table of types (``TYPE_BYTES``)."""


_PAIR = types.NamedUniTuple(types.int64, len(Pair._fields), Pair)


def _pair_instruction(count: int) -> Callable[..., None]:
    @instruction(types.void, _PAIR)
    def decode_pair(code: Code, packed: Value) -> None:
        b, pair = code.b, Pair(*cgutils.unpack_tuple(code.b, packed))
        payloads, lows = (pair.payload_a, pair.payload_b), (pair.low_a, pair.low_b)
        groups = _unpack_entry(code, lows, payloads, pair.types, min(count, 4))
        if count > 4:
            sizes = (code.number(code.at(entry, 12), I8) for entry in lows)
            behind = [code.at(payload, size) for payload, size in zip(payloads, sizes, strict=True)]
            groups += _unpack_entry(code, (pair.high_a, pair.high_b), behind, pair.types, count - 4)
        rows = _coefficient_rows(code, groups, (pair.dc_a, pair.dc_b))
        for row, values in enumerate(rows):
            if values is not None:
                factors = code.load(code.at(pair.quant, 16 * row), ir.VectorType(I16, 8))
                rows[row] = b.mul(values, code.joined(factors, factors))
        columns = _inverse_columns(code, rows, count)
        _store_samples(code, _inverse_rows(code, columns), pair.out, code.at(pair.out, 8), pair.stride)

    return decode_pair


pair_1, pair_2, pair_4, pair_8 = map(_pair_instruction, (1, 2, 4, 8))
"""Decode two blocks that have nothing behind their first 1, 2, 4 or 8 groups: ``pair_8(pair)``."""


class LoosePair(NamedTuple):
    """Two blocks of coefficients, a and b, and where their samples go. All but ``stride`` are addresses."""

    coefficients: int
    """Of each of 8 rows, natural order, 8 int16 of a and 8 of b. Set to 0 as far as they are read."""
    quant: int
    """uint16 factors, laid out in the same way."""
    out_a: int
    """8 bytes of each of 8 rows are written from here on."""
    out_b: int
    stride: int
    """Bytes from row to row."""
    seen: int
    """16 int16, to which ``SAFE`` plus what goes into both passes is or-ed."""


SAFE = 1 << 13
"""From −SAFE to SAFE − 1, coefficients give the same samples whatever the width of a decoder's sums. Those of an
encoder are never larger, and the first pass's results from them neither: DC, and the sum of a row, stay below 4096."""
_LOOSE_PAIR = types.NamedUniTuple(types.int64, len(LoosePair._fields), LoosePair)


def _loose_pair_instruction(count: int) -> Callable[..., None]:
    @instruction(types.void, _LOOSE_PAIR)
    def transform_pair(code: Code, packed: Value) -> None:
        pair, sixteen = LoosePair(*cgutils.unpack_tuple(code.b, packed)), ir.VectorType(I16, 16)
        rows: list[Any] = [None] * 8
        for row in sorted(set((_places(count) // 8).tolist())):
            place = code.at(pair.coefficients, 32 * row)
            rows[row] = code.b.mul(code.load(place, sixteen), code.load(code.at(pair.quant, 32 * row), sixteen))
            code.store(constant(I16, [0] * 16), place)
        columns = _inverse_columns(code, rows, count)
        seen = code.load(pair.seen, sixteen)
        for values in [*rows, *columns]:
            if values is not None:
                seen = code.b.or_(seen, code.b.add(values, constant(I16, [SAFE] * 16)))
        code.store(seen, pair.seen)
        _store_samples(code, _inverse_rows(code, columns), pair.out_a, pair.out_b, pair.stride)

    return transform_pair


loose_1, loose_2, loose_4, loose_8 = map(_loose_pair_instruction, (1, 2, 4, 8))
"""Samples of two blocks that have nothing behind zig-zag rank 8, 16, 32 or 63: ``loose_8(pair)``."""


@instruction(types.void, *[types.int64] * 4)
def unpack_dc(code: Code, out: Value, payload: Value, type_: Value, base: Value) -> None:
    """DC of eight blocks, 8 int16 at ``out``: ``base`` plus unsigned values of the width that the type has.

    Addresses but for ``base``; 16 bytes are read from ``payload`` on.
    """
    eight = ir.VectorType(I16, 8)
    up, down = (code.load(code.at(type_, at), eight) for at in (16, 32))
    # The shift down brings in zeros, not signs: these values are unsigned. Types of biases are never used here.
    values = code.high_product(code.b.mul(_load_group(code, type_, payload), up), down, signed=False)
    code.store(code.b.add(values, code.splat(code.b.trunc(base, I16), 8)), out)


@instruction(types.void, *[types.int64] * 3)
def fill_block(code: Code, out: Value, stride: Value, level: Value) -> None:
    """A block of one level: 8 rows of 8 bytes. level: int64 0 to 255."""
    samples = code.splat(code.b.trunc(level, I8), 8)
    for row in range(8):
        code.store(samples, code.at(out, code.b.mul(stride, I64(row))))


@instruction(types.void, *[types.int64] * 4)
def fill_pair(code: Code, out: Value, stride: Value, first: Value, second: Value) -> None:
    """Two blocks of one level each: 8 rows of 16 bytes. first, second: the levels, int64 0 to 255."""
    samples = code.joined(*(code.splat(code.b.trunc(level, I8), 8) for level in (first, second)))
    for row in range(8):
        code.store(samples, code.at(out, code.b.mul(stride, I64(row))))
