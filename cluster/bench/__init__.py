"""`o3rl bench …`: what the parts cost on this machine."""
