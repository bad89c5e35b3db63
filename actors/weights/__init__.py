"""New weights into an engine: by files of the node, or from the learner's device."""
