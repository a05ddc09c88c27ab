"""The page of the 3D view: Viser's own, with our style, scripts and controls put in. Their files are in the folder ``view``.

Viser shows one scene to everyone and knows no layouts or display modes, so these are made in the visitor's browser: one
visitor's choice never reaches another, follows the camera without a round trip, and costs the training nothing.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).with_name("view")
FILES = {path.name: path for path in FOLDER.iterdir() if path.suffix in (".js", ".css")}  # what the page may ask for
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css"}


def dressed(html: bytes) -> bytes:
    """Viser's page with our style and scripts at the end of its head and our controls at the end of its body."""
    for part, end in (("head.html", b"</head>"), ("tools.html", b"</body>")):
        before, found, after = html.rpartition(end)  # the last one: its script may hold others
        if found:
            html = before + (FOLDER / part).read_bytes() + found + after
    return html
