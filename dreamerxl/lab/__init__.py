"""The paper lab: figures, metrics and sweeps that put each claim of the paper to the test, on any model."""
