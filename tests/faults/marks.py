"""What a row's question can ask of the stand-in engine; light to import."""

DIES = "[kills the replica]"
EMPTY = "[empty completions]"
OVERFLOWS = "[ratio overflows]"  # and with it the gradient
