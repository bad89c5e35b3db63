"""Sampling: the rollout engine on vLLM, its weights, and the replicas that serve it."""
