"""One rollout replica: the vLLM engine, its requests and processes."""
