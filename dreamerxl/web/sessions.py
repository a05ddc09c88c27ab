"""What is remembered of an open page: its states, and the parts of it that were changed; nothing of what they show.

Gradio makes a part anew, with another id, at every update, and keeps a description of each id with the value that it shows.
Pictures are values here: a page left open would take a hundred kilobytes for every new one, for as long as it stays.
"""

from __future__ import annotations

from typing import Any

from gradio import Blocks, state_holder
from gradio.blocks import Block
from gradio.state_holder import SessionState

MOST_SESSIONS = 50  # pages that are remembered: one for every time that somebody opens it, the latest used stay


class Session(SessionState):
    """Gradio's, in which a part keeps its id; the descriptions, which only its links to a page's state read, are let go."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__(blocks)
        self.config_values.clear()

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(value, Block):
            value._id = key
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


def keep_little(page: Blocks) -> None:
    """Have Gradio remember at most MOST_SESSIONS visits of a page, as Session does. Before the page is mounted."""
    page.state_session_capacity = MOST_SESSIONS
    state_holder.SessionState = Session  # type: ignore[misc]
