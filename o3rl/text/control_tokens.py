"""Text of a row that a tokenizer would read as its control tokens, made inert.

`<|im_end|>` in a question would end the turn, `<|image_pad|>` ask for a picture that is not there.
A blank behind the first character makes such a word plain text: `< |im_end|>`. Import knows no
tokenizer and takes the forms that such tokens have; where a prompt is made, the tokens are those of
its tokenizer. The tags of our own grammar are text, whatever a tokenizer says.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from o3rl.types import KeyFrame, Row

OURS = {f"<{slash}{tag}>" for tag in ("think", "answer", "obj", "box", "t") for slash in ("", "/")}
# `<|…|>` of most families, DeepSeek's wide bars, and words that families use without bars.
USUAL = re.compile(
    r"<[|｜][^<>|｜\s]{1,60}[|｜]>"
    r"|</?(?:s|pad|unk|bos|eos|sep|cls|mask|image|img|video|audio|im_start|im_end|im_patch|"
    r"(?:start|end)_of_(?:turn|image|video|audio)|image_soft_token|IMG_CONTEXT|tool_call|"
    r"tool_response)>|\[/?INST\]|\[IMG(?:_BREAK|_END)?\]|<<?/?SYS>>?"
)

Inert = Callable[[str], str]


def inert(text: str, control: re.Pattern[str] = USUAL) -> str:
    """The text with no match of `control` in it."""
    while control.search(text):
        text = control.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    return text


def inert_row(row: Row, control: re.Pattern[str] = USUAL) -> Row:
    """The row with every text that a model reads or learns made inert; the same if none is not."""
    words = [row.question, row.reasoning or "", row.truth.text]
    words += [name for frame in row.truth.key_frames for name, _ in frame.objects]
    if not control.search("\n".join(words)):
        return row
    truth = replace(
        row.truth,
        text=inert(row.truth.text, control),
        key_frames=tuple(_inert_names(frame, control) for frame in row.truth.key_frames),
    )
    reasoning = None if row.reasoning is None else inert(row.reasoning, control)
    question = inert(row.question, control)
    return replace(row, question=question, reasoning=reasoning, truth=truth)


def control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """The special tokens of a Hugging Face tokenizer, and the usual forms."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special = {str(token.content) for token in added if token.special}
    return _pattern(special | set(map(str, getattr(tokenizer, "all_special_tokens", ()))))


def _pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    own = sorted((t for t in tokens if len(t) > 1 and t not in OURS), key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, own), USUAL.pattern]))


def _inert_names(frame: KeyFrame, control: re.Pattern[str]) -> KeyFrame:
    return replace(
        frame, objects=tuple((inert(name, control), boxes) for name, boxes in frame.objects)
    )
