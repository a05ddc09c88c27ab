"""The view as a visitor uses it, in headless Chromium: layouts, looks, cameras, turntable, keyboard, and nobody else's choice."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from browser import chromium
from PIL import Image

from dreamerxl.gaussians.scene import FrozenSplats
from dreamerxl.runs.snapshot import NO_FRUSTUMS
from dreamerxl.web.gateway import make_gateway
from dreamerxl.web.serve import make_server
from dreamerxl.web.viewer import AZIMUTH_DEG, Stage, Viewer

pytestmark = pytest.mark.browser

WIDTH, HEIGHT = 640, 400
PATIENCE_S = 60
RED, BLUE, GREY = (0.9, 0.1, 0.1), (0.1, 0.2, 0.95), (0.5, 0.5, 0.5)

TOWARDS = np.array([math.cos(math.radians(AZIMUTH_DEG)), math.sin(math.radians(AZIMUTH_DEG)), 0])  # the first camera, level
RIGHT = np.array([-TOWARDS[1], TOWARDS[0], 0])  # as that camera sees it


def blob(color: Any, center: Any = (0, 0, 0), opacity: float = 0.9, count: int = 300, spread: float = 0.25) -> FrozenSplats:
    """Round Gaussians about a centre."""
    means = np.random.default_rng(3).normal(size=(count, 3)).clip(-1.5, 1.5) * spread + np.asarray(center)
    quats = np.tile(np.float32([1, 0, 0, 0]), (count, 1))
    shape = np.ones((count, 1), np.float32)
    return FrozenSplats(
        means.astype(np.float32), quats, 0.07 * np.repeat(shape, 3, 1), opacity * shape[:, 0], shape * np.float32(color)
    )


def shell(color: Any) -> FrozenSplats:
    """A sphere about as large as an object gets."""
    made = blob(color, count=2000)
    means = made.means / np.linalg.norm(made.means, axis=1, keepdims=True)
    return dataclasses.replace(made, means=0.82 * means, scales=made.scales / 2)


def joined(*scenes: FrozenSplats) -> FrozenSplats:
    return FrozenSplats(*(np.concatenate([getattr(scene, name) for scene in scenes]) for name in vars(scenes[0])))


@pytest.fixture(scope="module")
def viewer() -> Iterator[Viewer]:
    made = Viewer()
    yield made
    made.close()


@pytest.fixture(scope="module")
def address(viewer: Viewer) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(make_gateway(viewer.address, lambda run_id: None, dict))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/viewer/"
    server.should_exit = True
    thread.join(15)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium(WIDTH, HEIGHT) as page:
        yield page.context.browser


def show(viewer: Viewer, *scenes: FrozenSplats, frustums: Any = NO_FRUSTUMS) -> None:
    """Put these scenes on view, the sides named A, B, ..."""
    viewer.show(Stage(tuple("ABCD"[: len(scenes)]), scenes, frustums, key=time.monotonic()))


@contextlib.contextmanager
def visit(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """A visitor with the view open and drawn."""
    options = {"viewport": {"width": WIDTH, "height": HEIGHT}, "color_scheme": "dark"} | options
    page = browser.new_page(**options)
    try:
        page.goto(address)
        page.locator("#root canvas[role=img]").wait_for(timeout=PATIENCE_S * 1000)
        yield page
    finally:
        page.close()


def picture(page: Any) -> np.ndarray:
    """What lies between the labels and the controls, [H, W, 3] in 0..255."""
    size = page.viewport_size
    clip = {"x": 0, "y": 44, "width": size["width"], "height": size["height"] - 44 - 56}
    return np.asarray(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")).astype(int)


def wait_for(page: Any, condition: Callable[[np.ndarray], Any]) -> np.ndarray:
    """The first picture that fulfils the condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition(pixels := picture(page)):
        assert time.monotonic() < deadline, "the view never looked like that"
        time.sleep(0.2)
    return pixels


def red(pixels: np.ndarray) -> int:
    return int((pixels[..., 0] - pixels[..., 1:].max(-1) > 60).sum())


def blue(pixels: np.ndarray) -> int:
    return int((pixels[..., 2] - pixels[..., :2].max(-1) > 60).sum())


def halves(pixels: np.ndarray, at: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    middle = round(at * pixels.shape[1])
    return pixels[:, : middle - 2], pixels[:, middle + 2 :]


def side_by_side(pixels: np.ndarray) -> bool:
    left, right = halves(pixels)
    return red(left) > 2000 and blue(right) > 2000 and red(right) == blue(left) == 0


def moved(before: np.ndarray) -> Callable[[np.ndarray], bool]:
    return lambda now: (abs(now - before).max(-1) > 40).sum() > 300


def choose(page: Any, label: str) -> None:
    page.get_by_label(label, exact=True).check(force=True)


def middles(pixels: np.ndarray, seen: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """The middle column of what is seen in each half, counted from that half's left edge."""
    return tuple(float(np.nonzero(seen(half))[1].mean()) for half in np.split(pixels, 2, axis=1))  # type: ignore[return-value]


def test_side_by_side_every_side_shows_the_same_aspect_from_everywhere(viewer: Viewer, address: str, browser: Any):
    lump = 0.5 * RIGHT
    show(viewer, joined(blob(RED), blob(RED, lump)), joined(blob(BLUE), blob(BLUE, lump)))
    with visit(browser, address) as page:
        pixels = wait_for(page, side_by_side)
        left, right = middles(pixels, lambda half: half.max(-1) - half.min(-1) > 60)
        assert left == pytest.approx(right, abs=1.5) and left > WIDTH / 4 + 5  # the lump is to the right on both
        page.mouse.move(320, 200)
        page.mouse.down()
        page.mouse.move(480, 200, steps=4)  # about a quarter of a turn
        page.mouse.up()
        wait_for(page, moved(pixels))
        pixels = wait_for(page, side_by_side)
        left, right = middles(pixels, lambda half: half.max(-1) - half.min(-1) > 60)
        assert left == pytest.approx(right, abs=1.5)


def test_split_shows_one_side_on_each_hand_of_the_divider(viewer: Viewer, address: str, browser: Any):
    show(viewer, blob(RED), blob(BLUE))
    with visit(browser, address) as page:
        wait_for(page, side_by_side)
        choose(page, "Split")
        wait_for(page, lambda pixels: red(pixels) > 2000 and blue(pixels) > 2000 and side_by_side(pixels))
        divider = page.get_by_label("Divider between the sides")
        divider.focus()
        for _ in range(5):
            page.keyboard.press("ArrowLeft")
        assert divider.input_value() == "0.45"
        left, right = halves(wait_for(page, lambda pixels: red(halves(pixels, 0.45)[1]) == 0), 0.45)
        assert red(left) > 1000 and blue(left) == 0 and blue(right) > red(left)
        page.mouse.move(0.45 * WIDTH, HEIGHT / 2)
        page.mouse.down()
        page.mouse.move(0.9 * WIDTH, HEIGHT / 2, steps=3)
        page.mouse.up()
        wait_for(page, lambda pixels: red(pixels) > 4000 and blue(pixels) == 0)


def test_blink_shows_one_side_after_the_other_in_the_same_place(viewer: Viewer, address: str, browser: Any):
    show(viewer, blob(RED), blob(BLUE))
    with visit(browser, address) as page:
        wait_for(page, side_by_side)
        choose(page, "Blink")
        first = wait_for(page, lambda pixels: red(pixels) > 4000 and blue(pixels) == 0)
        second = wait_for(page, lambda pixels: blue(pixels) > 4000 and red(pixels) == 0)
        rows, columns = np.nonzero(first[..., 0] - first[..., 2] > 60)
        others = np.nonzero(second[..., 2] - second[..., 0] > 60)
        assert abs(rows.mean() - others[0].mean()) < 2 and abs(columns.mean() - others[1].mean()) < 2
        assert page.locator("#labels li:visible").count() == 1


def test_depth_is_bright_where_it_is_near(viewer: Viewer, address: str, browser: Any):
    both = joined(blob(GREY, 0.5 * TOWARDS - 0.35 * RIGHT, spread=0.12), blob(GREY, -0.5 * TOWARDS + 0.35 * RIGHT, spread=0.12))
    show(viewer, both, both)
    with visit(browser, address) as page:
        choose(page, "Depth")
        pixels = wait_for(page, lambda pixels: min(map(yellow, halves(pixels))) > 300 and min(map(purple, halves(pixels))) > 300)
        for half in halves(pixels):
            near, far = (np.nonzero(kind)[1].mean() for kind in (is_yellow(half), is_purple(half)))
            assert near < far  # the near lump is to the left


def is_yellow(pixels: np.ndarray) -> np.ndarray:
    return (pixels[..., 1] > 140) & (pixels[..., 2] < 110)


def is_purple(pixels: np.ndarray) -> np.ndarray:
    return (pixels[..., 2] > 90) & (pixels[..., 1] < 90)


def yellow(pixels: np.ndarray) -> int:
    return int(is_yellow(pixels).sum())


def purple(pixels: np.ndarray) -> int:
    return int(is_purple(pixels).sum())


def test_opacity_is_white_where_nothing_shines_through(viewer: Viewer, address: str, browser: Any):
    show(viewer, blob(RED), blob(BLUE, opacity=0.03))
    with visit(browser, address) as page:
        choose(page, "Opacity")
        left, right = halves(wait_for(page, lambda pixels: (halves(pixels)[0].min(-1) > 225).sum() > 2000))
        assert (left.max(-1) - left.min(-1)).max() < 40  # no colour is left
        assert 60 < right.max() < 220


def test_ellipsoids_are_solid_and_leave_out_what_is_hardly_there(viewer: Viewer, address: str, browser: Any):
    show(viewer, blob(RED, opacity=0.15, count=40), blob(BLUE, opacity=0.05, count=40))
    with visit(browser, address) as page:
        wait_for(page, lambda pixels: pixels.max() > 100)
        time.sleep(1.0)  # the splats fade in
        assert picture(page).max() < 180
        choose(page, "Ellipsoids")
        pixels = wait_for(page, lambda pixels: pixels[..., 0].max() > 215)
        assert blue(halves(pixels)[1]) == 0


def test_cameras_are_lines_on_every_side_that_come_and_go(viewer: Viewer, address: str, browser: Any):
    center = 1.5 * RIGHT + np.array([0, 0, 1])
    corners = center + np.array([[0, 0, -1], [0.5, 0, -1], [0.5, 0.5, -1], [0, 0.5, -1]])
    frustum = np.concatenate([center[None], corners])[None].astype(np.float32)
    show(viewer, blob(GREY), blob(GREY), frustums=frustum)
    with visit(browser, address) as page:
        wait_for(page, lambda pixels: pixels.max() > 90)
        button = page.get_by_role("button", name="Cameras")
        button.click()
        pixels = wait_for(page, lambda pixels: min(map(teal, halves(pixels))) > 30)
        left, right = middles(pixels, lambda half: half[..., 1] - half[..., 0] > 50)
        assert left == pytest.approx(right, abs=2) and left > WIDTH / 4  # the camera stands to the right, on both
        assert button.get_attribute("aria-pressed") == "true"
        button.click()
        wait_for(page, lambda pixels: teal(pixels) == 0 and pixels.max() > 90)


def teal(pixels: np.ndarray) -> int:
    return int((pixels[..., 1] - pixels[..., 0] > 50).sum())


def test_a_turntable_turns_until_it_is_told_to_stop(viewer: Viewer, address: str, browser: Any):
    show(viewer, joined(blob(RED), blob(RED, 0.6 * RIGHT)), joined(blob(BLUE), blob(BLUE, 0.6 * RIGHT)))
    with visit(browser, address) as page:
        before = wait_for(page, side_by_side)
        page.get_by_role("button", name="Turntable").click()
        before = wait_for(page, moved(before))
        before = wait_for(page, moved(before))
        page.get_by_role("button", name="Turntable").click()
        time.sleep(1.0)
        before = picture(page)
        time.sleep(1.0)
        assert not moved(before)(picture(page))
        page.get_by_role("button", name="Reset").click()
        wait_for(page, moved(before))


def test_everything_can_be_reached_by_keyboard(viewer: Viewer, address: str, browser: Any):
    show(viewer, joined(blob(RED), blob(RED, 0.6 * RIGHT)), joined(blob(BLUE), blob(BLUE, 0.6 * RIGHT)))
    with visit(browser, address) as page:
        before = wait_for(page, side_by_side)
        reached = []
        for _ in range(6):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate("document.activeElement.name || document.activeElement.id || document.activeElement.tagName")
            )
        assert reached == ["CANVAS", "layout", "look", "cameras", "turntable", "reset"]
        page.locator("canvas[role=img]").focus()
        page.keyboard.down("ArrowRight")
        now = wait_for(page, moved(before))
        page.keyboard.up("ArrowRight")
        page.keyboard.press("+")
        page.keyboard.press("+")
        wait_for(page, lambda pixels: red(pixels) > 1.2 * red(now))
        page.keyboard.press("Home")
        page.locator("canvas[role=img]").blur()  # its outline is no part of the picture
        wait_for(page, lambda pixels: not moved(before)(pixels))
        page.locator("input[value=row]").focus()
        page.keyboard.press("ArrowRight")
        assert page.get_by_label("Split").is_checked()
        assert not page.get_by_label("Divider between the sides").is_hidden()


def test_what_is_seen_is_said(viewer: Viewer, address: str, browser: Any):
    show(viewer, blob(RED), blob(BLUE))
    with visit(browser, address) as page:
        wait_for(page, side_by_side)
        assert page.locator("#labels li").all_inner_texts() == ["A\n300 Gaussians", "B\n300 Gaussians"]
        assert page.locator("#told").inner_text() == "3D view: A, B side by side, in colour."
        choose(page, "Split")
        choose(page, "Depth")
        assert page.locator("#told").inner_text() == "3D view: A and B in one place, with a divider, as depth."
        described = page.locator("canvas[role=img]").get_attribute("aria-label")
        assert described.startswith("3D view: A and B in one place") and "Arrow keys turn" in described
        for control in page.locator("#tools input, #tools button, #divider").all():
            assert control.evaluate("(e) => (e.ariaLabel || e.labels?.[0]?.textContent || e.textContent).trim().length > 3")


def test_one_visitor_never_changes_what_another_sees(viewer: Viewer, address: str, browser: Any):
    show(viewer, blob(RED), blob(BLUE))
    with visit(browser, address) as one, visit(browser, address) as other:
        wait_for(one, side_by_side)
        before = wait_for(other, side_by_side)
        choose(one, "Split")
        choose(one, "Opacity")
        one.get_by_role("button", name="Turntable").click()
        wait_for(one, lambda pixels: red(pixels) == blue(pixels) == 0)
        assert not moved(before)(picture(other))
        show(viewer, blob(BLUE), blob(RED))  # both go on following, each in its own way
        wait_for(other, lambda pixels: blue(halves(pixels)[0]) > 2000 and red(halves(pixels)[1]) > 2000)
        assert red(picture(one)) == 0


def test_what_was_chosen_stays_when_the_tab_opens_a_view_again(viewer: Viewer, address: str, browser: Any):
    show(viewer, blob(RED), blob(BLUE))
    with visit(browser, address) as page:
        wait_for(page, side_by_side)
        choose(page, "Split")
        choose(page, "Ellipsoids")
        page.get_by_label("Divider between the sides").fill("0.7")
        page.reload()
        words = "3D view: A and B in one place, with a divider, as ellipsoids."
        page.locator("#told", has_text=words).wait_for(timeout=PATIENCE_S * 1000, state="attached")
        wait_for(page, lambda pixels: red(pixels) > 2000 and red(halves(pixels, 0.7)[1]) == blue(halves(pixels, 0.7)[0]) == 0)
        assert page.get_by_role("radio", name="Ellipsoids").is_checked()


def test_one_side_has_the_picture_to_itself_and_four_share_it(viewer: Viewer, address: str, browser: Any):
    show(viewer, blob(RED))
    with visit(browser, address) as page:
        pixels = wait_for(page, lambda pixels: red(pixels) > 2000)
        assert abs(np.nonzero(pixels[..., 0] - pixels[..., 1] > 60)[1].mean() - WIDTH / 2) < 3
        assert page.locator("#layouts").is_hidden()
        show(viewer, blob(RED), blob(BLUE), blob(RED), blob(BLUE))
        columns = wait_for(page, lambda pixels: blue(np.split(pixels, 4, 1)[3]) > 500)
        assert [(red(part) > 500, blue(part) > 500) for part in np.split(columns, 4, 1)] == [(True, False), (False, True)] * 2


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_ground_is_dark_or_light_as_the_visitor_has_it(viewer: Viewer, address: str, browser: Any, scheme: str):
    show(viewer, blob(RED), blob(BLUE))
    with visit(browser, address, color_scheme=scheme) as page:
        pixels = wait_for(page, lambda pixels: red(pixels) > 2000)
        corner = pixels[5:20, 5:20].mean()
        assert corner > 215 if scheme == "light" else corner < 40


@pytest.mark.parametrize(("width", "height"), [(368, 281), (300, 240), (1100, 620)])
def test_it_fits(viewer: Viewer, address: str, browser: Any, width: int, height: int):
    show(viewer, shell(RED), shell(BLUE))
    with visit(browser, address, viewport={"width": width, "height": height}) as page:
        pixels = wait_for(page, lambda pixels: red(halves(pixels)[0]) > 1000 and blue(halves(pixels)[1]) > 1000)
        edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert red(edges[None]) + blue(edges[None]) == 0
        box = page.locator("#tools").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["y"] + box["height"] <= height
        assert page.evaluate(
            "[...document.querySelectorAll('#tools *')].every((e) => e.getBoundingClientRect().right <= innerWidth)"
        )
