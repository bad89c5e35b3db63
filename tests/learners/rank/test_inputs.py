"""What the learner reads, and which groups it refuses, with the reason."""

from dataclasses import replace

import numpy as np
import pytest

from learners.model.packing import Segment
from learners.rank.inputs import Reader
from o3rl.media.decoder import MediaError
from o3rl.types import Failure, FramePlan


def test_a_group_as_sampled_is_read(reader, groups, fetch):
    segment = reader.group(groups[0].group, fetch)
    assert isinstance(segment, Segment)
    assert tuple(segment.prompt.tokens_P.tolist()) == groups[0].group.prompt_tokens_T
    assert segment.completions_G == tuple(r.tokens_T for r in groups[0].group.rollouts_G)


def test_one_image_token_for_four_patches(reader, groups, fetch):
    segment = reader.group(groups[0].group, fetch)
    images = (segment.prompt.tokens_P == reader.config.image_token_id).sum()
    # Two frames of 56×56 px: 2 · (56/28)² tokens, four patches each.
    assert images == 8
    assert len(segment.prompt.pixels_ND) == 32


def test_positions_go_on_after_an_image_by_its_longer_side(reader, groups, fetch):
    # An image of 2×2 tokens takes 4 places but 2 positions: each of the two frames saves 2.
    segment = reader.group(groups[0].group, fetch)
    last = int(segment.prompt.positions_3P.max())
    assert last == len(segment.prompt.tokens_P) - 1 - 2 * 2


def failure(outcome: Segment | Failure) -> Failure:
    assert isinstance(outcome, Failure), outcome
    return outcome


def test_other_pixels_are_refused(reader, groups, frames):
    changed = {key: value ^ 1 for key, value in frames.items()}
    found = failure(reader.group(groups[0].group, changed.__getitem__))
    assert found.reason.startswith("frames differ: ")
    assert groups[0].group.frames_digest in found.reason


def test_other_prompt_tokens_are_refused_by_place(reader, groups, fetch):
    tokens = list(groups[0].group.prompt_tokens_T)
    tokens[5] += 1
    found = failure(reader.group(replace(groups[0].group, prompt_tokens_T=tuple(tokens)), fetch))
    assert "prompt tokens differ from place 5 on" in found.reason


@pytest.mark.parametrize("name", ["image_token_id", "video_token_id"])
def test_placeholders_in_a_completion_are_refused(reader, groups, fetch, name):
    group = groups[0].group
    tokens_T = (7, getattr(reader.config, name))
    bad = replace(group.rollouts_G[1], tokens_T=tokens_T, logprobs_T=(-1.0, -1.0))
    rollouts = (group.rollouts_G[0], bad, *group.rollouts_G[2:])
    found = failure(reader.group(replace(group, rollouts_G=rollouts), fetch))
    assert found.sample == 1
    assert f"placeholder {name}" in found.reason


@pytest.mark.parametrize("error", [MediaError("video.mp4", "no readable video"), TimeoutError("x")])
def test_missing_frames_are_refused(reader, groups, error):
    def fetch(_: str) -> np.ndarray:
        raise error

    assert failure(reader.group(groups[0].group, fetch)).reason == f"frames: {error}"


def test_too_long_a_completion_is_refused(groups, fetch, reader):
    short = replace(reader, max_tokens=len(groups[0].group.prompt_tokens_T))
    found = failure(short.group(groups[0].group, fetch))
    assert "exceed learning.tokens_per_pass" in found.reason


def test_frames_that_the_processor_would_resize_are_our_bug(reader: Reader, prompts):
    odd = replace(prompts[0], plan=FramePlan((0,), (0.0,), (60, 56), 1.0))
    with pytest.raises(AssertionError, match="resized frames of 56×60 px"):
        reader.prompt(odd, np.zeros((1, 56, 60, 3), np.uint8))


def test_a_row_teaches_its_target_and_the_end_of_the_turn(reader, prompts, fetch):
    segment = reader.row(prompts[0], fetch)
    tokenizer = reader.processor.tokenizer
    [completion] = segment.completions_G
    assert completion[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(completion[:-1]) == (
        "<think>red square at<t>1.0</t>s to<t>2.0</t>s</think>\n"
        "<answer>From <t>1.0</t>s to <t>2.0</t>s</answer>"
    )
