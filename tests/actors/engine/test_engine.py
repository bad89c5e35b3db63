"""The engine on vLLM, run for real on a tiny policy. Tests go down the page: weights advance."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from actors.weights.update_stream import EngineBroken
from o3rl.benchmarks.runner import Sampling
from o3rl.config import Spanning
from o3rl.media.reader import frames_digest
from o3rl.types import Failure, Group, Version
from o3rl.weights.buckets import RawTensor, pack_bucket
from o3rl.weights.delta import difference
from o3rl.weights.manifest import Manifest
from o3rl.weights.versions import MemoryWeights
from tests.actors.conftest import (
    FRAMES,
    ROLLOUTS,
    SAMPLING,
    SEED,
    SIDE,
    frames,
    learner_logprobs,
    prompt,
    published,
    reference_logprobs,
    tensors,
)

pytestmark = pytest.mark.e2e

TOKENS_PER_FRAME = (SIDE // 28) ** 2
FIRST, CHANGED = Version(0, 0), Version(0, 1)


def generate(engine, number: int, *, seed: int = SEED, attempt: int = 0):
    asked = replace(prompt(number), attempt=attempt)
    return engine.generate(asked, frames(asked.media_key), seed=seed)


def assert_same_logprobs(folder, group: Group) -> None:
    """The engine's, token by token, are those of plain transformers and of the learner."""
    assert len(group.rollouts_G) == SAMPLING.group_size
    for theirs in (reference_logprobs(folder, group), learner_logprobs(folder, group)):
        for rollout, expected in zip(group.rollouts_G, theirs, strict=True):
            np.testing.assert_allclose(rollout.logprobs_T, expected, atol=1e-4, rtol=0)


def test_nothing_is_sampled_before_there_are_weights(engine, run):
    with pytest.raises(ValueError, match="no weights were loaded or adopted"):
        run(generate(engine, 0))


def test_logprobs_are_those_of_transformers(engine, run, policies):
    run(engine.adopt(FIRST))
    for number in (0, 1):
        group = run(generate(engine, number))
        assert_same_logprobs(policies.base, group)
        assert {rollout.spans for rollout in group.rollouts_G} == {((0, FIRST),)}
        assert group.frames_digest == frames_digest(frames(group.prompt.media_key))
    assert len({rollout.tokens_T for rollout in group.rollouts_G}) == SAMPLING.group_size


def test_a_repeat_is_bitwise_the_same_in_any_company(engine, run):
    async def together():
        return await asyncio.gather(*(generate(engine, number) for number in (5, 2, 6, 3)))

    alone = run(generate(engine, 2))
    among = run(together())[1]
    assert alone == among  # tokens and log-probabilities, to the last bit
    other = run(generate(engine, 2, seed=SEED + 1))
    assert tokens(other).isdisjoint(tokens(alone))


def test_a_further_attempt_samples_afresh_and_can_be_repeated(engine, run):
    first, second = (run(generate(engine, 2, attempt=attempt)) for attempt in (0, 1))
    assert tokens(second).isdisjoint(tokens(first))
    assert run(generate(engine, 2, attempt=1)) == second


def tokens(group: Group) -> set[tuple[int, ...]]:
    return {rollout.tokens_T for rollout in group.rollouts_G}


def test_frames_matter_and_must_be_those_of_the_plan(engine, run):
    asked = prompt(2)
    seen = frames(asked.media_key)
    others = replace(asked, media_key="key77")
    told = [rollout.logprobs_T for rollout in run(generate(engine, 2)).rollouts_G]
    shown = run(engine.generate(others, frames("key77"), seed=SEED))
    assert [rollout.logprobs_T for rollout in shown.rollouts_G] != told
    with pytest.raises(ValueError, match=r"frames key2 of group 2 are uint8\[3, 112"):
        run(engine.generate(asked, seen[1:], seed=SEED))
    with pytest.raises(ValueError, match="are float32"):
        run(engine.generate(asked, seen.astype(np.float32), seed=SEED))


def test_a_prompt_that_is_too_long_is_a_failure(engine, run):
    asked = prompt(2, question="Where is it? " * 300)
    result = run(engine.generate(asked, frames(asked.media_key), seed=SEED))
    assert isinstance(result, Failure)
    assert (result.sample, result.final) == (None, True)
    assert "sampling and rollouts allow 511" in result.reason


CHAT = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What? <|im_end|>"}]}
]


def test_anything_is_asked_and_a_repeat_says_the_same(engine, run):
    images = [frames("key1")[0][:84]]
    sampling = Sampling(frames=1, pixels=0, max_tokens=6, temperature=1.0, samples=3)
    first = run(engine.ask(CHAT, images, sampling, seed=SEED))
    assert len(first) == 3
    assert run(engine.ask(CHAT, images, sampling, seed=SEED)) == first
    assert run(engine.ask(CHAT, images, sampling, seed=SEED + 1)) != first
    assert run(engine.ask([{"role": "user", "content": "Hi"}], [], sampling, seed=SEED))
    long = [{"role": "user", "content": "Where is it? " * 600}]
    with pytest.raises(ValueError, match="vLLM does not take it"):
        run(engine.ask(long, [], sampling, seed=SEED))
    assert len(run(engine.ask(CHAT, images, sampling, seed=SEED))) == 3


def test_greedy_and_many(engine, run):
    asked = prompt(4)

    async def sample(temperature, n):
        return await engine.sample(
            asked, frames(asked.media_key), seed=SEED, temperature=temperature, n=n
        )

    [greedy] = run(sample(0.0, 1)).rollouts_G
    three = run(sample(0.0, 3)).rollouts_G
    assert {rollout.tokens_T for rollout in three} == {greedy.tokens_T}
    assert len(run(sample(1.0, 6)).rollouts_G) == 6


class Tampered:
    """A source that flips the last bit of its last bucket."""

    def __init__(self, whole: MemoryWeights):
        self._whole = whole

    def manifest(self, version=None):
        return self._whole.manifest(version)

    def payload(self, version, index):
        payload = self._whole.payload(version, index)
        if index + 1 < len(self.manifest(version).buckets):
            return payload
        return payload[:-1] + bytes([payload[-1] ^ 1])


def without(weights: dict[str, RawTensor], ending: str) -> dict[str, RawTensor]:
    [name] = [name for name in weights if name.endswith(ending)]
    return {other: tensor for other, tensor in weights.items() if other != name}


def test_wrong_weights_are_refused_by_name_and_the_old_ones_serve_on(engine, run, policies):
    whole = tensors(policies.changed)
    before = run(generate(engine, 1))
    source = published(whole, CHANGED)
    last = source.manifest().buckets[-1].tensors[-1].name
    with pytest.raises(ValueError, match=f"bytes of {last} have digest"):
        run(engine.load(Tampered(source)))
    for ending in ("layers.2.self_attn.k_proj.weight", "blocks.1.mlp.up_proj.bias", ".norm.weight"):
        part = published(without(whole, ending), CHANGED)
        with pytest.raises(ValueError, match=rf"lacks tensors .*{ending}"):
            run(engine.load(part))
    [name] = [name for name in whole if name.endswith("layers.0.mlp.down_proj.weight")]
    unknown = "model.layers.9.mlp.down_proj.weight"
    strange = {**whole, unknown: replace(whole[name], name=unknown)}
    with pytest.raises(ValueError, match=r"does not know: model\.layers\.9\.mlp"):
        run(engine.load(published(strange, CHANGED)))
    with pytest.raises(LookupError, match=r"version 5\.5"):
        run(engine.load(source, Version(5, 5)))
    assert run(generate(engine, 1)) == before
    assert engine.version == FIRST


def update_in_flight(engine, source, *, spanning: Spanning = Spanning.keep):
    """What the load reports, and the groups of 0, 1 and 2, all of them half-way when it came."""
    long = replace(SAMPLING, max_tokens=160)

    async def update_meanwhile():
        engine.sampling, engine.rollouts = long, replace(ROLLOUTS, spanning=spanning)
        asked = [prompt(number) for number in (0, 1, 2)]
        work = [
            asyncio.create_task(engine.generate(a, frames(a.media_key), seed=SEED)) for a in asked
        ]
        while engine.running < len(asked) * long.group_size:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        loaded = await engine.load(source)
        engine.sampling, engine.rollouts = SAMPLING, ROLLOUTS
        return loaded, await asyncio.gather(*work)

    return update_meanwhile()


def test_an_update_in_flight_is_told_by_the_spans(engine, run, policies):
    """Also the first update of all: what was half-way goes on under the new weights."""
    weights = tensors(policies.changed)
    loaded, groups = run(update_in_flight(engine, published(weights, CHANGED)))
    assert (loaded.version, loaded.tensors) == (CHANGED, len(weights))
    assert loaded.size == sum(memoryview(tensor.data).nbytes for tensor in weights.values())
    assert loaded.parameters > 0
    assert 0 < loaded.seconds_stalled < 60
    spans = [rollout.spans for group in groups for rollout in group.rollouts_G]
    assert len(spans) == 12
    assert all(span[0] == (0, FIRST) for span in spans)
    spanning = [span for span in spans if len(span) > 1]
    assert spanning, "no rollout was half-way: make them longer"
    assert all(span[-1][1] == CHANGED for span in spanning)


def test_after_an_update_logprobs_are_those_of_the_new_weights(engine, run, policies):
    """Groups 0 to 2 were seen under the old weights: their images and prompts were cached."""
    for number in (0, 2, 8):
        group = run(generate(engine, number))
        assert_same_logprobs(policies.changed, group)
        assert {rollout.spans for rollout in group.rollouts_G} == {((0, CHANGED),)}


def tails(groups: list[Group], version: Version) -> list[tuple[Group, int, int]]:
    """(group, place of a rollout, first token) of those that `version` went on with."""
    return [
        (group, place, rollout.spans[-1][0])
        for group in groups
        for place, rollout in enumerate(group.rollouts_G)
        if len(rollout.spans) > 1 and rollout.spans[-1][1] == version
    ]


def test_caches_made_anew_give_the_new_weights_values_from_the_update_on(engine, run, policies):
    """With them kept, the tokens behind an update are sampled from a cache of older weights."""
    far = {}
    for spanning, folder, n in [
        (Spanning.keep, policies.base, 2),
        (Spanning.recompute, policies.changed, 3),
    ]:
        source = published(tensors(folder), Version(0, n))
        _, groups = run(update_in_flight(engine, source, spanning=spanning))
        gaps = []
        for group, place, first in tails(groups, Version(0, n)):
            expected = reference_logprobs(folder, group)[place][first:]
            gaps.append(np.abs(np.array(group.rollouts_G[place].logprobs_T[first:]) - expected))
        far[spanning] = max(gap.max() for gap in gaps)
    assert far[Spanning.recompute] < 1e-4
    assert far[Spanning.keep] > 1e-2


def test_what_an_update_aborts_is_a_failure_and_the_engine_serves_on(engine, run, policies):
    source = published(tensors(policies.changed), Version(0, 4))
    _, groups = run(update_in_flight(engine, source, spanning=Spanning.abort))
    failures = [failure for group in groups for failure in group.failures]
    assert failures
    assert all("finish reason 'abort'" in failure.reason for failure in failures)
    assert not tails(groups, Version(0, 4))
    group = run(generate(engine, 8))
    assert_same_logprobs(policies.changed, group)
    assert {rollout.spans for rollout in group.rollouts_G} == {((0, Version(0, 4)),)}


def test_image_placeholders_are_never_sampled(engine, run, policies):
    """Weights under which the placeholder is by far the likeliest first token."""
    import torch
    from transformers import AutoProcessor

    asked = prompt(3)
    tokenizer = AutoProcessor.from_pretrained(policies.changed).tokenizer
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    group = run(engine.sample(asked, frames("key3"), seed=SEED, temperature=0.0, n=1))
    first = group.rollouts_G[0].tokens_T[0]

    weights = tensors(policies.changed)
    [name] = [name for name in weights if name.endswith("embed_tokens.weight")]
    table = torch.frombuffer(bytearray(weights[name].data), dtype=torch.float32)
    table = table.reshape(weights[name].shape).clone()
    table[pad] = 20 * table[first]  # the logit of what greedy took, twenty times
    changed = RawTensor(name, "float32", weights[name].shape, table.numpy().tobytes())
    source = published({**weights, name: changed}, Version(0, 2))
    run(engine.load(source))

    greedy = run(engine.sample(asked, frames("key3"), seed=SEED, temperature=0.0, n=1))
    tempted = greedy.rollouts_G[0]
    assert tempted.logprobs_T[0] < -10  # raw: the placeholder has nearly all the probability
    assert pad not in tempted.tokens_T
    assert greedy.prompt_tokens_T.count(pad) == FRAMES * TOKENS_PER_FRAME
    assert all(pad not in r.tokens_T for r in run(generate(engine, 3)).rollouts_G)


def test_what_changed_alone_makes_the_engine_that_all_of_it_makes(engine, run, policies):
    """The same parameters inside vLLM, by its own checksums; a few bytes instead of all."""
    weights = tensors(policies.changed)
    after = {name: nudged(tensor) for name, tensor in weights.items()}
    source = MemoryWeights()
    [(bucket, payload)] = [pack_bucket(0, list(weights.values()))]
    base, version = Version(0, 5), Version(0, 6)
    source.put(base, bucket, payload)
    source.commit(Manifest(base, (bucket,), base=True))
    run(engine.load(source))

    bucket, new = pack_bucket(0, list(after.values()))
    source.put_patch(version, bucket, base, difference(payload, new).payload)
    source.commit(Manifest(version, (bucket,), base=True))
    loaded = run(engine.load(source))
    assert loaded.fetched < loaded.size / 20
    by_changes = run(engine.checksums())

    run(engine.load(published(weights, Version(0, 7))))
    assert run(engine.checksums()) != by_changes
    whole = run(engine.load(published(after, Version(0, 8))))
    assert whole.fetched > whole.size
    assert run(engine.checksums()) == by_changes


def nudged(tensor: RawTensor) -> RawTensor:
    """Every hundredth value by its last bit."""
    bits = np.frombuffer(tensor.data, dtype=np.uint32).copy()
    bits[::100] ^= 1
    return RawTensor(tensor.name, tensor.dtype, tensor.shape, bits.tobytes())


def test_an_update_that_fails_half_way_ends_the_engine(engine, run, policies):
    """A tensor of another shape, that name and digest cannot tell; the last test of this engine."""
    weights = tensors(policies.changed)
    [name] = [name for name in weights if name.endswith("layers.1.self_attn.k_proj.weight")]
    whole = weights[name]
    rows, columns = whole.shape
    half = RawTensor(name, whole.dtype, (rows // 2, columns), whole.data[: len(whole.data) // 2])
    with pytest.raises(EngineBroken, match=r"update to version 0\.9 failed"):
        run(engine.load(published({**weights, name: half}, Version(0, 9))))
    with pytest.raises(EngineBroken, match=r"cannot serve: update to version 0\.9"):
        run(generate(engine, 1))
    assert engine.version == Version(0, 8)
