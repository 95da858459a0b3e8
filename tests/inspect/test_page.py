"""ffdr inspect --grid=X.html, in a real browser: what it shows, what its filters leave, and that it stays by itself."""

import base64
import io
import json
import math
import re
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from ffdr.augment.draw import draw
from ffdr.augment.policy import Policy
from ffdr.augment.view import MIXED_DTYPE
from ffdr.beton.header import UNUSED, ReinforcedHeader
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton
from ffdr.config.files import InspectOptions
from ffdr.inspect import page as page_module
from ffdr.inspect.run import inspect
from ffdr.loader.dataset import ReinforcedDataset
from ffdr.write.reinforced import ReinforcedWriter

POLICY = Policy(scale=(0.5, 1.0), mixup=0.3)
VIEWS, TOPK = 4, 3
QUIET = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "no chromium: ./run.sh test installs it"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        yield running
        running.close()


@pytest.fixture
def open_page(browser):
    """Function: a page in the browser, which may load nothing and say nothing wrong."""
    said, asked, pages = [], [], []

    def run(file, fragment=""):
        opened = browser.new_page(viewport={"width": 1200, "height": 800})
        pages.append(opened)
        opened.set_default_timeout(20_000)
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("dialog", lambda dialog: said.append(dialog.message))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(f"{file.as_uri()}{fragment}")
        opened.wait_for_selector("canvas[data-drawn]")
        return opened

    yield run
    for opened in pages:
        opened.close()
    assert said == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "blob"}
    assert sum(url.startswith("file:") for url in asked) == len(pages)


def reinforce(path, images, seed=0):
    """Drawn views with random teacher entries, the last of which is unused in every fifth image."""
    count, classes = len(images), images.num_classes
    records = np.zeros((count, VIEWS), MIXED_DTYPE)
    for image in range(count):
        records[image] = [draw(POLICY, 1, view, image, images.original_sizes) for view in range(VIEWS)]
    logits = np.random.default_rng(seed).normal(0, 2, (count, VIEWS, classes))
    logits[np.arange(count), :, images.labels] += 5
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    ids = np.argsort(-log_probs, -1)[..., :TOPK]
    log_probs = np.take_along_axis(log_probs, ids, -1)
    ids[::5, :, 2], log_probs[::5, :, 2] = 0, UNUSED
    facts = (VIEWS, TOPK, classes, count, images.fingerprint, True, asdict(POLICY), ("a", "b"), 32, 5)
    with ReinforcedWriter(path, ReinforcedHeader(*facts), images) as writer:
        writer.put(np.arange(count), records, ids.astype(np.uint16), log_probs.astype(np.float16))
        writer.finish()
    return path


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    """(page, dataset) of 50 of the 100 digits."""
    folder = tmp_path_factory.mktemp("page")
    reinforced = reinforce(folder / "views.beton", ImageBeton.open(digits))
    out = folder / "page.html"
    inspect(InspectOptions(str(reinforced), images=str(digits), grid=str(out), samples=50))
    return out, ReinforcedDataset(digits, reinforced)


def shown_images(opened):
    """Numbers of the images, in order; all there are, by scrolling."""
    opened.evaluate("while (shown < found.length) showMore()")
    return [int(number) for number in opened.eval_on_selector_all("article", "all => all.map(x => x.dataset.image)")]


def bright_views(opened, image):
    """Numbers of the views that the filters leave."""
    script = "all => all.map(x => !x.classList.contains('other'))"
    left = opened.eval_on_selector_all(f"article[data-image='{image}'] figure[tabindex]", script)
    return np.flatnonzero(left).tolist()


def teachers(dataset):
    """best (N, K), expected (N, K), entropy (N, K) of all views, by the dense targets that a loss would build."""
    count = len(dataset)
    best, expected, entropy = (np.zeros((count, VIEWS), kind) for kind in (int, int, float))
    for image in range(count):
        for view in range(VIEWS):
            _, targets = dataset.view(image, view)
            p = targets.dense(dataset.num_classes)[0].double().numpy()
            p = p[p > 0]
            best[image, view] = targets.ids[0, 0]
            entropy[image, view] = -(p * np.log(p)).sum()
            expected[image, view] = targets.label if float(targets.share) >= 0.5 else targets.partner
    return best, expected, entropy


def test_pixels_and_words_are_those_of_the_views(made, open_page):
    file, dataset = made
    opened = open_page(file)
    numbers = shown_images(opened)
    assert numbers == np.unique(np.linspace(0, 99, 50).astype(int)).tolist()
    image = numbers[7]
    card = f"article[data-image='{image}']"
    opened.wait_for_function(f'document.querySelectorAll("{card} canvas[data-drawn]").length === {VIEWS + 1}')
    script = "all => all.map(x => [...x.getContext('2d').getImageData(0, 0, x.width, x.height).data])"
    tiles = np.array(opened.eval_on_selector_all(f"{card} canvas", script), np.uint8).reshape(-1, 32, 32, 4)
    np.testing.assert_array_equal(tiles[0, ..., :3], decode_image(dataset.images, image))
    for view in range(VIEWS):
        np.testing.assert_array_equal(tiles[view + 1, ..., :3], dataset.view(image, view, 32)[0])
    captions = opened.eval_on_selector_all(f"{card} figcaption", "all => all.map(x => x.innerText)")
    for view, caption in enumerate(captions):
        ids, log_probs = (part[view] for part in dataset.reinforced.logits(image))
        for number, log_prob in zip(ids.tolist(), log_probs.tolist(), strict=True):
            if log_prob > UNUSED:
                share = math.floor(100 * round(math.exp(log_prob), 4) + 0.5)
                assert f"{dataset.class_names[number]}\n{share} %" in caption
    assert opened.inner_text("h1") == "views.beton"
    assert "50 of 100 images" in opened.inner_text("#about") and "4 of 4 views" in opened.inner_text("#about")


def test_filters_leave_what_they_say(made, open_page):
    file, dataset = made
    opened = open_page(file)
    numbers = shown_images(opened)
    best, expected, entropy = teachers(dataset)
    labels = dataset.images.labels

    def check(keep):
        """keep: (N, K) bool, the views that should be left."""
        images = [number for number in numbers if keep[number].any()]
        assert shown_images(opened) == images
        assert opened.inner_text("#count") == f"{len(images)} of 50 images"
        assert [bright_views(opened, image) for image in images] == [
            np.flatnonzero(keep[image]).tolist() for image in images
        ]
        return len(images)

    every = np.ones_like(best, bool)
    assert check(every) == 50
    opened.select_option("[name=teacher]", "against")
    assert 0 < check(best != expected) < 50
    opened.select_option("[name=class]", str(labels[numbers[-1]]))
    assert 0 < check((best != expected) & (labels == labels[numbers[-1]])[:, None]) < 10
    opened.select_option("[name=teacher]", "with")
    check((best == expected) & (labels == labels[numbers[-1]])[:, None])
    opened.click("button[type=reset]")
    expect(opened.locator("#count")).to_have_text("50 of 50 images")
    opened.select_option("[name=teacher]", "split")
    check(np.repeat([[len(set(row)) > 1] for row in best], VIEWS, axis=1))
    opened.select_option("[name=teacher]", "")
    middle = float(np.median(entropy[numbers]))
    set_range(opened, "low", middle)
    check(entropy >= middle)
    set_range(opened, "low", 0)
    set_range(opened, "high", middle)
    check(entropy <= middle)


def set_range(opened, name, value):
    script = "(x, value) => { x.value = value; x.dispatchEvent(new Event('input', {bubbles: true})); }"
    opened.eval_on_selector(f"[name={name}]", script, value)


def test_words_orders_and_the_address(made, open_page):
    file, dataset = made
    opened = open_page(file)
    numbers = shown_images(opened)
    best, expected, entropy = teachers(dataset)
    by_number = entropy[numbers].mean(1)
    opened.select_option("[name=order]", "unsure")
    assert np.allclose(entropy[shown_images(opened)].mean(1), np.sort(by_number)[::-1], atol=1e-3)
    opened.select_option("[name=order]", "against")
    against = (best != expected).sum(1)
    assert against[shown_images(opened)].tolist() == sorted(against[numbers], reverse=True)
    opened.fill("[name=words]", "flipped, mixup")
    records = np.array([dataset.reinforced.views(i) for i in range(len(dataset))])
    wanted = ((records["first"]["flags"] & 1) != 0) & (records["mix"]["mixup"] != 65535)
    found = shown_images(opened)
    assert sorted(found) == [number for number in numbers if wanted[number].any()] and found
    assert opened.evaluate("location.hash") == "#words=flipped%2C+mixup&order=against"
    again = open_page(file, opened.evaluate("location.hash"))
    assert shown_images(again) == found


def test_a_view_is_enlarged_by_mouse_and_keyboard(made, open_page):
    opened = open_page(made[0])
    opened.click("article figure[tabindex]")
    assert opened.is_visible("dialog canvas") and opened.locator("dialog figure").count() == 1
    opened.keyboard.press("Escape")
    assert not opened.is_visible("dialog canvas")
    for key in ("Enter", "Space"):
        opened.get_by_role("button").filter(has=opened.locator("canvas")).first.focus()
        opened.keyboard.press(key)
        assert opened.is_visible("dialog canvas") and opened.evaluate("scrollY") == 0
        opened.keyboard.press("Escape")


@pytest.mark.parametrize(
    "fragment", ["#length=3", "#class=999", "#low=x&high=", "#teacher=bogus&order=1", "#item=1&id=2"]
)
def test_an_address_of_no_filter_shows_all(made, open_page, fragment):
    opened = open_page(made[0], fragment)
    assert opened.inner_text("#count") == "50 of 50 images"
    opened.evaluate("location.hash = 'teacher=split'")
    expect(opened.locator("#count")).not_to_have_text("50 of 50 images")
    assert opened.input_value("[name=teacher]") == "split"


@pytest.mark.parametrize("size", [(1200, 800), (360, 640)])
def test_the_filters_cover_little_and_nothing_covers_them(made, open_page, size):
    opened = open_page(made[0])
    opened.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
    opened.evaluate("scrollTo(0, 700)")
    bottom = opened.eval_on_selector("form", "x => x.getBoundingClientRect().bottom")
    assert bottom < 0.25 * size[1] and opened.evaluate("document.documentElement.scrollWidth") <= size[0]
    script = """() => [...document.querySelectorAll(".best span")].filter(part => {
      const {left, top, bottom} = part.getBoundingClientRect(), form = document.forms[0].getBoundingClientRect();
      return top > form.top && bottom < form.bottom && document.elementFromPoint(left + 1, top + 1) === part;
    }).length"""
    for place in range(600, 900, 20):
        opened.evaluate(f"scrollTo(0, {place})")
        assert opened.evaluate(script) == 0


def test_more_images_come_with_scrolling(made, open_page):
    opened = open_page(made[0])
    first = opened.locator("article").count()
    assert first < 50
    opened.keyboard.press("End")
    expect(opened.locator("article")).not_to_have_count(first)


NAMES = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "<!--",
    "\u2028\u202e",
    "${alert(3)}",
    "a\nb",
)


def test_names_of_classes_are_only_text(digits, tmp_path, open_page):
    images = ImageBeton.open(digits)
    names = (*NAMES, *images.class_names[len(NAMES) :])
    images = replace(images, class_names=names)
    out = tmp_path / "x.html"
    reinforced = reinforce(tmp_path / "<script>alert(4)<.beton", images)
    page_module.write_page(out, images, ReinforcedDataset(images, reinforced), 32, samples=100)
    opened = open_page(out)
    assert names[0] in opened.inner_text("#images") and names[1] in opened.inner_text("#images")
    assert opened.locator("img").count() == 0
    assert opened.evaluate("document.title") == reinforced.name


def test_images_alone_are_filtered_by_class_only(photos, tmp_path, open_page):
    out = tmp_path / "images.html"
    inspect(InspectOptions(str(photos), grid=str(out)))
    opened = open_page(out)
    images = ImageBeton.open(photos)
    assert shown_images(opened) == list(range(24))
    assert not opened.is_visible("[name=teacher]") and not opened.is_visible("[name=low]")
    opened.select_option("[name=class]", str(images.labels[3]))
    assert shown_images(opened) == np.flatnonzero(images.labels == images.labels[3]).tolist()
    script = "x => x.toDataURL('image/png').split(',')[1]"
    png = opened.eval_on_selector(f"article[data-image='{shown_images(opened)[0]}'] canvas", script)
    tile = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")).astype(int)
    whole = page_module._whole(decode_image(images, shown_images(opened)[0]), 128).astype(int)
    assert tile.shape == (128, 128, 3) and np.abs(tile - whole).mean() < 4  # WebP


def test_the_page_is_one_file_that_may_load_nothing(made):
    text = made[0].read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", text)
    parts = re.findall(r'<script type="application/json" class="image">(.*?)</script>', text, re.S)
    assert [json.loads(part)["number"] for part in parts] == np.unique(np.linspace(0, 99, 50).astype(int)).tolist()
    assert str(made[1].images.path) not in text and made[1].images.path.name in text  # it is passed on
