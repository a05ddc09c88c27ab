"""What a visitor who watches costs the training: iterations a second with nobody there and with the page open elsewhere.

    python benchmarks/watching.py [--preset mushroom] [--visitors 1] [--seconds 15] [--rounds 4]

One run of the embedded model, alternately watched and left alone for some seconds. A visitor here is another process that
does what an open page does (follows the view's socket, asks for the page's news every second) and draws nothing, as if the
browser were on another machine.
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
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx
from websockets.sync.client import connect

from dreamerxl.runs.run import Run

NEWS_S = 1.0  # as in the page
WARM = 100  # iterations before it is measured: the first are slower


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mushroom", help="settings of the run")
    parser.add_argument("--visitors", type=int, default=1, help="pages that are open while it is watched")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each stretch, watched or not")
    parser.add_argument("--rounds", type=int, default=4, help="how often both are measured")
    parser.add_argument("--watch", metavar="ADDRESS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watch:
        watch(arguments.watch)
    else:
        measure(arguments.preset, arguments.visitors, arguments.seconds, arguments.rounds)


def measure(preset: str, visitors: int, seconds: float, rounds: int) -> None:
    """Print the pace of every stretch and the difference of the means."""
    from dreamerxl.config import load_preset
    from dreamerxl.runs.manager import RunManager
    from dreamerxl.web.offer import Offer
    from dreamerxl.web.serve import make_server, make_site

    settings = load_preset(preset).override({"iterations": 1_000_000, "model": "embedded"})
    manager = RunManager(Path(tempfile.mkdtemp()))
    site = make_site(manager, Offer(settings, "embedded"))
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(site.app)
    threading.Thread(target=server.run, args=([listener],), daemon=True).start()
    run = manager.submit(settings, "benchmark")
    while run.view.iteration < WARM:
        time.sleep(0.5)
    paces: dict[bool, list[float]] = {False: [], True: []}
    for stretch in range(2 * rounds):
        watched = stretch % 2 == 1
        with watching(f"http://127.0.0.1:{listener.getsockname()[1]}/", visitors if watched else 0):
            paces[watched].append(pace(run, seconds))
        print(f"{'watched' if watched else 'alone':8} {paces[watched][-1]:.3f} it/s", flush=True)
    alone, watched = (sum(paces[kind]) / rounds for kind in (False, True))
    print(f"alone {alone:.3f} it/s, watched by {visitors} {watched:.3f} it/s: {100 * (1 - watched / alone):.1f} % slower")
    server.should_exit = True
    site.close()


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
def watching(address: str, visitors: int) -> Iterator[None]:
    """Open that many pages until the block ends."""
    pages = [subprocess.Popen([sys.executable, __file__, "--watch", address], stdout=subprocess.PIPE) for _ in range(visitors)]
    for page in pages:
        assert page.stdout is not None and page.stdout.readline() == b"watching\n", "the page could not be opened"
    try:
        yield
    finally:
        for page in pages:
            page.terminate()
            page.wait()


def watch(address: str) -> None:
    """Be an open page until terminated."""
    import viser

    protocol = f"viser-v{viser.__version__}"
    with httpx.Client(base_url=address, timeout=60.0, trust_env=False) as page:
        config = page.get("config").json()
        tick = next(item for item in config["dependencies"] if any(event == "tick" for _, event in item["targets"]))
        asked = {"data": [None] * len(tick["inputs"]), "fn_index": tick["id"], "session_hash": f"watching{time.time()}"}
        with connect(f"ws{address[4:]}viewer/", subprotocols=[protocol], max_size=None, proxy=None) as view:  # type: ignore[list-item]
            threading.Thread(target=lambda: [None for _ in view], daemon=True).start()
            page.post("gradio_api/run/predict", json=asked).raise_for_status()
            print("watching", flush=True)
            while True:
                time.sleep(NEWS_S)
                page.post("gradio_api/run/predict", json=asked).raise_for_status()


if __name__ == "__main__":
    main()
