"""Behind nginx, under a path, TLS ended there: page, socket and downloads work, with the configuration of the docs."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
import viser
from browser import growing_trainer, serving
from visitor import Visitor, wait_until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from dreamerxl.config import load_preset
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.worker import Pace
from dreamerxl.web.door import COOKIE, Door
from dreamerxl.web.offer import Offer
from dreamerxl.web.serve import Site, make_site

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
GUIDE = Path(__file__).parent.parent / "docs" / "deployment.md"
PATH = "/dreamerxl"
PROTOCOL = [f"viser-v{viser.__version__}"]

pytestmark = pytest.mark.skipif(NGINX is None or shutil.which("openssl") is None, reason="nginx or openssl is not installed")


@dataclass
class Proxy:
    """Where a browser finds the site, and whom it trusts."""

    address: str  # https://127.0.0.1:PORT/dreamerxl/
    trust: ssl.SSLContext

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, verify=self.trust, trust_env=False, timeout=30)

    def socket(self, path: str, **options: object) -> contextlib.AbstractContextManager:
        where = f"wss{self.address[5:]}{path}"
        return connect(where, ssl=self.trust, subprotocols=PROTOCOL, proxy=None, max_size=None, **options)  # type: ignore[arg-type]


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


def documented(upstream: int, port: int, folder: Path) -> str:
    """The configuration that the guide shows, with this machine's ports and certificate."""
    shown = re.search(r"```nginx\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[1]  # type: ignore[index]
    for before, after in (
        ("127.0.0.1:7860", f"127.0.0.1:{upstream}"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/certs/example.org.pem", f"{folder}/certificate.pem"),
        ("/etc/ssl/private/example.org.key", f"{folder}/key.pem"),
    ):
        assert before in shown
        shown = shown.replace(before, after)
    return shown


@contextlib.contextmanager
def nginx_before(address: str, folder: Path) -> Iterator[Proxy]:
    """nginx with the documented configuration before a served site."""
    port = free_port()
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "certificate.pem"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject, *files],
        check=True,
        capture_output=True,
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    server = documented(int(address.rstrip("/").rpartition(":")[2]), port, folder)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off;\n{temporary}{server}}}\n"
    )
    process = subprocess.Popen([str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.PIPE)
    try:

        def listens() -> bool:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
            return False

        wait_until(listens)
        yield Proxy(f"https://127.0.0.1:{port}{PATH}/", ssl.create_default_context(cafile=str(folder / "certificate.pem")))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def site_under(path: str, folder: Path) -> Site:
    manager = RunManager(folder, growing_trainer(0.02), pace=Pace(snapshot_seconds=0.2))
    return make_site(manager, Offer(load_preset("mushroom"), model_line="a stand-in model"), path)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    site = site_under(PATH, tmp_path_factory.mktemp("runs"))
    with serving(site) as address, nginx_before(address, tmp_path_factory.mktemp("nginx")) as found:
        yield found


def test_the_page_and_all_that_it_names_come_from_under_the_path(proxy: Proxy) -> None:
    with proxy.client() as browser:
        moved = browser.get(proxy.address.rstrip("/"))
        assert moved.status_code == 301 and moved.headers["location"] == proxy.address
        page = browser.get("")
        assert page.status_code == 200
        names = set(re.findall(r'(?:href|src)="([^"#]+)"', page.text))
        named = {urljoin(proxy.address, name) for name in names if not name.startswith("data:")}
        here = {
            name for name in named if name.startswith("https://127.0.0.1") and not name.endswith("/manifest.json")
        }  # Gradio's own
        assert len(here) >= 3 and all(name.startswith(proxy.address) for name in here), here
        for name in here:
            assert browser.get(name).status_code == 200, name
        assert browser.get("config").json()["root"] == proxy.address.rstrip("/")
        assert browser.get("healthz").json() == {"status": "ok"}
        moved = browser.get("viewer?initialCameraFov=1")
        assert urljoin(str(moved.url), moved.headers["location"]) == f"{proxy.address}viewer/?initialCameraFov=1"
        view = browser.get("viewer/")
        for name in re.findall(r'(?:href|src)="([^"#:]+)"', view.text):
            found = browser.get(urljoin(str(view.url), name))
            assert found.status_code == 200 and str(found.url).startswith(proxy.address), name


@pytest.mark.parametrize("path", ["viewer", "viewer/"])
def test_the_socket_of_the_view_passes(path: str, proxy: Proxy) -> None:
    with proxy.socket(path) as view:
        assert view.subprotocol == PROTOCOL[0] and len(view.recv(timeout=20)) > 10_000  # the first points


def test_a_run_is_made_and_taken_away(proxy: Proxy) -> None:
    with proxy.client() as browser:
        visitor = Visitor(browser)
        visitor.fire("arrive", "load")
        visitor.fill(Prompt="a red ball", Iterations=30)
        with proxy.socket("viewer/") as view:
            assert visitor.press("run") == ""
            wait_until(lambda: "Done" in visitor.look()["status"])
            scenes = [view.recv(timeout=20) for _ in range(2)]  # the dust, then what became of it
            assert min(map(len, scenes)) > 2 * 1500 * 32 and scenes[0] != scenes[1]
        files = wait_until(lambda: "0-ism.ply" in (shown := visitor.look()["files"]) and shown)
        link = re.search(r'href="(runs/[^"]+/0-ism\.ply)"', files)[1]  # type: ignore[index]
        whole = browser.get(link)
        assert whole.content.startswith(b"ply\n") and "attachment" in whole.headers["content-disposition"]
        part = browser.get(link, headers={"range": "bytes=0-99"})
        assert part.status_code == 206 and part.content == whole.content[:100]
        sheet = wait_until(lambda: (found := browser.get(link.replace("0-ism.ply", "contact-sheet.png"))).is_success and found)
        upload = browser.post("gradio_api/upload", files={"files": ("sheet.png", sheet.content)})
        key = next(k for k, entry in visitor.components.items() if entry["props"].get("elem_id") == "dropped")
        visitor.values[key] = {"path": upload.json()[0], "meta": {"_type": "gradio.FileData"}}
        visitor.fill(Prompt="something else")
        told = visitor.fire("dropped", "upload")
        assert "settings of this file" in told["said"] and told["Prompt"] == "a red ball"


def test_the_door_behind_the_proxy(tmp_path: Path) -> None:
    site = site_under(PATH, tmp_path / "runs")
    object.__setattr__(site, "app", Door(site.app, "ada", "a long phrase", PATH))
    (tmp_path / "nginx").mkdir()
    with serving(site) as address, nginx_before(address, tmp_path / "nginx") as proxy, proxy.client() as browser:
        with pytest.raises(InvalidStatus, match="403"), proxy.socket("viewer/"):
            pass
        asked = browser.get("viewer/", headers={"accept": "text/html"})
        action = re.search(r'action="([^"]+)"', asked.text)[1]  # type: ignore[index]
        assert asked.status_code == 401 and urljoin(str(asked.url), action) == f"{proxy.address}login"
        answer = browser.post("login", data={"user": "ada", "password": "a long phrase"})
        assert urljoin(str(answer.url), answer.headers["location"]) == proxy.address
        assert {"Secure", f"Path={PATH}/"} <= set(answer.headers["set-cookie"].split("; "))
        assert browser.get("config").status_code == 200
        with proxy.socket("viewer/", additional_headers={"Cookie": f"{COOKIE}={browser.cookies[COOKIE]}"}) as view:
            assert view.recv(timeout=20)
