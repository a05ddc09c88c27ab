"""The catalogue of objects: each has a front (+x), sides and a back that differ, and parts that take the prompt's colour."""

from dreamerxl.miniature.objects import animals, buildings, food, headgear, household, outdoors, toys, vehicles
from dreamerxl.miniature.objects.figure import OBJECTS, Ball, Draw, Figure, Kind

__all__ = [
    "OBJECTS",
    "Ball",
    "Draw",
    "Figure",
    "Kind",
    "animals",
    "buildings",
    "food",
    "headgear",
    "household",
    "outdoors",
    "toys",
    "vehicles",
]
