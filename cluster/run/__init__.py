"""Whole runs: train, SFT, evaluate, answer; the controller and who watches it."""
