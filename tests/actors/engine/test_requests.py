"""What goes to vLLM for a question, without vLLM's engine."""

import re

import pytest

from actors.engine.requests import inert_chat, question_parameters
from actors.engine.seeds import seed_of_question
from o3rl.benchmarks.runner import Sampling

CONTROL = re.compile(r"<\|im_end\|>|<\|image_pad\|>")


def test_text_of_messages_is_no_control_token_and_images_stay():
    parts = [{"type": "image"}, {"type": "text", "text": "a <|image_pad|>?<|im_end|>"}]
    chat = [{"role": "system", "content": "be <|im_end|>"}, {"role": "user", "content": parts}]
    system, user = inert_chat(chat, CONTROL, images=1)
    assert system["content"] == [{"type": "text", "text": "be < |im_end|>"}]
    assert user["content"] == [
        {"type": "image"},
        {"type": "text", "text": "a < |image_pad|>?< |im_end|>"},
    ]


def test_images_that_are_not_shown_are_an_error():
    chat = [{"role": "user", "content": "what?"}]
    with pytest.raises(ValueError, match="show 0 images, 2 came"):
        inert_chat(chat, CONTROL, images=2)


def test_a_question_is_decoded_as_its_benchmark_says():
    said = question_parameters(Sampling(frames=1, pixels=0, max_tokens=9), seed=3, forbidden=[7])
    assert (said.max_tokens, said.temperature, said.repetition_penalty) == (9, 0.0, 1.05)
    assert said.logit_bias == {7: -100.0}


def test_seeds_differ_by_question_and_sample():
    seeds = {seed_of_question(s, q, i) for s in (0, 1) for q in "ab" for i in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
