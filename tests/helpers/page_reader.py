"""A reader of any beton of ours, written from docs/format.md alone; test_format_doc.py holds it beside ffdr."""

import hashlib
import json
import struct
import zlib


class Reader:
    """A reader of any beton of ours: written from the page with struct and zlib, without a look at ffdr."""

    def __init__(self, path):
        self.data = data = path.read_bytes()
        version, fields, self.page_size, self.count, self.alloc = struct.unpack_from("<HHIQQ", data)
        assert version == 2
        self.fields = {}
        for n in range(fields):
            type_id, name = struct.unpack_from("<B16s", data, 24 + 1041 * n)
            arguments = data[24 + 1041 * n + 17 : 24 + 1041 * (n + 1)]
            self.fields[name.rstrip(b"\0").decode()] = type_id, arguments
        self.head = 24 + 1041 * fields
        entries = [struct.unpack_from("<QQQ", data, at) for at in range(self.alloc, len(data), 24)]
        self.sizes = {pointer: size for _, pointer, size in entries}
        self.sample_of = {pointer: sample for sample, pointer, _ in entries}
        assert [pointer for _, pointer, _ in entries] == sorted(self.sizes)
        self.record, self.offsets = 0, {}
        for name in self.fields:
            alignment, size = (1, 13) if name == "image" else (8, 8)
            self.record += -self.record % alignment
            self.offsets[name] = self.record
            self.record += size
        self.record += -self.record % 8
        self.index = self.alloc - (16 + 24 * self.count if "image" in self.fields else 0)
        self.coding = self.index
        if self.fields.get("image", (2,))[0] == 255:
            magic, size = struct.unpack_from("<8sQ", self.fields["image"][1])
            assert magic == b"FFDRDCT1"
            self.coding -= 16 + size + -size % 8
            assert struct.unpack_from("<8sQ", data, self.coding) == (magic, size)
        sums = 16 + 4 * (self.count + 1)
        self.sums = self.coding - (sums + -sums % 8)

    def entry(self, name, i, code):
        return struct.unpack_from("<" + code, self.data, self.head + i * self.record + self.offsets[name])

    def region(self, name, i):
        pointer = self.entry(name, i, "BHHQ" if name == "image" else "Q")[-1]
        assert self.sample_of[pointer] == i
        return self.data[pointer : pointer + self.sizes[pointer]]

    def header(self):
        (_, first), (_, second) = self.fields["aug_params"], self.fields["logits"]
        assert first == second
        found = json.loads(first[10 : 10 + int.from_bytes(first[8:10], "little")])
        assert first[:8] == (b"FFDRRNF2" if "effects" in found else b"FFDRRNF1")
        return found

    def views(self, i):
        """Records as tuples of numbers."""
        one, header = "5HBBBbBb4H", self.header()
        code = f"<{one}I5H{one}" if header["mixes"] else f"<{one}"
        if header.get("effects"):
            code += "Hh" * 8 * (2 if header["mixes"] else 1)
        return list(struct.iter_unpack(code, self.region("aug_params", i)))

    def logits(self, i):
        header, raw = self.header(), self.region("logits", i)
        entries = header["topk"]
        rows = [struct.unpack_from(f"<{entries}H{entries}e", raw, 4 * entries * k) for k in range(header["views"])]
        return [row[:entries] for row in rows], [row[entries:] for row in rows]

    def origin(self, i):
        return struct.unpack("<qqq", self.region("origin", i))

    def fingerprint(self):
        digest = hashlib.sha256(b"ffdr images 1\0")
        for i in range(self.count):
            digest.update(struct.pack("<qqq", *self.origin(i)))
        for i in range(self.count):
            digest.update(struct.pack("<q", *self.entry("label", i, "q")))
        return digest.hexdigest()[:32]

    def check(self):
        """Compare all checksums."""
        assert struct.unpack_from("<8sQ", self.data, self.sums) == (b"FFDRCRC1", self.count)
        *stored, tables = struct.unpack_from(f"<{self.count + 1}I", self.data, self.sums + 16)
        for i in range(self.count):
            regions = [self.region(name, i) for name in self.fields if name != "label"]
            assert stored[i] == zlib.crc32(b"".join(regions))
        before = self.data[: self.head + self.count * self.record]
        assert tables == zlib.crc32(before + self.data[self.coding :])
        if "image" in self.fields:
            assert struct.unpack_from("<8sQ", self.data, self.index) == (b"FFDRORG1", self.count)
            origins = [struct.unpack_from("<qqq", self.data, self.index + 16 + 24 * i) for i in range(self.count)]
            assert origins == [self.origin(i) for i in range(self.count)]

    def coefficients(self, i):
        """An image of mode 2: sampling, three quantisation tables, planes {(block row, block): 64 coefficients}."""
        data, coding = self.region("image", i), self.coding + 16
        sampling, quant, flags, _, width, height = struct.unpack_from("<BBBBHH", data)
        at = 8 + (384 if quant == 255 else 0)
        tables = (data, 8) if quant == 255 else (self.data, coding + 4100 + 384 * quant)
        h, v = ((1, 1), (1, 1), (2, 1), (2, 2))[sampling]
        sides = [(width, height), *[(-(-width // h), -(-height // v))] * (2 if sampling else 0)]
        order = []
        for mcu in range(-(-height // (8 * v))):
            order += [(0, mcu * v + row) for row in range(v)] + [(plane, mcu) for plane in range(1, len(sides))]
        row_bytes = struct.unpack_from(f"<{len(order)}{'I' if flags & 1 else 'H'}", data, at)
        at += len(order) * (4 if flags & 1 else 2)
        planes = [{} for _ in sides]
        for (plane, row), size in zip(order, row_bytes, strict=True):
            if 8 * row >= sides[plane][1]:
                assert size == 0
                continue
            count = -(-sides[plane][0] // 8)
            blocks = self.block_row(data[at : at + size], count, plane)
            planes[plane].update({(row, column): block for column, block in enumerate(blocks)})
            at += size
        assert data[at:] == bytes(16)
        return sampling, [struct.unpack_from("<64H", tables[0], tables[1] + 128 * plane) for plane in range(3)], planes

    def block_row(self, data, count, plane):
        """The blocks of a row."""
        coding, heads = self.coding + 16, -(-count // 8)
        first_with_high = int.from_bytes(self.data[coding : coding + 2], "little")
        entries = data[2 * heads : 2 * heads + count]
        at, types = 2 * heads + count, []
        for entry in entries:
            if plane:
                types.append(self.data[coding + 2052 + 8 * entry :][:8])
                continue
            low, high = self.data[coding + 4 + 4 * entry :][:4], bytes(4)
            if entry >= first_with_high:
                high, at = self.data[coding + 1028 + 4 * data[at] :][:4], at + 1
            types.append(low + high)
        levels = []
        for head in struct.unpack_from(f"<{heads}H", data):
            width = head & 15
            levels += [(head >> 4) - 2048 + value for value in integers(data[at : at + width], width)]
            at += width
        assert not any(value - ((head >> 4) - 2048) for value in levels[count:])
        blocks = []
        for dc, kinds in zip(levels, types, strict=False):
            block = [dc] + [0] * 63
            for group, kind in enumerate(kinds):
                width, bias = (kind - 11, 1) if kind > 11 else (12 if kind == 11 else kind, 0)
                values = integers(data[at : at + width], width)
                at += width
                for lane, position in enumerate(lanes(group)):
                    value = values[lane] - (values[lane] >> width - 1 << width if width else 0) + bias
                    assert position is not None or value == 0
                    if position is not None:
                        block[position] = value
            blocks.append(block)
        assert at == len(data)
        return blocks


def integers(data, width):
    """Eight unsigned integers."""
    word = int.from_bytes(data, "little")
    return [word >> width * lane & (1 << width) - 1 for lane in range(8)]


def lanes(group):
    """Natural-order position of the coefficient in each lane of a group; None where there is none."""
    diagonals = [[(r, d - r) for r in range(8) if 0 <= d - r < 8] for d in range(15)]
    zigzag = [8 * r + c for d, cells in enumerate(diagonals) for r, c in (cells if d % 2 else cells[::-1])]
    members, taken = zigzag[1 + 8 * group : 9 + 8 * group], {}
    for position in members:
        taken.setdefault(position % 8, position)
    for position in members:
        if position not in taken.values():
            taken[min(set(range(8)) - set(taken))] = position
    return [taken.get(lane) for lane in range(8)]
