"""Geometry first, appearance after: Fantasia3D's order (Chen et al., 2023) on Gaussians, as a schedule of two stages.

Fantasia3D makes a shape from its normals and then textures it. Here the first ``losses.geometry_iterations`` guide the
depth alone and leave the colours as they are; with ``losses.hold_geometry`` the rest guides the colours alone and leaves
the shape. Without it the second stage is training as usual.
"""

from __future__ import annotations

from dataclasses import dataclass

from dreamerxl.config import Losses

GEOMETRY = frozenset({"means", "scales", "quats", "opacities"})
APPEARANCE = frozenset({"sh0"})


@dataclass(frozen=True)
class Stage:
    """What an iteration guides (None: by chance, see losses.depth_ratio) and which parameters it leaves as they are."""

    depth: bool | None = None
    held: frozenset[str] = frozenset()


def stage_of(losses: Losses, iteration: int) -> Stage:
    """The stage of an iteration, counted from 0."""
    if iteration < losses.geometry_iterations:
        return Stage(True, APPEARANCE)
    if losses.geometry_iterations and losses.hold_geometry:
        return Stage(False, GEOMETRY)
    return Stage()
