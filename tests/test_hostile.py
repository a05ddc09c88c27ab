"""What visitors may send to the page: HTML, paths, bombs, pickles, nonsense. Refused in a sentence, run by nobody."""

from __future__ import annotations

import contextlib
import inspect
import json
import random
import re
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import gradio.routes
import httpx
import pytest
from browser import chromium, serving, stand_in_site
from visitor import Visitor, wait_until

from dreamerxl.config import load_preset
from dreamerxl.errors import DreamerError
from dreamerxl.runs.metadata import LONGEST, read_about, settings_of
from dreamerxl.web import patience
from dreamerxl.web.serve import Site

EVIL = '<img src=x onerror="window.evil=1"><script>window.evil=1</script></script>"\'><b id=evil>{{7*7}}${7*7}'
PICKLE = b"cos\nsystem\n(S'touch %s'\ntR."
TRACE = re.compile(r"Traceback|File \\?\"|site-packages|/home/|\.py\b")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return stand_in_site(tmp_path_factory.mktemp("runs"), load_preset("mushroom"), seconds=0.01)


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[httpx.Client]:
    with serving(site) as address, httpx.Client(base_url=address, trust_env=False, timeout=60) as made:
        yield made


@pytest.fixture
def visitor(client: httpx.Client) -> Visitor:
    made = Visitor(client)
    made.fire("arrive", "load")
    return made


class Elements(HTMLParser):
    """Which elements and attributes a piece of HTML really has, as a browser reads it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def assert_harmless(html: str) -> None:
    for tag, attributes in Elements(html).found:
        assert tag != "script" and attributes.get("id") != "evil" and attributes.get("src") != "x", (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)


def evil_run(visitor: Visitor, site: Site, seed: int) -> str:
    """The id of a run with EVIL as its prompt that has ended and is on show."""
    visitor.fill(Prompt=EVIL, Iterations=5, Seed=seed)
    assert visitor.press("run") == ""
    run = wait_until(lambda: next((view for view in site.manager.runs() if view.settings.seed == seed and view.ended), None))
    wait_until(lambda: run.id in visitor.look()["status"])
    return run.id


def test_html_in_a_prompt_stays_text(visitor: Visitor, site: Site) -> None:
    runs = [evil_run(visitor, site, seed) for seed in (1, 2)]
    answers = [visitor.look(), visitor.fire("search", "change"), visitor.fire("share-link")]
    answers += [visitor.fire("runs", data={"name": f"compare:{run}"}) for run in runs]
    answers += [visitor.fire("runs", data={"name": f"open:{runs[0]}"}), visitor.fire("arrive", "load")]
    shown = [
        str(value) for answer in answers for name, value in answer.items() if name in ("status", "runs", "compared", "files")
    ]
    assert sum("&lt;script&gt;" in text for text in shown) >= 4
    for text in shown:
        assert_harmless(text)
    for data in ({"name": EVIL}, {"name": f"open:{EVIL}"}, {"name": f"delete:{EVIL}"}):
        assert_harmless(visitor.fire("runs", data=data)["said"])
        assert_harmless(visitor.fire("gallery", data=data)["said"])
    visitor.fire("files", data={"name": "scene.html"})
    page = wait_until(lambda: (found := visitor.client.get(f"runs/{runs[1]}/files/scene.html")).is_success and found)
    found = Elements(page.text).found
    assert not any(attributes.get("id") == "evil" or attributes.get("src") == "x" for _, attributes in found)
    about = re.search(r'<script type="application/json" id="dreamerxl">([^<]*)</script>', page.text)[1]  # type: ignore[index]
    assert json.loads(about)["settings"]["prompt"] == EVIL


@pytest.mark.browser
def test_a_browser_runs_nothing_of_it(visitor: Visitor, site: Site) -> None:
    run = evil_run(visitor, site, 3)
    visitor.fire("files", data={"name": "scene.html"})
    scene = f"runs/{run}/files/scene.html"
    wait_until(lambda: visitor.client.get(scene).is_success)
    address = str(visitor.client.base_url)
    with chromium() as page:
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        page.goto(f"{address}?run={run}&preset=mushroom&prompt={EVIL}")
        page.wait_for_selector("#run")
        page.locator("#status", has_text="<img src=x").wait_for()
        page.locator("#past").click()
        page.locator(f"[data-do='open:{run}']").wait_for()
        page.goto(f"{address}?preset={EVIL}")
        page.locator("#said [role=alert]", has_text="There is no preset").wait_for()
        drop = """async (address) => {
            const bytes = await (await fetch(address)).blob(), transfer = new DataTransfer();
            transfer.items.add(new File([bytes], '<b>scene.html'));
            document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true}));
        }"""
        page.evaluate(drop, scene)
        page.locator("#said", has_text="The settings of this file are in the form.").wait_for()
        assert page.locator("#ask textarea").first.input_value() == EVIL
        assert page.evaluate("[window.evil, document.querySelectorAll('#evil').length]") == [None, 0]
        page.goto((site.manager.get(run).folder.captures / "scene.html").as_uri())
        page.wait_for_timeout(1500)
        assert page.evaluate("window.evil") is None and page.locator("#evil").count() == 0


@pytest.mark.parametrize("size", [1001, 10**6])
def test_a_long_prompt_is_refused_in_a_short_sentence(size: int, visitor: Visitor, site: Site) -> None:
    before = len(site.manager.runs())
    visitor.fill(Prompt="x" * size)
    assert f"prompt has {size:,} characters; at most 1,000 are accepted." in visitor.press("run")
    assert len(site.manager.runs()) == before
    visitor.fill(Prompt="x" * 5_000_000)
    with contextlib.suppress(httpx.ReadError, httpx.WriteError):  # cut before all of it was sent
        assert visitor.post("run").status_code == 413


TRICKS = [
    "../../etc/passwd",
    "/etc/passwd",
    "..\\..\\x",
    "%2e%2e/x",
    "a\0b",
    "",
    ".",
    "~root",
    "C:\\x",
    "x" * 50_000,
    "\u202e",
    "run.json",
]


@pytest.mark.parametrize("trick", TRICKS, ids=range(len(TRICKS)))
def test_paths_lead_nowhere(trick: str, visitor: Visitor) -> None:
    assert "There is no preset" in visitor.fire("gallery", data={"name": trick})["said"]
    for deed in ("open", "take-up", "delete", "compare"):
        said = visitor.fire("runs", data={"name": f"{deed}:{trick}"})["said"]
        assert "is not the name of a run" in said and len(said) < 300
    visitor.look()
    assert len(visitor.fire("files", data={"name": trick})["said"]) < 300
    for place in (
        f"runs/{trick}/files/run.json",
        f"runs/20261122-142501-a3f9c1/files/{trick}",
        f"lab/x/files/{trick}",
        f"past/{trick}/",
    ):
        with contextlib.suppress(httpx.InvalidURL):
            answer = visitor.client.get(place)
            assert answer.status_code in (404, 307, 200) and b"root:" not in answer.content and b'"owner' not in answer.content


def test_of_gradio_only_what_the_page_uses_is_reached(client: httpx.Client, site: Site) -> None:
    source = inspect.getsource(gradio.routes)
    found = re.findall(r"@(app|router)\.(?:get|post|head)\(\s*f?\"([^\"]+)\"", source)
    paths = {("/gradio_api" if kind == "router" else "") + re.sub(r"\{[^}]*\}", "x", path) for kind, path in found}
    used = re.compile(
        r"/|/config|/theme.css|/favicon.ico|/manifest.json|/robots.txt|/(assets|static)/x"
        r"|/gradio_api/(run/x|upload|upload_progress|heartbeat/x|startup-events|app_id)"
    )
    refused = {path for path in paths if not used.fullmatch(path)}
    assert len(refused) > 50 and {"/gradio_api/deep_link", "/gradio_api/queue/join", "/gradio_api/proxy=x"} <= refused
    for path in sorted(refused):
        for method in ("GET", "POST"):
            assert client.request(method, path.lstrip("/")).status_code == 404, path


def test_other_sites_press_no_buttons(visitor: Visitor, site: Site) -> None:
    visitor.fill(Prompt="from elsewhere")
    before = len(site.manager.runs())
    visitor.client.headers["sec-fetch-site"] = "cross-site"
    try:
        assert visitor.post("run").status_code == 403 and len(site.manager.runs()) == before
        assert visitor.client.get("").status_code == 200  # a link from elsewhere is welcome
    finally:
        del visitor.client.headers["sec-fetch-site"]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    """A picture whose text, small enough to be looked at, unpacks to 400 MB."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(400)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + chunk(b"iTXt", b"dreamerxl\0\1\0\0\0" + packed)


def box(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", 8 + len(data)) + name + data


UPLOADS = {
    "pickle.png": PICKLE,
    "bomb.png": bomb(),
    "endless.png": b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", b"") * 200_000,
    "nothing.ply": b"",
    "huge.ply": b"ply\nformat ascii 1.0\n" + b"comment " * 2_000_000,
    "deep.html": b'<script type="application/json" id="dreamerxl">' + b"[" * 100_000 + b"</script>",
    "tag.html": b'<script type="application/json" id="dreamerxl">{"settings": {"!!python/object:os.system": "x"}}</script>',
    "lying.glb": b"glTF" + struct.pack("<III4s", 2, 10**9, 4 * 10**9, b"JSON"),
    "nested.mp4": box(b"ftyp", b"isom") + box(b"moov", box(b"udta", box(b"meta", box(b"ilst")))) * 10_000,
    "zip.png": b"PK\3\4" + bytes(1000),
}


@pytest.mark.parametrize("name", list(UPLOADS))
def test_uploads_of_another_kind_are_refused(name: str, visitor: Visitor, tmp_path: Path) -> None:
    mark = tmp_path / "touched"
    content = UPLOADS[name].replace(b"%s", str(mark).encode())
    sent = visitor.client.post("gradio_api/upload", files={"files": (f"../../<b>{name}", content)})
    where = Path(sent.raise_for_status().json()[0])
    assert where.name == f"b{name}" and ".." not in where.parts
    assert 'role="alert"' in drop(visitor, {"path": str(where)})
    assert not mark.exists()


@pytest.mark.parametrize("name", list(UPLOADS))
def test_no_upload_takes_more_memory_than_a_few_times_what_is_read_of_it(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(UPLOADS[name])
    tracemalloc.start()
    try:
        with pytest.raises(DreamerError):
            settings_of(read_about(tmp_path / name))
        assert tracemalloc.get_traced_memory()[1] < 40 * LONGEST
    finally:
        tracemalloc.stop()


def drop(visitor: Visitor, file: Any) -> str:
    key = next(k for k, entry in visitor.components.items() if entry["props"].get("elem_id") == "dropped")
    visitor.values[key] = {**file, "meta": {"_type": "gradio.FileData"}}
    answer = visitor.post("dropped", "upload").json()
    return answer["data"][0] if "data" in answer else str(answer["error"])


def test_a_file_is_one_that_was_sent(visitor: Visitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither files of this machine nor what lies at an address."""
    (tmp_path / "mine.png").write_bytes(b"secret")
    asked: list[Any] = []
    monkeypatch.setattr(httpx.AsyncClient, "get", lambda *arguments, **_: asked.append(arguments))
    assert "settings of this file" not in (told := drop(visitor, {"path": str(tmp_path / "mine.png")})) and "secret" not in told
    assert "not named by its address" in drop(visitor, {"path": "http://203.0.113.1/large.png"})
    visitor.values[next(k for k, e in visitor.components.items() if e["props"].get("label") == "Prompt")] = {
        "path": "https://203.0.113.1/large.png",
        "meta": {"_type": "gradio.FileData"},
    }
    assert "not named by its address" in visitor.post("run").json()["error"]
    assert asked == []
    large = visitor.client.post("gradio_api/upload", files={"files": ("large.png", bytes(65 * 2**20))})
    assert large.status_code == 413


def test_uploads_do_not_fill_the_disk(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(size: int = 2**20) -> bool:
        with contextlib.suppress(httpx.ReadError, httpx.WriteError):  # answered and closed before all of it was sent
            answer = visitor.client.post("gradio_api/upload", files={"files": ("a.png", bytes(size))})
            assert answer.is_success or (answer.status_code == 507 and "too many uploads" in answer.text)
            return answer.is_success
        return False

    monkeypatch.setattr(patience, "UPLOADED_S", 0.0)
    assert taken()
    monkeypatch.setattr(patience, "UPLOADED_S", 3600.0)
    monkeypatch.setattr(patience, "MOST_UPLOADED", 3 * 2**20)
    assert [taken(), taken(), taken(), taken(100)] == [True, True, False, False]  # the first was a moment ago
    monkeypatch.setattr(patience, "UPLOADED_S", 0.0)
    assert taken()


def nonsense(chance: random.Random, depth: int = 0) -> Any:
    plain = [None, True, -1, 10**30, 1.5, "", "tsm", EVIL, "../x", "\0", "1e999", [], {}, "é" * 3000, {"__type__": "update"}]
    if depth < 3 and chance.random() < 0.3:
        inside = [nonsense(chance, depth + 1) for _ in range(3)]
        return inside if chance.random() < 0.5 else dict(zip(("path", "value", "name"), inside, strict=True))
    return chance.choice(plain)


def test_nonsense_at_every_handler_leaves_the_page_as_it_was(visitor: Visitor, site: Site) -> None:
    """No trace leaves, nothing hangs, and afterwards a run is made as before."""
    chance, codes = random.Random(20261125), dict[int, int]()
    handlers = visitor.config["dependencies"]
    for turn in range(2):
        for entry in handlers:
            data = [nonsense(chance) for _ in entry["inputs"]] if turn % 2 else [visitor.values.get(k) for k in entry["inputs"]]
            if turn % 2 == 0 and data:
                data[chance.randrange(len(data))] = nonsense(chance)
            body = {"fn_index": entry["id"], "session_hash": visitor.session, "data": data[: chance.choice([len(data), 1])]}
            answer = visitor.client.post("gradio_api/run/predict", json={**body, "event_data": {"name": nonsense(chance)}})
            codes[answer.status_code] = codes.get(answer.status_code, 0) + 1
            assert not TRACE.search(answer.text.replace(".png", "")), answer.text[:500]
    print(f"{2 * len(handlers)} events: {codes}")
    for run in [*site.manager.queue(), *filter(None, [site.manager.current()])]:
        site.manager.stop(run.id)
    wait_until(lambda: site.manager.current() is None)
    after = Visitor(visitor.client)
    after.fill(Prompt="a red ball", Iterations=3)
    assert after.press("run") == ""
    wait_until(lambda: "Done" in (status := after.look()["status"]) and "a red ball" in status)
