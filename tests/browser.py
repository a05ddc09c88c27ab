"""Helpers for tests that look at the page: a trainer whose scenes visibly grow, a site on a free port, Chromium, pixels."""

from __future__ import annotations

import contextlib
import io
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_training import FakeTrainer, decode
from PIL import Image

from dreamerxl.config import Settings
from dreamerxl.gaussians.scene import make_params
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.worker import Pace, Prepared
from dreamerxl.web.offer import Offer
from dreamerxl.web.serve import Site, make_server, make_site

CHROMIUM = os.environ.get("DREAMERXL_CHROMIUM", "/usr/bin/chromium")
# Counts, in the view's own frame and four times a second, the coloured pixels of the left and of the right half of what is
# drawn. A screenshot of a page that draws in software takes seconds, too long to measure with.
WATCH = """
if (location.pathname.endsWith('/viewer/')) {
  const make = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function (kind, options) {
    return make.call(this, kind, kind.startsWith('webgl') ? {...options, preserveDrawingBuffer: true} : options);
  };
  const small = Object.assign(document.createElement('canvas'), {width: 120, height: 72});
  const pen = make.call(small, '2d', {willReadFrequently: true});
  window.seen = [];
  setInterval(() => {
    const canvas = document.querySelector('canvas[data-engine]');
    if (!canvas) return;
    pen.clearRect(0, 0, 120, 72);
    pen.drawImage(canvas, 0, 0, 120, 72);
    const data = pen.getImageData(0, 0, 120, 72).data, halves = [0, 0];
    let sum = 0;
    for (let i = 0; i < data.length; i += 4) {
      const high = Math.max(data[i], data[i + 1], data[i + 2]), low = Math.min(data[i], data[i + 1], data[i + 2]);
      if (high - low > 32 && high > 60) halves[(i / 4) % 120 < 60 ? 0 : 1] += 1;
      sum = (sum * 31 + data[i] * 7 + data[i + 1] * 3 + data[i + 2]) % 1000003;
    }
    window.seen.push({at: Date.now() / 1000, halves, sum});
  }, 250);
}
"""
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]


class GrowingTrainer(FakeTrainer):
    """Points in a ball that gather into a ring, red on the first side and blue on the second; a dark part goes round."""

    GATHERED = 40  # iterations until the ring is whole

    def __post_init__(self) -> None:
        self.replaced, self.slowed = [], []
        self.sides = [SimpleNamespace(variant=variant, params=self._scene(0.0, k)) for k, variant in self._variants()]

    def step(self) -> Any:
        report = super().step()
        share = min(self.iteration / self.GATHERED, 1.0)
        for index, (side, shown) in enumerate(zip(self.sides, report.sides, strict=True)):
            side.params = self._scene(share, index, self.iteration)
            shown.grad_norm *= 1 + 0.2 * math.sin(self.iteration / (3 + index))
            shown.render = torch.rand(1, 1, 1, 3, generator=torch.Generator().manual_seed(self.iteration)).expand(1, 32, 32, 3)
        return report

    def _scene(self, share: float, index: int, iteration: int = 0) -> Any:
        generator = torch.Generator().manual_seed(5)
        count = 1500
        ball = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
        ball = 0.6 * ball * torch.rand(count, 1, generator=generator) ** (1 / 3)
        around, across = (2 * math.pi * torch.rand(count, generator=generator) for _ in range(2))
        radius = 0.55 + 0.2 * across.cos()
        ring = torch.stack([0.2 * across.sin(), radius * around.cos(), radius * around.sin()], 1)
        color = torch.tensor([[0.85, 0.2, 0.15], [0.15, 0.35, 0.9]][index % 2])
        rgbs = color * (0.65 + 0.35 * (around + 0.1 * iteration).sin())[:, None]
        means, quats = (1 - share) * ball + share * ring, torch.tensor([1.0, 0, 0, 0]).repeat(count, 1)
        return make_params(means, quats, torch.full((count, 3), 0.04), torch.full((count,), 0.8), rgbs)


def growing_trainer(seconds: float = 0.1) -> Any:
    """``make_trainer`` for a RunManager."""
    return lambda settings, say: Prepared(GrowingTrainer(settings, seconds), decode, "a stand-in model", "cpu", ())


@contextlib.contextmanager
def serving(site: Site) -> Iterator[str]:
    """The address of the site, served on a thread until the block ends; the site is closed then."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = make_server(site.app)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join(15)
        site.close()


def stand_in_site(folder: Path, first: Settings, seconds: float = 0.1) -> Site:
    """A site whose runs need no model."""
    manager = RunManager(folder, growing_trainer(seconds), pace=Pace(snapshot_seconds=0.4))
    return make_site(manager, Offer(first, model_line="a stand-in model"))


@contextlib.contextmanager
def chromium(width: int = 1440, height: int = 900, **options: Any) -> Iterator[Any]:
    """A page of a headless Chromium that draws in software; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; name one in DREAMERXL_CHROMIUM")
    with playwright.sync_playwright() as starter:
        browser = starter.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser.new_page(viewport={"width": width, "height": height}, **options)
        finally:
            browser.close()


def picture(page: Any, selector: str = "#stage") -> np.ndarray:
    """What an element looks like now, [H, W, 3] in 0..255. Clipped from the page, which need not stand still."""
    box = page.locator(selector).bounding_box()
    return np.asarray(Image.open(io.BytesIO(page.screenshot(clip=box))).convert("RGB")).astype(int)


def seen(page: Any) -> list[dict[str, Any]]:
    """What the view has drawn so far (see WATCH): times (seconds since the epoch), coloured pixels of each half, a checksum."""
    frame = next(frame for frame in page.frames if "/viewer/" in frame.url)
    return frame.evaluate("window.seen")


def colored(pixels: np.ndarray) -> tuple[int, int]:
    """How many pixels of the left and of the right half are clearly coloured, below the labels. pixels [H, W, 3]."""
    below = pixels[60:]
    strong = (below.max(-1) - below.min(-1) > 32) & (below.max(-1) > 60)  # the dust and the ground of the view reach 14
    middle = strong.shape[1] // 2
    return int(strong[:, :middle].sum()), int(strong[:, middle:].sum())
