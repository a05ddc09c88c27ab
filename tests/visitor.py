"""A visitor without a browser: speaks to the page's handlers over HTTP as its script does, one session each."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from html import unescape
from typing import Any

import httpx


class Visitor:
    """One open page. ``token`` is what the browser would keep; ``form`` holds what the page shows, by label."""

    def __init__(self, client: httpx.Client, token: str = "") -> None:
        self.client, self.session, self.token = client, secrets.token_hex(5), token
        self.config = client.get("config").raise_for_status().json()
        self.components = {entry["id"]: entry for entry in self.config["components"]}
        self.values = {key: entry["props"].get("value") for key, entry in self.components.items()}
        self.values[self._stored()] = token

    def _stored(self) -> int:
        return next(key for key, entry in self.components.items() if entry["type"] == "browserstate")

    def _find(self, handler: str, event: str) -> dict[str, Any]:
        """The dependency of an element's event; 'tick' and 'load' belong to none."""
        for entry in self.config["dependencies"]:
            for target, name in entry["targets"]:
                props = self.components.get(target, {}).get("props", {})
                if name == event and handler in (entry["api_name"], props.get("elem_id")):
                    return entry
        raise KeyError(f"{handler}.{event}")

    def fill(self, **values: Any) -> None:
        """Type into the form, by the first word of the label: fill(Prompt='a dog', Iterations=5)."""
        for label, value in values.items():
            key = next(k for k, e in self.components.items() if str(e["props"].get("label")).partition(" ")[0] == label)
            self.values[key] = value

    def post(self, handler: str, event: str = "click", data: dict[str, Any] | None = None) -> httpx.Response:
        """Fire an event; the answer as it comes."""
        entry = self._find(handler, event)
        body = {
            "fn_index": entry["id"],
            "session_hash": self.session,
            "event_data": data,
            "trigger_id": None,
            "data": [None if self.components[k]["type"] == "state" else self.values[k] for k in entry["inputs"]],
        }
        return self.client.post("gradio_api/run/predict", json=body)

    def fire(self, handler: str, event: str = "click", data: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fire an event and take its answer over: the new values by element id (or label)."""
        outputs = self._find(handler, event)["outputs"]
        answer = self.post(handler, event, data).raise_for_status().json()["data"]
        told = {}
        for key, value in zip(outputs, answer, strict=True):
            if isinstance(value, dict) and value.get("__type__") == "update":
                value = value.get("value", self.values[key])
            self.values[key] = value
            props = self.components[key]["props"]
            told[props.get("elem_id") or props.get("label") or key] = value
        self.token = self.values[self._stored()]
        return told

    def press(self, button: str) -> str:
        """Press a button; the sentence that the page says."""
        return unescape(self.fire(button)["said"] or "")

    def look(self) -> dict[str, Any]:
        """What the timer brings; parts that did not change are as before."""
        return self.fire("refresh_11", "tick")


def wait_until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What a condition gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.05)
    return found
