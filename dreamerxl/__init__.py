"""Text to 3D by trajectory score matching: the system of the Dreamer XL paper, live in a browser."""

import os

# Threads that spin long while they wait slow everything down as soon as a browser or a second run shares the cores.
# OpenMP reads this when it is loaded, that is with torch; GNU's runtime spins a little, for what comes within microseconds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__version__ = "0.1.0"
