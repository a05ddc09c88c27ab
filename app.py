"""Serves the page: a command line that becomes settings, and one server on one port.

python app.py [--host 127.0.0.1] [--port 7860] [--guidance auto|embedded|NAME] [--runs-dir runs]; --help tells the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreamerxl.cluster.remote import Lane


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Returns 0, or 2 with a sentence on what the command line asked for and cannot be had."""
    from dreamerxl.errors import DreamerError
    from dreamerxl.runs.limits import read_limits

    options = parser().parse_args(arguments)
    try:
        limits = read_limits(os.environ)
    except DreamerError as error:
        return refuse(str(error))
    limits = dataclasses.replace(limits, replay=limits.replay or options.replay)
    listener = listen(options.host, options.port)
    if isinstance(listener, str):
        return refuse(listener)

    from dreamerxl import __version__, logs  # what follows takes seconds to import; a port in use is told at once
    from dreamerxl.guidance.models import is_local, pick_device, resolve
    from dreamerxl.guidance.pickles import convert
    from dreamerxl.runs.manager import RunManager
    from dreamerxl.runs.worker import carry_out
    from dreamerxl.web.door import Door, parse
    from dreamerxl.web.offer import Offer, first_settings
    from dreamerxl.web.serve import make_server, make_site

    try:
        account = parse(options.auth) if options.auth else None
        if options.allow_pickle_weights:
            options.guidance = convert(options.guidance, print)
        device = pick_device(options.device)
        choice = resolve(options.guidance, device)
        offer = Offer(first_settings(choice.source), options.guidance, options.device, f"{choice.label} on {device.type.upper()}")
        lane = make_lane(options.cluster) if options.cluster else None
        close_log = logs.open_server_log(options.runs_dir)
    except DreamerError as error:
        return refuse(str(error))
    host, port = listener.getsockname()[:2]
    root_path = "".join(f"/{part}" for part in options.root_path.split("/") if part)
    here = lane is None and not limits.replay
    warm = offer.settle(offer.first) if is_local(choice) and here else None  # a first run shows its download
    manager = RunManager(options.runs_dir, limits=limits, warm=warm, carry_out=lane or carry_out)
    site = make_site(manager, offer, root_path)
    if limits.replay and site.desk.on_show() is None:
        site.close()
        close_log()
        return refuse(f"There is no finished run in {options.runs_dir} to replay; name another folder with --runs-dir.")
    server = make_server(Door(site.app, *account, root_path) if account else site.app)
    logs.tell("server started", version=__version__, host=host, port=port, model=choice.label, device=str(device))
    print(f"Replay: finished runs of {options.runs_dir}." if limits.replay else f"Model: {choice.reason}")
    print(f"Open http://{f'[{host}]' if ':' in host else host}:{port}{root_path}/ in a browser; Ctrl-C ends.", flush=True)

    ends = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: None) for number in ends]  # the server raises them again when it has ended
    server.run(sockets=[listener])
    for number, handler in zip(ends, before, strict=True):
        signal.signal(number, handler)
    print("Ending; the scenes of a run in progress are kept.", flush=True)
    site.close()
    if lane is not None:
        lane.close()
    logs.tell("server ended")
    close_log()
    return 0


def make_lane(address: str) -> Lane:
    """What has runs trained on a cluster. Raises ClusterError."""
    from dreamerxl.cluster.remote import Lane

    return Lane(address)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("app.py", description="Words become 3D Gaussians: serves the page.")
    made.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is every one (default: %(default)s)")
    made.add_argument("--port", type=int, default=7860, help="port of page, view and files (default: %(default)s)")
    made.add_argument(
        "--guidance",
        default="auto",
        metavar="NAME",
        help="auto, embedded, or a diffusers folder, hub id or .safetensors file (default: %(default)s: SDXL where there is a "
        "CUDA card and its weights are, else the embedded model)",
    )
    made.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to run (default: %(default)s)")
    made.add_argument(
        "--runs-dir",
        type=Path,
        default=Path(os.environ.get("DREAMERXL_RUNS_DIR") or "runs"),
        help="where runs leave their folders (default: %(default)s, or what the variable DREAMERXL_RUNS_DIR says)",
    )
    made.add_argument(
        "--replay",
        action="store_true",
        help="show the finished runs of --runs-dir and make none; or the variable DREAMERXL_REPLAY=1",
    )
    made.add_argument(
        "--allow-pickle-weights",
        action="store_true",
        help="convert the weights of --guidance to .safetensors where they are pickled (.bin, .ckpt, .pt); never a visitor's",
    )
    made.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="train the runs on a Ray cluster: HOST:PORT of its head, or auto for one of this machine; see docs/cluster.md",
    )
    made.add_argument("--root-path", default="", help="path under which a proxy shows the page, for example /dreamerxl")
    made.add_argument(
        "--auth",
        default=os.environ.get("DREAMERXL_AUTH", ""),
        metavar="USER:PASSWORD",
        help="ask everyone for these before anything is shown; the variable DREAMERXL_AUTH does the same, unseen by others",
    )
    return made


def listen(host: str, port: int) -> socket.socket | str:
    """A listening socket, or a sentence on why there is none."""
    if not 0 <= port <= 65535:
        return f"The port is {port}; 0 to 65535 is accepted (0 takes a free one)."
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)  # others find the port taken from here on, not only when the page is up
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return f"Port {port} on {host} cannot be used: {reason}. Name another with --port."
    return listener


def refuse(sentence: str) -> int:
    """Tell why nothing was started."""
    print(sentence, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
