"""One DeepSpeed rank: rows, passes, losses, steps."""
