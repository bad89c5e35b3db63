"""The parts of a reward, as pure functions."""
