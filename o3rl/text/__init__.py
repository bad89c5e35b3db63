"""What the model is asked and what it writes: prompts, the output grammar, boxes, truth."""
