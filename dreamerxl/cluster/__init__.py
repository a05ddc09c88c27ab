"""Beyond one machine, on Ray: sweeps, and runs of the queue that train elsewhere. An extra; only here is ray imported."""
