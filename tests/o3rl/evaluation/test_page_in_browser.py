"""A page in headless Chromium, clicked through: as wide as a phone and as a desk, long names."""

from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec

import pytest

from o3rl.evaluation.pages import write_page
from o3rl.types import Task
from tests.o3rl.evaluation.shown import FAULTY, LONG, browser, chromium, compared, shown

if not (find_spec("playwright") and chromium()):
    missing = "Chromium (apt install chromium)" if find_spec("playwright") else "playwright"
    pytest.skip(f"{missing} is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def opened():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("page")
    path = folder / "page.html"
    entries = [
        compared(clip=folder / "1.mp4"),
        shown(Task.TEMPORAL_SPATIAL, seed=11, teacher=FAULTY, name=LONG),
        shown(Task.VISUAL, seed=4, teacher=FAULTY),
    ]
    write_page(path, "Held-out rows", entries)
    return path.as_uri()


@pytest.fixture(params=[(1400, "light"), (360, "dark")], ids=["desk", "phone"])
def tab(opened, address, request):
    width, scheme = request.param
    with ExitStack() as stack:
        context = opened.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            reduced_motion="reduce",
            permissions=["clipboard-read", "clipboard-write"],
        )
        stack.callback(context.close)
        page, said, asked = context.new_page(), [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        yield page
        assert said == []
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def until(tab, holds: Callable[[], bool]) -> None:
    """Within 10 s. Playwright's own way evaluates words, which the page's policy forbids."""
    for _ in range(200):
        if holds():
            return
        tab.wait_for_timeout(50)
    raise AssertionError("it did not come about within 10 s")


def test_nothing_is_wider_than_the_window(tab):
    width = tab.viewport_size["width"]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("article", ".passage", "figcaption", ".reply", "header"):
        boxes = [each.bounding_box() for each in tab.locator(f"{name}:visible").all()]
        assert boxes
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= width + 1 for box in boxes)


def test_picture_and_sentence_lead_to_each_other(tab):
    tab.locator("#r2s0p1 a").hover()
    assert "lit" in tab.locator(".passage:has(#r2s0t1)").get_attribute("class")
    tab.locator("#r2s0p1 a").click()
    assert tab.evaluate("location.hash") == "#r2s0t1"
    assert tab.locator(".passage:has(:target)").count() == 1
    tab.locator("#r2s0t1").click()
    assert tab.evaluate("location.hash") == "#r2s0p1"


def test_a_time_plays_the_clip_from_there(tab):
    button = tab.locator("#r1 button.time").last
    seconds = float(button.get_attribute("data-seek"))
    button.click()
    video = tab.locator("#r1 video")
    until(tab, lambda: video.evaluate("v => v.readyState >= 2 && v.currentTime") >= seconds - 0.01)
    assert video.evaluate("v => v.currentTime") < seconds + 8
    assert video.evaluate("v => v.error") is None


def test_without_a_clip_the_frames_play_from_there(tab):
    tab.locator("#r2 button.time").first.click()
    seconds = float(tab.locator("#r2 button.time").first.get_attribute("data-seek"))
    said = float(tab.locator("#r2 output").text_content().removesuffix(" s"))
    assert abs(said - seconds) < 5  # 8 frames of the clip
    frame = tab.locator("#r2 .player use").get_attribute("href")
    assert frame.startswith("#r2f")
    until(tab, lambda: tab.locator("#r2 .player use").get_attribute("href") != frame)


def test_without_looking_is_shown_on_demand(tab):
    hidden = tab.locator(".side[data-blind]")
    assert not hidden.is_visible()
    tab.locator("button[data-unseen]").click()
    assert hidden.is_visible()
    tab.keyboard.press("w")
    assert not hidden.is_visible()


def test_tasks_order_text_and_keys(tab):
    tab.locator("button[data-task='visual QA']").click()
    assert [each.get_attribute("id") for each in tab.locator("article:visible").all()] == ["r3"]
    tab.locator("button[data-task='']").click()
    tab.locator("select").select_option("worst")
    totals = [float(each.get_attribute("data-total")) for each in tab.locator("article").all()]
    assert totals == sorted(totals)
    tag = tab.locator("#r1 .tag").first
    assert not tag.is_visible()
    tab.keyboard.press("Escape")
    tab.locator("#r1 [data-tags]").first.click()
    assert tag.is_visible()
    first, second = (each.get_attribute("id") for each in tab.locator("article").all()[:2])
    tab.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    for key, focused in (("j", first), ("j", second), ("k", first)):
        tab.keyboard.press(key)
        assert tab.evaluate("document.activeElement.id") == focused


def test_one_click_copies_a_card_as_a_picture(tab):
    tab.bring_to_front()
    tab.locator("#r2 [data-copy]").click()
    until(tab, lambda: tab.locator(".toast").text_content() != "")
    assert tab.locator(".toast").text_content() == "Copied as a picture"
    size, colors = tab.evaluate(
        """async () => {
          const [item] = await navigator.clipboard.read();
          const bitmap = await createImageBitmap(await item.getType("image/png"));
          const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
          const pen = canvas.getContext("2d");
          pen.drawImage(bitmap, 0, 0);
          const found = new Set();
          const { data } = pen.getImageData(0, 0, bitmap.width, bitmap.height);
          for (let i = 0; i < data.length; i += 4)
            found.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
          return [[bitmap.width, bitmap.height], found.size];
        }"""
    )
    assert size[0] >= 1000
    assert colors > 1000  # pictures and words, not an empty card
    assert tab.locator(".shot").count() == 0
