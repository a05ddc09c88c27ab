"""Runs: a queue, one training thread, snapshots that come up from it and the folder that each run leaves."""
