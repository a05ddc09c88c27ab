"""One lockstep iteration of all sides of a run, and its checkpoints."""
