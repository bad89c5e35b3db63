"""All ranks together."""
