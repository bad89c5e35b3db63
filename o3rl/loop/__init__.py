"""The training loop, against protocols: admit, sample, score, learn, hand over, observe."""
