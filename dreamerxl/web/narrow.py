"""What a visitor reaches of the site: what the page uses, and nothing else that Gradio brings along.

Gradio's server also offers run histories on the hub, links that it keeps on the disk, monitoring, recordings, proxies. The
page needs none of that. Other sites' pages may not press its buttons either.
"""

from __future__ import annotations

import re

from dreamerxl.web.patience import App, Receive, Scope, Send, refuse

OF_GRADIO = r"config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|assets/.+|static/.+"
OF_ITS_API = r"run/predict|upload|upload_progress|heartbeat/\w+|startup-events|app_id"
OWN = r"health|healthz|viewer(/.*)?|past/.+|runs/.+|lab/.+"
REACHED = re.compile(rf"/({OWN}|{OF_GRADIO}|gradio_api/({OF_ITS_API}))?")
ELSEWHERE = b"cross-site"


class Narrow:
    """An ASGI application of which only some addresses are reached."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not REACHED.fullmatch(scope["path"]):
                return await refuse(send, 404, "There is nothing here.")
            if scope["method"] == "POST" and (b"sec-fetch-site", ELSEWHERE) in scope["headers"]:
                return await refuse(send, 403, "Only this site's own page may ask for that.")
        await self.app(scope, receive, send)
