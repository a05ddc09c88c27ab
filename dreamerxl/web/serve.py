"""Puts the parts together: runs, view, page and gateway become one ASGI application on one port."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio import processing_utils

from dreamerxl.runs.manager import RunManager
from dreamerxl.web.desk import Desk
from dreamerxl.web.door import App
from dreamerxl.web.gateway import make_gateway
from dreamerxl.web.offer import Offer
from dreamerxl.web.panel import make_panel
from dreamerxl.web.past import stage_at
from dreamerxl.web.patience import Requests, Sockets
from dreamerxl.web.sessions import keep_little
from dreamerxl.web.theme import HEAD, ICON, STYLE_SHEET, make_theme
from dreamerxl.web.viewer import Viewer, stage_of

LARGEST_UPLOAD = 64 * 2**20  # bytes of a file whose settings a visitor wants back
LARGEST_MESSAGE = 8 * 2**20  # bytes that a browser may send to the view at once


@dataclass(frozen=True)
class Site:
    """Everything that runs behind the port; ``close`` ends it."""

    app: FastAPI
    manager: RunManager
    desk: Desk
    viewer: Viewer

    def close(self) -> None:
        """Stop the runs, keeping their scenes, and the view."""
        self.desk.lab.close()  # before the manager, whose thread may be making a figure
        self.manager.close()
        self.viewer.close()  # before the desk, which it asks
        self.desk.close()


def make_site(manager: RunManager, offer: Offer, root_path: str = "") -> Site:
    """The whole site around a manager of runs; root_path is where a proxy shows it, for what Gradio makes absolute."""
    desk = Desk(manager)
    viewer = Viewer()
    opening = desk.on_show() if manager.limits.replay else None
    if opening is not None:
        viewer.show(stage_at(opening))
    else:
        viewer.follow(lambda: stage_of(desk.on_show()))
    started = secrets.token_hex(4)
    health = {"started": started}
    app = make_gateway(viewer.address, desk.folder, lambda: {**health, **desk.health()}, desk.past.address, desk.lab.file)
    # A visitor's file is one that they sent: Gradio would also download what they name, whatever its size.
    processing_utils.async_ssrf_protected_download = _refuse_address
    page = make_panel(desk, offer)
    keep_little(page)
    app = gr.mount_gradio_app(
        app,
        page,
        path="/",
        root_path=root_path or None,
        ssr_mode=False,
        show_error=False,  # what a handler did not expect is for the log
        footer_links=[],
        favicon_path=str(ICON),
        theme=make_theme(),
        css_paths=STYLE_SHEET,
        head=HEAD,
        max_file_size=LARGEST_UPLOAD,
    )
    return Site(app, manager, desk, viewer)


async def _refuse_address(*_: Any, **__: Any) -> str:
    raise gr.Error("A file is sent, not named by its address.", print_exception=False)


def make_server(app: App) -> uvicorn.Server:
    """A server for the site; give its ``run`` a listening socket.

    The view's messages are packed already, and a browser that draws in software may answer a ping late.
    """
    config = uvicorn.Config(
        app,
        http=Requests,
        ws=Sockets,
        log_config=None,  # dreamerxl.logs hears it
        log_level="warning",
        ws_max_size=LARGEST_MESSAGE,
        ws_per_message_deflate=False,
        ws_ping_interval=30.0,
        ws_ping_timeout=120.0,
        timeout_graceful_shutdown=2,
        proxy_headers=True,
    )
    return uvicorn.Server(config)
