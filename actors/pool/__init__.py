"""All rollout replicas: where they are, their states, who gets the next prompt."""
