"""What a visitor who watches costs the training: iterations a second with no view, with nobody there, with the page open.

    python benchmarks/watching.py [--preset mushroom] [--gaussians 3000] [--visitors 1] [--seconds 15] [--rounds 4]

One run of the embedded model, in turns for some seconds each: headless, its view not kept up; alone, kept up for nobody;
watched. A visitor here is another process that does what an open page does (follows the view's socket, asks for the page's
news every second) and draws nothing, as if the browser were on another machine. With --view-only there is no page, only the
3D view, and Gradio need not be installed.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx
from websockets.sync.client import ClientConnection, connect

from dreamerxl.config import Settings, load_preset
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.run import Run
from dreamerxl.web.viewer import Viewer, stage_of

NEWS_S = 1.0  # as in the page
WARM = 100  # iterations before it is measured: the first are slower
SCENE_BYTES = 60_000  # a larger message carries a scene
STATES = ("headless", "alone", "watched")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mushroom", help="settings of the run")
    parser.add_argument("--gaussians", type=int, default=0, help="of each side, held at that; 0 keeps the preset's")
    parser.add_argument("--view-only", action="store_true", help="the 3D view without the page around it")
    parser.add_argument("--variant", help="train this method alone")
    parser.add_argument("--visitors", type=int, default=1, help="pages that are open while it is watched")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each stretch, watched or not")
    parser.add_argument("--rounds", type=int, default=4, help="how often both are measured")
    parser.add_argument("--watch", metavar="ADDRESS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watch:
        watch(arguments.watch)
    else:
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Print the pace of every stretch and the difference of the means."""
    settings = load_preset(arguments.preset).override({"iterations": 1_000_000, "model": "embedded"})
    if arguments.gaussians:
        settings = settings.override({"initialization.count": arguments.gaussians, "densification.enabled": False})
    if arguments.variant:
        sides = [side for side in settings.to_dict()["variants"] if side["method"] == arguments.variant]
        settings = settings.override({"variants": sides})
    manager = RunManager(Path(tempfile.mkdtemp()))
    viewer, address, close = view_alone(manager) if arguments.view_only else page_and_view(manager, settings)
    run = manager.submit(settings, "benchmark")
    while run.view.iteration < WARM:
        time.sleep(0.5)
    paces: dict[str, list[float]] = {state: [] for state in STATES}
    show = viewer.show
    for stretch in range(len(STATES) * arguments.rounds):
        state = STATES[stretch % len(STATES)]
        viewer.show = (lambda _: False) if state == "headless" else show
        visitors = arguments.visitors if state == "watched" else 0
        with watching(address, visitors) as pages:
            begun = time.monotonic()
            paces[state].append(pace(run, arguments.seconds))
            spent = time.monotonic() - begun
        scenes = sum(page.stdout.read().count(b"scene") for page in pages if page.stdout) / spent / max(1, visitors)
        seen = f", {scenes:.2f} scenes a second" if visitors else ""
        print(f"{state:8} {paces[state][-1]:.3f} it/s{seen}", flush=True)
    headless, alone, watched = (sum(paces[state]) / arguments.rounds for state in STATES)
    counts = ", ".join(f"{len(side.splats):,}" for side in run.view.snapshot.sides) if run.view.snapshot else ""
    print(
        f"on {run.view.device}, {counts} Gaussians: headless {headless:.3f} it/s, alone {alone:.3f}, watched by "
        f"{arguments.visitors} {watched:.3f}: {100 * (1 - watched / headless):.1f} % slower than headless"
    )
    close()


def page_and_view(manager: RunManager, settings: Settings) -> tuple[Viewer, str, Callable[[], None]]:
    """The whole site: its viewer, its address, and what closes it."""
    from dreamerxl.web.offer import Offer
    from dreamerxl.web.serve import make_server, make_site

    site = make_site(manager, Offer(settings, "embedded"))
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(site.app)
    threading.Thread(target=server.run, args=([listener],), daemon=True).start()

    def close() -> None:
        server.should_exit = True
        site.close()

    return site.viewer, f"http://127.0.0.1:{listener.getsockname()[1]}/", close


def view_alone(manager: RunManager) -> tuple[Viewer, str, Callable[[], None]]:
    """The 3D view of whatever trains: the viewer, the address of its socket, and what closes both."""
    viewer = Viewer()
    viewer.follow(lambda: stage_of(run.view if (run := manager.current()) else None))

    def close() -> None:
        viewer.close()
        manager.close()

    return viewer, f"ws://{viewer.address}/", close


def pace(run: Run, seconds: float) -> float:
    """Iterations a second, from the end of one to the end of another."""
    begun, first = next_end(run)
    time.sleep(seconds)
    ended, last = next_end(run)
    return (last - first) / (ended - begun)


def next_end(run: Run) -> tuple[float, int]:
    before = run.view.iteration
    while run.view.iteration == before:
        time.sleep(0.005)
    return time.monotonic(), run.view.iteration


@contextlib.contextmanager
def watching(address: str, visitors: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Open that many pages until the block ends; each has then printed a line for every scene it was sent."""
    pages = [subprocess.Popen([sys.executable, __file__, "--watch", address], stdout=subprocess.PIPE) for _ in range(visitors)]
    for page in pages:
        assert page.stdout is not None and b"watching\n" in page.stdout, "the page could not be opened"
    try:
        yield pages
    finally:
        for page in pages:
            page.terminate()
            page.wait()


def watch(address: str) -> None:
    """Be an open page, or with an address of a socket only its 3D view, until terminated."""
    import viser

    protocol = f"viser-v{viser.__version__}"
    if address.startswith("ws"):
        with connect(address, subprotocols=[protocol], max_size=None, proxy=None) as view:  # type: ignore[list-item]
            print("watching", flush=True)
            follow(view)
        return
    begun = time.time()
    with httpx.Client(base_url=address, timeout=60.0, trust_env=False) as page:
        config = page.get("config").json()
        ticks = [item for item in config["dependencies"] if any(event == "tick" for _, event in item["targets"])]
        asked = [  # of the page and of its Lab
            {"data": [None] * len(tick["inputs"]), "fn_index": tick["id"], "session_hash": f"watching{begun}"} for tick in ticks
        ]
        with connect(f"ws{address[4:]}viewer/", subprotocols=[protocol], max_size=None, proxy=None) as view:  # type: ignore[list-item]
            threading.Thread(target=follow, args=(view,), daemon=True).start()
            ask(page, asked)
            print("watching", flush=True)
            while True:
                time.sleep(NEWS_S)
                ask(page, asked)


def ask(page: httpx.Client, asked: Sequence[dict[str, Any]]) -> None:
    """What the timers of a page ask for."""
    for each in asked:
        page.post("gradio_api/run/predict", json=each).raise_for_status()


def follow(view: ClientConnection) -> None:
    """Take in what the view sends; a line for every scene."""
    for message in view:
        if len(message) > SCENE_BYTES:
            print("scene", flush=True)


if __name__ == "__main__":
    main()
