"""Running: topology, wiring, supervision, and the command line."""
