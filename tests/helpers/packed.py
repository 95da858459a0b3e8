"""A packed beton put together by hand, in another arrangement than a writer's: all images first, then all views."""

import zlib

import numpy as np

from ffdr.beton import layout
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.beton.tables import read_tables


def make_packed(images, reinforced, out):
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
