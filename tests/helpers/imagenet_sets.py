"""ImageNet's evaluation sets drawn small: their own folders, file names and file types, few classes, photographs of
many shapes.

Photographs are cut from scikit-image's. Where the published set has PNGs (ObjectNet), so has this one.
"""

import json

import numpy as np
import skimage.data
import timm.data
from PIL import Image, ImageFilter, ImageOps

SHAPES = ((500, 375), (375, 500), (333, 501), (257, 511), (199, 301), (64, 48), (640, 101), (256, 256), (225, 224))
"""Widths and heights: ImageNet's, odd ones, smaller than the view, far from square, the view's own and next to it."""
SYNSETS = timm.data.ImageNetInfo().label_names()
SHARED = (6, 107, 301)
"""Classes of ImageNet-A and of ImageNet-R."""
VAL = (0, *SHARED, 409, 559, 765, 999)
V2 = (0, 2, 10, 100, 107, 301, 765, 999)
"""Sorted as text they stand in another order than sorted by number."""
A, R = (*SHARED, 11, 988), (*SHARED, 1, 988)
SKETCH = (1, 107, 409, 846, 999)
C = (6, 301, 999)
OBJECTS = {
    "alarm_clock": (409, 530), "chair": (423, 559, 765), "desk_lamp": (846,), "t-shirt": (610,), "banana": (954,),
    "bicycle": (444, 671), "mug": (504,), "soap_dispenser": (804,),
}  # fmt: skip
STRANGERS = ("air_freshener", "zucchini_spiral")
"""Objects that ImageNet does not have; the first among the labels of the mapping only."""
NOISE = ("gaussian_noise", "shot_noise", "impulse_noise")
BLUR = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur")
WEATHER = ("snow", "frost", "fog", "brightness")
DIGITAL = ("contrast", "elastic_transform", "pixelate", "jpeg_compression")
_RED = (255, 0, 0)


class Photographer:
    """Takes photographs of classes: those of one class are cuts from the same picture in the same tint."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        pictures = (skimage.data.astronaut(), skimage.data.cat(), skimage.data.coffee(), skimage.data.rocket())
        self.pictures = [Image.fromarray(picture) for picture in pictures]
        self.taken = 0

    def take(self, label, size=None):
        """An image of a class, in one shape after the other or width × height as asked for."""
        width, height = size or SHAPES[self.taken % len(SHAPES)]
        self.taken += 1
        picture = self.pictures[label % len(self.pictures)]
        scale = min(picture.width / width, picture.height / height) * self.rng.uniform(0.5, 1)
        w, h = scale * width, scale * height
        x, y = self.rng.uniform(0, picture.width - w), self.rng.uniform(0, picture.height - h)
        cut = picture.resize((width, height), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
        tint = np.random.default_rng(label).uniform(0.5, 1, 3)
        return Image.fromarray((np.asarray(cut) * tint).astype(np.uint8))


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {} if path.suffix == ".png" else {"format": "JPEG", "quality": 90}
    image.save(path, **options)


def draw_val(folder, each=5, seed=0):
    """Numbers are those of the whole validation set, in no order of classes; a file in grey, in CMYK, as a PNG."""
    camera = Photographer(seed)
    numbers = np.random.default_rng(seed).permutation(50000)[: each * len(VAL)] + 1
    labels = np.repeat(VAL, each)
    for k, (number, label) in enumerate(zip(numbers, labels, strict=True)):
        image = camera.take(label)
        image = image.convert({3: "L", 7: "CMYK"}.get(k, "RGB"))
        path = folder / SYNSETS[label] / f"ILSVRC2012_val_{number:08d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        if k == 11:
            image.save(path, format="PNG")  # as one of the published files is, whatever its name says
        else:
            save(image, path)
    return dict(zip(numbers.tolist(), labels.tolist(), strict=True))


def draw_real(file, numbers, seed=1):
    """real.json: for a part of the validation images their label, for others several or another, for some none."""
    rng = np.random.default_rng(seed)
    labels = [[int(rng.integers(1000))] for _ in range(50000)]
    for number, label in numbers.items():
        others = rng.choice(VAL, 2, replace=False).tolist()
        labels[number - 1] = [[label], [others[0], label], [others[1]], [], others][rng.integers(5)]
    file.write_text(json.dumps(labels))


def draw_classes(folder, names, file_name, each=4, seed=0, mode="RGB"):
    """A folder for each class. names: {class number: folder}; file_name: made of a number and the photographer's
    random numbers."""
    camera = Photographer(seed)
    for label, name in names.items():
        for number in range(each):
            save(camera.take(label).convert(mode), folder / name / file_name(number, camera.rng))


def draw_objectnet(root, each=3, seed=5):
    """images/ with a red border of one or two pixels, in PNGs, and mappings/."""
    camera = Photographer(seed)
    labels = {name: name.replace("_", " ").capitalize() for name in (*OBJECTS, *STRANGERS)}
    for name in labels:
        for number in range(each):
            image = camera.take(OBJECTS.get(name, (0,))[number % len(OBJECTS.get(name, (0,)))])
            border = 1 + number % 2
            image = ImageOps.expand(ImageOps.crop(image, border), border, _RED)
            save(image, root / "images" / name / f"{camera.rng.integers(16**15):015x}.png")
    write_mappings(root / "mappings", labels)


def write_mappings(folder, labels):
    """ObjectNet's four files: names stand on the lines of ILSVRC's own order, which is not timm's."""
    folder.mkdir(parents=True)
    order = np.random.default_rng(0).permutation(1000)
    names = timm.data.ImageNetInfo()
    spelled = [f"{names.index_to_description(k)}, number {k}".replace(";", ",") for k in range(1000)]
    contents = {
        "folder_to_objectnet_label.json": json.dumps(labels),
        "objectnet_to_imagenet_1k.json": json.dumps(
            {labels[name]: "; ".join(spelled[k] for k in classes) for name, classes in OBJECTS.items()}
        ),
        "imagenet_to_label_2012_v2": "".join(f"{spelled[k]}\n" for k in order),
        "pytorch_to_imagenet_2012_id.json": json.dumps({str(k): line for line, k in enumerate(order.tolist())}),
    }
    for name, text in contents.items():
        (folder / name).write_text(text)


def draw_c(root, each=1, seed=6):
    """CORRUPTION/SEVERITY/SYNSET/ of 224 px, every part of the same images; noise and blur lie in a folder of their
    archive's name, as one unpacks them."""
    camera = Photographer(seed)
    numbers = camera.rng.permutation(50000)[: each * len(C)]
    clean = [camera.take(label, (224, 224)) for label in C for _ in range(each)]
    for home, names in (("noise", NOISE), ("blur", BLUR), (".", WEATHER), (".", DIGITAL)):
        for name in names:
            for severity in range(1, 6):
                for number, label, image in zip(numbers, np.repeat(C, each), clean, strict=True):
                    file = f"{SYNSETS[label]}/ILSVRC2012_val_{number + 1:08d}.JPEG"
                    save(_worse(image, home, severity, camera.rng), root / home / name / str(severity) / file)


def _worse(image, home, severity, rng):
    """Not the corruption by name: only a picture that is harder to tell, the more severe."""
    if home == "blur":
        return image.filter(ImageFilter.GaussianBlur(8 * severity))
    noise = rng.integers(0, 256, (*image.size[::-1], 3), dtype=np.uint8)
    return Image.blend(image, Image.fromarray(noise), severity / 6)


def draw_all(root):
    """Every set below one folder. Returns {option of the suite: path}."""

    def jpg(number, rng):
        return f"{rng.uniform():.6f}_object _ {number}_0.{rng.integers(10**6)}.jpg"

    def hashed(_, rng):
        return f"{rng.bytes(20).hex()}.jpeg"

    paths = {
        "val": root / "imagenet" / "val",
        "real": root / "real.json",
        "v2": root / "imagenetv2-matched-frequency-format-val",
        "v2_threshold": root / "imagenetv2-threshold0.7-format-val",
        "v2_top": root / "imagenetv2-top-images-format-val",
        "a": root / "imagenet-a",
        "r": root / "imagenet-r",
        "sketch": root / "sketch",
        "objectnet": root / "objectnet-1.0",
        "c": root / "imagenet-c",
    }
    draw_real(paths["real"], draw_val(paths["val"]))
    for seed, name in enumerate(("v2", "v2_threshold", "v2_top"), 10):
        draw_classes(paths[name], {k: str(k) for k in V2}, hashed, each=2, seed=seed)
    draw_classes(paths["a"], {k: SYNSETS[k] for k in A}, jpg, seed=20)
    draw_classes(paths["r"], {k: SYNSETS[k] for k in R}, lambda number, _: f"art_{number}.jpg", seed=21)
    draw_classes(paths["sketch"], {k: SYNSETS[k] for k in SKETCH}, lambda n, _: f"sketch_{n}.JPEG", seed=22, mode="L")
    for name in ("a", "r"):
        (paths[name] / "README.txt").write_text("as the archives have one\n")
    draw_objectnet(paths["objectnet"])
    draw_c(paths["c"])
    return paths
