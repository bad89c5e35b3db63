"""The learner's weights on their way out: export, publishing, checkpoints."""
