"""The whole view once more, slowly: Python integers, Pillow and torchvision, sharing no code with the kernels.

Only the record's dtype is shared. One thing of torchvision is pinned (``pinned_grid``): the matrix product behind
shears and rotations, whose last bit depends on the processor's BLAS.
"""

import math

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, _functional_tensor
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import RandAugment, TrivialAugmentWide, _apply_op

FLIP, CENTER, WIDE, UNIT = 1, 2, 4, 65535


def coordinate(fraction, length):
    """A stored fraction in pixels; whole where the rounding of a whole pixel may have led to it."""
    exact = fraction * length / UNIT
    whole = round(exact)
    return float(whole) if 2 * abs(fraction * length - whole * UNIT) <= length else exact


def interval(start, size, length):
    """One axis of a crop box: begin and end."""
    extent = coordinate(size, length)
    begin = min(coordinate(start, length), length - extent)
    end = begin + extent
    nearest = math.floor(end + 0.5)
    if nearest > begin and abs(end - nearest) * UNIT <= length:
        end = float(nearest)
    return begin, min(end, float(length))


def whole(fraction, length):
    return math.floor(fraction * length / UNIT + 0.5)


def crop_resize(image, view, out_h, out_w):
    """Border, crop and resize with Pillow (torchvision for the evaluation view), then the flip; uint8 HWC."""
    picture = Image.fromarray(image)
    fields = {name: int(view[name]) for name in view.dtype.names}
    if fields["flags"] & CENTER:
        size = round(max(out_h, out_w) / (fields["crop_w"] / UNIT))
        out = F.center_crop(F.resize(picture, size), [out_h, out_w])
    else:
        border_x, border_y = whole(fields["pad"], picture.width), whole(fields["pad"], picture.height)
        picture = F.pad(picture, [border_x, border_y])
        x0, x1 = interval(fields["crop_x"], fields["crop_w"], picture.width)
        y0, y1 = interval(fields["crop_y"], fields["crop_h"], picture.height)
        left, top = math.floor(x0), math.floor(y0)
        part = picture.crop((left, top, math.ceil(x1), math.ceil(y1)))
        inside = (x0 - left, y0 - top, x1 - left, y1 - top)
        out = part.resize((out_w, out_h), Image.Resampling.BILINEAR, box=inside)
    pixels = np.asarray(out)
    return pixels[:, ::-1].copy() if fields["flags"] & FLIP else pixels.copy()


def pinned_grid(theta, w, h, ow, oh):
    """torchvision's ``_gen_affine_grid`` with each multiply-add rounded once, as Intel's BLAS does it."""
    x = torch.arange(ow, dtype=torch.float32) - (ow * 0.5 - 0.5)
    y = torch.arange(oh, dtype=torch.float32) - (oh * 0.5 - 0.5)
    terms = theta[0] / torch.tensor([0.5 * w, 0.5 * h])[:, None]
    planes = []
    for a, b, c in terms:
        product = (x * a).double()[None, :]
        # float64 holds the product of two float32 exactly.
        planes.append((y.double()[:, None] * b.double() + product).float() + c)
    return torch.stack(planes, dim=-1)[None]


def magnitude(op, level, bins, wide, out_h, out_w):
    space = (
        TrivialAugmentWide()._augmentation_space(bins)
        if wide
        else RandAugment()._augmentation_space(bins, (out_h, out_w))
    )
    magnitudes, signed = space[op]
    size = float(magnitudes[abs(level)].item()) if magnitudes.ndim > 0 else 0.0
    return -size if signed and level < 0 else size


def apply(image, op, level, bins, wide=False, pinned=True):
    """One RandAugment operation by name, torchvision on a uint8 tensor; uint8 HWC to uint8 HWC."""
    size = magnitude(op, level, bins, wide, *image.shape[:2])
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    original = _functional_tensor._gen_affine_grid
    if pinned:
        _functional_tensor._gen_affine_grid = pinned_grid
    try:
        out = _apply_op(tensor, op, size, InterpolationMode.NEAREST, None)
    finally:
        _functional_tensor._gen_affine_grid = original
    return out.permute(1, 2, 0).numpy().copy()


def box(view, prefix, height, width):
    """An erased or pasted box as slices."""
    x, y, w, h = (int(view[f"{prefix}_{name}"]) for name in "xywh")
    left, top = whole(x, width), whole(y, height)
    return slice(top, top + whole(h, height)), slice(left, left + whole(w, width))


def finish(pixels, view, names):
    """The operations and the erasing on a resized image."""
    for number, level in ((view["op0"], view["level0"]), (view["op1"], view["level1"])):
        pixels = apply(pixels, names[number], int(level), int(view["bins"]), bool(view["flags"] & WIDE))
    if view["erase_h"]:
        pixels[box(view, "erase", *pixels.shape[:2])] = 0
    return pixels


def mix(first, second, mixing):
    """Mixup in float64, then the pasted box."""
    weight = int(mixing["mixup"]) / UNIT
    out = np.rint(weight * first + (1 - weight) * second).astype(np.uint8)
    if mixing["cut_h"]:
        place = box(mixing, "cut", *first.shape[:2])
        out[place] = second[place]
    return out
