"""Five benchmarks of video models: data, questions, readers, measures; a judge, and voting."""
