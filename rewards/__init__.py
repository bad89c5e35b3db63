"""Scoring: reward parts as pure functions, profiles of them, the scorer and its pool."""
