"""The domain and the loop of o3rl: no Ray, no vLLM, no DeepSpeed is imported below here."""

__version__ = "0.1.0"
