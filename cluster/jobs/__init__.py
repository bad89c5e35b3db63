"""Runs as Ray jobs: submit, status, logs, scale, stop."""
