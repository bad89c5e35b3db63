"""Learning: the policy, GSPO and SFT objectives, the DeepSpeed ranks, and their weights."""
