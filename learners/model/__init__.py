"""The policy: its architecture, attention over shared prompts, sizes and costs."""
