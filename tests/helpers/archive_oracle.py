"""The published format once more, from its description: archives made with torchvision's own draws, and replayed on
PIL images. Shares no code with ffdr."""

import io
import random
import tarfile
from functools import partial

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomErasing, RandomResizedCrop, _functional_tensor
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import RandAugment, _apply_op

ORDER = [
    "uint8",
    "resize",
    "center_crop",
    "random_crop",
    "random_resized_crop",
    "random_horizontal_flip",
    "rand_augment",
    "to_tensor",
    "random_erase",
    "normalize",
    "mixup",
    "cutmix",
]
SILENT = ("uint8", "center_crop", "to_tensor", "normalize")
SPACE = list(RandAugment()._augmentation_space(31, (32, 32)))
SIDE = 48
CROP_FLIP = {"uint8": {}, "random_resized_crop": {"size": SIDE}, "random_horizontal_flip": {"p": 0.5}, "to_tensor": {}}
NORMALIZE = {"normalize": {"mean": [0.5] * 3, "std": [0.25] * 3}}
AUGMENT = {"rand_augment": {"p": 1.0}, "random_erase": {"p": 0.5}}
MIX = {"mixup": {"alpha": 1.0, "div_by": 2.0, "p": 0.5}, "cutmix": {"alpha": 1.0, "p": 0.5}}
POLICIES = {
    "RRC": CROP_FLIP | NORMALIZE,
    "+M*": CROP_FLIP | NORMALIZE | MIX,
    "+RA/RE": CROP_FLIP | NORMALIZE | AUGMENT,
    "+M*+R*": CROP_FLIP | NORMALIZE | AUGMENT | MIX,
}


def config_of(transforms, views=3, classes=10, **others):
    """What config.pth.tar holds."""
    reinforce = {"num_samples": views, "topk": 3, "compress": True, "image_augmentation": transforms}
    return {"dataset": "made-up", "num_classes": classes, "teacher": {"name": "a, b"}, "reinforce": reinforce, **others}


def stored_names(transforms):
    return [name for name in ORDER if name in transforms and name not in SILENT]


def draw_half(transforms, size, rng):
    """Entries by transform of one image of ``size`` (width, height)."""
    picture = Image.new("RGB", size)
    side = max(args["size"] for name, args in transforms.items() if name.endswith("_crop"))
    half = {}
    for name in stored_names(transforms):
        args = transforms[name]
        if name == "resize":
            half[name] = args["size"]
        elif name == "random_crop":
            if "resize" in transforms:
                picture = F.resize(picture, transforms["resize"]["size"])
            width, height = (length + 2 * args.get("padding", 0) for length in picture.size)
            half[name] = (rng.randint(0, height - side), rng.randint(0, width - side))
        elif name == "random_resized_crop":
            half[name] = tuple(RandomResizedCrop.get_params(picture, (0.08, 1.0), (3 / 4, 4 / 3)))
        elif name == "random_horizontal_flip":
            half[name] = rng.random() < 0.5
        elif name == "rand_augment":
            half[name] = None if rng.random() < 0.1 else [draw_op(side, rng) for _ in range(2)]
        elif name == "random_erase":
            half[name] = draw_erase(side, rng)
    return half


def draw_op(side, rng):
    op = rng.randrange(len(SPACE))
    magnitudes, signed = RandAugment()._augmentation_space(31, (side, side))[SPACE[op]]
    magnitude = float(magnitudes[rng.randrange(31)]) if magnitudes.ndim else 0.0
    return op, -magnitude if signed and rng.random() < 0.5 else magnitude


def draw_erase(side, rng):
    if rng.random() < 0.5:
        return rng.choice([None, (-1, 0, 0, 0)])
    x, y, h, w, _ = RandomErasing.get_params(torch.zeros(3, side, side), (0.02, 0.33), (0.3, 3.3), [0])
    return x, y, h, w


def draw_sample(transforms, index, sizes, classes, rng, compress):
    """One sample, in the list or the dictionary form."""
    side = max(args["size"] for name, args in transforms.items() if name.endswith("_crop"))
    first = draw_half(transforms, sizes[index], rng)
    partner, mixings = None, {}
    if "mixup" in transforms:
        mixings["mixup"] = rng.random() / 2 if rng.random() < 0.5 else None
        top, left = rng.randint(0, side), rng.randint(0, side)
        box = [top, left, rng.randint(top, side), rng.randint(left, side)]
        # As cutmix stores them: NumPy scalars.
        mixings["cutmix"] = [0.3, *map(np.int64, box)] if rng.random() < 0.5 else None
        partner = rng.choice([index, rng.randrange(len(sizes))])
    second = draw_half(transforms, sizes[index if partner is None else partner], rng)
    ids = rng.sample(range(classes), 3)
    weights = [rng.random() ** 4 for _ in range(4)]
    prob = ([float(np.float32(weight / sum(weights))) for weight in weights[:3]], ids)
    if not compress:
        return {"params": dictionary_form(transforms, first, second, partner, mixings), "prob": prob}
    if not any(mixing is not None for mixing in mixings.values()):
        partner = None
    pairs = [first[name] if partner is None else [first[name], second[name]] for name in first]
    return {"params": [*([partner] if mixings else []), *pairs, *mixings.values()], "prob": prob}


def dictionary_form(transforms, first, second, partner, mixings):
    """Every transform has a pair; operations have names, cutmix a tuple in a tuple."""
    by_name = {name: (first[name], second[name]) for name in first}
    by_name |= {name: ((), ()) for name in SILENT if name in transforms}
    if "rand_augment" in first:
        by_name["rand_augment"] = tuple(
            ops if ops is None else [(SPACE[op], size) for op, size in ops] for ops in by_name["rand_augment"]
        )
    if mixings:
        cutmix = mixings["cutmix"]
        by_name |= {"id2": partner, "mixup": mixings["mixup"]}
        by_name["cutmix"] = None if cutmix is None else (cutmix[0], tuple(cutmix[1:]))
    return by_name


def make_entries(transforms, sizes, classes=10, views=3, seed=0, compress=True):
    """Entries of all images."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    one = partial(draw_sample, transforms, sizes=sizes, classes=classes, rng=rng, compress=compress)
    return [(i, [one(index=i) for _ in range(views)]) for i in range(len(sizes))]


def saved(value, protocol=4):
    file = io.BytesIO()
    torch.save(value, file, pickle_protocol=protocol)
    return file.getvalue()


def files_of(config, entries):
    """Bytes by name, as the original code saves them."""
    return {"config.pth.tar": saved(config, 2)} | {f"{entry[0]}.pth.tar": saved(entry) for entry in entries}


def write_folder(folder, files):
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def write_tar(path, files, order=None):
    """A .tar.gz, its members in any order."""
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(directory := tarfile.TarInfo("reinforced_data"))
        directory.type = tarfile.DIRTYPE
        for name in order or files:
            member = tarfile.TarInfo(f"reinforced_data/{name}")
            member.size = len(files[name])
            tar.addfile(member, io.BytesIO(files[name]))
    return path


def geometry(picture, half, transforms):
    """Crop and flip of one image, (side, side, 3) uint8."""
    for name in stored_names(transforms) + [name for name in SILENT if name in transforms]:
        args = transforms[name]
        if name == "resize":
            picture = F.resize(picture, half[name])
        elif name == "random_crop":
            top, left = half[name]
            picture = F.crop(F.pad(picture, args.get("padding", 0)), top, left, args["size"], args["size"])
        elif name == "random_resized_crop":
            picture = F.resized_crop(picture, *half[name], [args["size"], args["size"]])
        elif name == "center_crop":
            picture = F.center_crop(picture, args["size"])
    pixels = np.asarray(picture)
    return pixels[:, ::-1].copy() if half.get("random_horizontal_flip") else pixels.copy()


def pinned_grid(theta, w, h, ow, oh):
    """torchvision's affine grid with every multiply-add rounded once: its own last bit depends on the processor."""
    x, y = (torch.arange(n, dtype=torch.float32) - (n * 0.5 - 0.5) for n in (ow, oh))
    a, b, c = (theta[0] / torch.tensor([0.5 * w, 0.5 * h])[:, None]).unbind(1)
    planes = [(y.double()[:, None] * b[i].double() + (x * a[i]).double()[None, :]).float() + c[i] for i in range(2)]
    return torch.stack(planes, dim=-1)[None]


def finished(pixels, half):
    """Operations on a uint8 tensor, then the erased box."""
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()
    original = _functional_tensor._gen_affine_grid
    _functional_tensor._gen_affine_grid = pinned_grid
    try:
        for op, size in half.get("rand_augment") or []:
            tensor = _apply_op(tensor, SPACE[op], size, InterpolationMode.NEAREST, None)
    finally:
        _functional_tensor._gen_affine_grid = original
    x, y, h, w = half.get("random_erase") or (-1, 0, 0, 0)
    if x != -1:
        tensor[:, x : x + h, y : y + w] = 0
    return tensor.permute(1, 2, 0).numpy()


def mixed(first, second, lam, cut):
    """float64 of two uint8 images."""
    out = first.astype(np.float64)
    if lam is not None:
        out = lam * first + (1 - lam) * second.astype(np.float64)
    if cut is not None:
        _, x1, y1, x2, y2 = cut
        out[x1:x2, y1:y2] = second[x1:x2, y1:y2]
    return out


def halves_of(params, transforms):
    """(partner or None, the image's half, the partner's half or None, mixup, cutmix) of the list form."""
    names = [name for name in stored_names(transforms) if name not in ("mixup", "cutmix")]
    if "mixup" not in transforms:
        return None, dict(zip(names, params, strict=True)), None, None, None
    partner, *entries, lam, cut = params
    if partner is None:
        return None, dict(zip(names, entries, strict=True)), None, None, None
    first, second = (dict(zip(names, part, strict=True)) for part in zip(*entries, strict=True))
    if cut is not None and (cut[1] == cut[3] or cut[2] == cut[4]):
        cut = None  # an empty box
    if lam is None and cut is None:
        partner = second = None
    return partner, first, second, lam, cut
