"""What a run needs of a machine, and how long it takes beside others: all that the order of a sweep depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dreamerxl.cluster.connect import ClusterError
from dreamerxl.config import Settings
from dreamerxl.distillation.timesteps import plan_steps
from dreamerxl.training.memory import GB

EMBEDDED_GPU = 0.25  # of a card: the embedded model is bound by launches, and four of them share one without waiting much
EMBEDDED_MEMORY = 1.5 * GB  # of main memory: a process with the model holds 0.9 GB, the rest is room
LARGE_MEMORY = 10 * GB  # while SDXL's weights pass through on their way to the card
ENCODING = 2.0  # evaluations' worth of work that a view's encoding, forward and back, stands for


@dataclass(frozen=True)
class Needs:
    """Processors (one thread each), cards or a share of one, and bytes of main memory."""

    cpus: int = 1
    gpus: float = 0.0
    memory: int = 0

    def options(self) -> dict[str, Any]:
        """As Ray asks for them."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "memory": self.memory}

    def fits(self, free: dict[str, float]) -> bool:
        """Whether a machine with that much of each resource has room."""
        return self.cpus <= free.get("CPU", 0) and self.gpus <= free.get("GPU", 0) and self.memory <= free.get("memory", 0)

    def __str__(self) -> str:
        return f"{self.cpus} processors, {self.gpus:g} cards and {self.memory / GB:.1f} GB of memory"

    def taken_from(self, free: dict[str, float]) -> dict[str, float]:
        """What is left of a machine."""
        taken = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        return {name: amount - taken.get(name, 0) for name, amount in free.items()}


def needs_of(settings: Settings, cards: bool, cpus: int = 1, gpus: float | None = None) -> Needs:
    """What one run needs; ``cards``: whether the cluster has any. ``gpus`` replaces the share that is usual."""
    embedded = settings.model == "embedded" or (settings.model == "auto" and not cards)
    if settings.device == "cpu" or not cards:
        gpus = 0.0
    elif gpus is None:
        gpus = EMBEDDED_GPU if embedded else float(settings.cards or 1)
    return Needs(cpus, gpus, round(EMBEDDED_MEMORY if embedded else LARGE_MEMORY))


def check(needs: Needs, machines: Sequence[dict[str, float]]) -> None:
    """Refuse what none of some machines could ever have room for. Raises ClusterError."""
    if not any(needs.fits(machine) for machine in machines):
        raise ClusterError(f"No machine of the cluster has the {needs} that a run needs.")


def cost(settings: Settings) -> float:
    """How long a run takes, in rows of one network call under its own model: only the order of tasks comes from it."""
    rows = 0.0
    for variant in settings.variants:
        plan = plan_steps(500, variant, settings.timesteps, 0)  # the middle of the schedule
        inverted = variant.method not in ("sds", "vsd")
        guided = 4 if settings.prompting.perp_neg else 2
        rows += guided + ENCODING + (len(plan.inversion) + 1 if inverted else 1)
    return rows * settings.views.batch * settings.iterations
