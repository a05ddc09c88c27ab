"""The one door to Ray: joins a cluster, or starts one of this machine alone, and says in a sentence why that cannot be.

``ray`` has types that mean little here; it is handed on as Any.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from dreamerxl.errors import DreamerError

KNOCK_S = 10.0
INSTALL = "pip install -r requirements-cluster.txt"


class ClusterError(DreamerError):
    """There is no Ray, no cluster at an address, or it has not what a run needs."""


def connect(address: str | None = None) -> Any:
    """Ray's module, joined to the cluster at an address (HOST:PORT, ray://HOST:PORT, or auto for the one of this machine); None
    starts one of this machine's processors and cards. A cluster that is joined already is kept. Raises ClusterError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # a run without a share of a card sees none
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # what is asked after the end must not begin a cluster
    try:
        import ray
    except ImportError:
        raise ClusterError(f"Ray is not installed; {INSTALL}.") from None
    module: Any = ray
    if module.is_initialized():
        return module
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            module.init(include_dashboard=False, **quiet)
        else:
            if address != "auto":
                knock(address)
            module.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        where = "on this machine" if address in (None, "auto") else f"at {address!r}"
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ClusterError(f"There is no Ray cluster {where}: {said}. 'ray start --head' starts one.") from None
    return module


def knock(address: str) -> None:
    """Whether anybody listens at an address; Ray itself would wait for minutes. Raises OSError or ValueError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


def machines(ray: Any) -> list[dict[str, float]]:
    """What each living machine of the cluster has: CPU, GPU, memory in bytes."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
