"""How good a model is, and the pages that show its evidence."""
