"""A cable between a browser and the server that a test can cut, at any moment, and mend."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator


class Cable:
    """Forwards connections to a port of this machine. While it is cut none comes through, and those there were are reset."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.is_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset everything that is open and let nothing through until it is mended."""
        self.is_cut = True
        self.snap()

    def mend(self) -> None:
        self.is_cut = False

    def snap(self) -> int:
        """Reset everything that is open; what comes next goes through. Returns how many connections that were."""
        with self._lock:
            torn, self._open = self._open, set()
        for one in torn:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        return len(torn) // 2

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                browser, _ = self._listener.accept()
                if self.is_cut:
                    browser.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._to))
                with self._lock:
                    self._open |= {browser, server}
                for here, there in ((browser, server), (server, browser)):
                    threading.Thread(target=self._carry, args=(here, there), daemon=True).start()

    def _carry(self, here: socket.socket, there: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := here.recv(65536):
                there.sendall(data)
        for one in (here, there):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {here, there}


@contextlib.contextmanager
def cable_to(address: str) -> Iterator[tuple[Cable, str]]:
    """A cable to the server at http://127.0.0.1:PORT/, and the address of its other end."""
    made = Cable(int(address.rstrip("/").rpartition(":")[2]))
    try:
        yield made, f"http://127.0.0.1:{made.port}/"
    finally:
        made.close()
