"""Frames: which ones of a video, decoded within limits, kept by content."""
