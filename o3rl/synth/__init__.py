"""A small world of moving coloured shapes: videos, questions, answers, reasoning in STGR form."""
