"""`o3rl plan`: where a run would go, its memory, disk and steps, and what is wrong with it."""
