"""Betons of all kinds put together by hand: by other code than the writers', or in another arrangement than theirs."""

import zlib
from dataclasses import asdict

import numpy as np
from betons import put

from ffdr.augment.policy import Policy
from ffdr.augment.view import FRACTION, MIXED_DTYPE, plain_view
from ffdr.beton import layout
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.layout import ALLOC_DTYPE
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.beton.tables import read_tables
from ffdr.write import parts
from ffdr.write.reinforced import ReinforcedWriter


def make_stock(path, images):
    """As stock FFCV's writer leaves a file: nothing between the data and the allocation table."""
    count = len(images)
    kinds = (layout.FLOAT, layout.BYTES, layout.JSON, layout.ARRAY, layout.TENSOR)
    specs = (*parts.IMAGE_SPECS, *(layout.FieldSpec(f"more{kind}", kind) for kind in kinds))
    metadata, allocations = np.zeros(count, layout.metadata_dtype(specs)), []
    allocator = layout.Allocator(layout.data_start(specs, count))
    metadata["label"], metadata["image"]["mode"] = images.labels, images.modes
    metadata["image"]["width"], metadata["image"]["height"] = images.sizes.T
    with path.open("w+b") as file:

        def store(i, data):
            allocations.append((i, allocator.take(len(data)), len(data)))
            file.seek(allocations[-1][1])
            file.write(data)
            return allocations[-1][1]

        for i in range(count):
            metadata["image"]["data_ptr"][i] = store(i, images.data(i).tobytes())
            metadata["origin"][i] = store(i, images.origins[i].astype("<i8").tobytes())
            for kind in kinds[1:]:
                place, data = metadata[f"more{kind}"], b"0123456789" * (i + 1)
                if place.dtype.names:
                    place["ptr"][i], place["size"][i] = store(i, data), len(data)
                else:
                    place[i] = store(i, data)
        end = allocator.take(8)
        file.seek(end)
        file.write(np.array(allocations, ALLOC_DTYPE).tobytes())
        file.seek(0)
        file.write(layout.pack_head(specs, count, allocator.page_size, end) + metadata.tobytes())


def make_mixed(path, images, coefficients):
    """Every third image out of ``coefficients``, the others out of ``images``, in a file that holds all three modes."""
    count = len(images)
    sources = [coefficients if i % 3 == 0 else images for i in range(count)]
    stored, sums = np.zeros(count, parts.STORED_DTYPE), np.zeros(count, np.uint32)
    for i, source in enumerate(sources):
        stored["label"][i], stored["origin"][i] = source.labels[i], source.origins[i]
        stored["size"][i], stored["mode"][i] = source.data_size[i], source.modes[i]
        stored["width"][i], stored["height"][i] = source.sizes[i]
    coding = coefficients.coding.pack()
    start = layout.data_start(parts.image_specs(coding), count)
    part = parts.image_part(stored, start, coding=coding)
    with path.open("w+b") as file:
        for i, source in enumerate(sources):
            data, origin = source.data(i).tobytes(), stored["origin"][i].tobytes()
            sums[i] = parts.checksum(data, origin)
            file.seek(int(part.pointers[i]))
            file.write(parts.joined(data, origin))
        parts.finish_tables(file, [part], sums)


def make_reinforced(path, images, crop=FRACTION, **changes):
    """Two mixing views per image, whose crops are as wide as ``crop`` says; ``changes`` are of the header."""
    policy = Policy(mixup=1.0)
    header = {
        "views": 2,
        "topk": 3,
        "num_classes": 10,
        "num_images": images.num_images,
        "fingerprint": images.fingerprint,
        "mixes": True,
        "policy": asdict(policy),
        "teachers": ["made-up"],
        "resolution": 32,
        "seed": 0,
    }
    with ReinforcedWriter(path, ReinforcedHeader(**header | changes), images) as writer:
        for i in range(images.num_images):
            views = np.zeros(2, MIXED_DTYPE)
            views["first"] = views["second"] = plain_view()
            views["first"]["crop_w"] = crop
            views["mix"]["mixup"] = 40000
            views["mix"]["partner"] = (i + 1) % images.num_images
            ids = np.array([[1, 2, 3], [4, 5, 0]], np.uint16)
            put(writer, i, views, ids, np.array([[-0.5, -2, -3], [0, -9, -65504]], np.float16))
        writer.finish()


def make_merged(images, reinforced, out):
    """Write ``out``, one file of five fields, from an image beton and its reinforced beton (paths)."""
    specs = read_tables(images).specs + read_tables(reinforced).specs
    images, reinforced = ImageBeton.open(images), ReinforcedBeton.open(reinforced)
    count = len(images)
    allocator = layout.Allocator(layout.data_start(specs, count))
    metadata = np.zeros(count, layout.metadata_dtype(specs))
    metadata["label"] = images.labels
    metadata["image"]["mode"] = images.modes
    metadata["image"]["width"], metadata["image"]["height"] = images.sizes.T
    sums, allocations = np.zeros(count, np.uint32), []
    with out.open("w+b") as file:

        def store(i, data):
            place = allocator.take(len(data))
            file.seek(place)
            file.write(data)
            sums[i] = zlib.crc32(data, int(sums[i]))
            allocations.append((i, place, len(data)))
            return place

        for i in range(count):
            metadata["image"]["data_ptr"][i] = store(i, images.data(i).tobytes())
            metadata["origin"][i] = store(i, images.origins[i].astype("<i8").tobytes())
        for i in range(count):
            ids, log_probs = reinforced.logits(i)
            metadata["aug_params"][i] = store(i, reinforced.views(i).tobytes())
            metadata["logits"][i] = store(i, np.concatenate([ids, log_probs.view("<u2")], axis=1).tobytes())
        file.seek(allocator.end)
        table = np.array(allocations, layout.ALLOC_DTYPE)
        layout.write_tables(file, specs, allocator.page_size, metadata, sums, [table], images.origins)
    return out
