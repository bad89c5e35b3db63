"""Texts that no model should write, over and over: what a parser could take squared time for."""

HOSTILE = {
    "open objects": "<obj>",
    "objects": "<obj>x</obj>",
    "box heads": "<obj>x</obj><box>[",
    "box heads and lines": "<box>[\n",
    "boxes": "<box>[1]</box>",
    "claims without a time": "<obj>x</obj><box>[1]</box>",
    "times never closed": "<obj>x</obj><box>[1]</box>at<t>",
    "claims": "<obj>x</obj><box>[1]</box>at<t>1</t>s",
    "digits": "1",
    "times": "<t>1</t>s to ",
    "open answers": "<answer> ",
    "blanks": " ",
}


def hostile(piece: str, length: int) -> str:
    """A thought and an answer of `piece` over and over, `length` characters in all."""
    body = piece * (length // (2 * len(piece)))
    return f"<think>{body}</think><answer>{body}</answer>"
