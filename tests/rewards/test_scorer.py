"""The parts on each side of every edge, in every profile."""

import pytest
from spatial_row import CAT, DOG, NOWHERE, TRUTH, claim, scored

from o3rl.config import Profile, RewardsConfig
from o3rl.text.boxes import RELATIVE_1000
from o3rl.types import PARTS, FramePlan, KeyFrame, Prompt, Reward, Row, Task, Truth
from rewards.custom import RowScorer
from rewards.parts.thinking import sigma
from rewards.scorer import Scorer

RELEASED, PAPER, STRICT = Profile.released, Profile.paper, Profile.strict
ALL = (RELEASED, PAPER, STRICT)
every_profile = pytest.mark.parametrize("profile", ALL)


def reward(task: Task, thought: str, answer: str, truth: Truth, profile=PAPER) -> Reward:
    return Scorer(RewardsConfig(profile=profile)).score(
        task,
        f"<think>{thought}</think><answer>{answer}</answer>",
        truth=truth,
        progress=1.0,
        frame_size=(400, 200),
    )


# Answers


@every_profile
@pytest.mark.parametrize(
    ("answer", "value"),
    [(text, 1) for text in ("A", "A.", "(A)", "[A]", " A ", "\nA\n")]
    + [(text, 0) for text in ("a", "A) foo", "Option A", "", "A..", "((A))", "B")],
)
def test_option(profile, answer, value):
    given_option = reward(Task.MCQ, "x", answer, Truth("A", letter="A"), profile)
    assert given_option.parts["ans_acc"] == value
    both = reward(
        Task.TEMPORAL_MCQ,
        "x",
        f"From <t>2</t>s to <t>8</t>s.\nCorrect Option: {answer}",
        Truth("A\n[0, 10]", letter="A", interval=(0.0, 10.0)),
        profile,
    )
    assert (both.parts["ans_acc"], both.parts["ans_tiou"]) == (value, 0.6)


@pytest.mark.parametrize(
    ("answer", "released", "paper"),
    [
        ("Correct Option:A", 1, 1),
        ("A", 0, 0),
        ("Correct Option: B Correct Option: A", 0, 0),
        ("Correct Option: A Correct Option: B", 1, 0),
        ("Correct Option: A.\nCorrect Option: A", 1, 1),
        ("Correct Option: Correct Option: (A)", 0, 1),
        ("Correct Option:", 0, 0),
    ],
)
def test_option_follows_the_marker(answer, released, paper):
    truth = Truth("A\n[0, 10]", letter="A", interval=(0.0, 10.0))
    for profile, value in ((RELEASED, released), (PAPER, paper), (STRICT, paper)):
        given = reward(Task.TEMPORAL_MCQ, "x", answer, truth, profile)
        assert given.parts["ans_acc"] == value


@pytest.mark.parametrize(
    ("boxes", "released", "paper"),
    [
        # The true box is [10,10,30,30] of 400×200 px; a person reads every one of these.
        ("[10,10,30,30],[50,50,70,70]", 0, 1),
        ("[[10,10,30,30],[50,50,70,70]]", 0, 1),
        ("[[10,10,30,30]]", 0, 1),
        ("[10,10,30,30]]", 0, 1),
        ("[50,50,70,70],[10,10,30,30]", 0, 0),  # the first counts
    ],
)
def test_boxes_that_a_person_can_read(boxes, released, paper):
    truth = Truth("a", box=(0.025, 0.05, 0.075, 0.15))
    for profile, value in ((RELEASED, released), (PAPER, paper)):
        answer = f"<obj>dog</obj><box>{boxes}</box>"
        given = reward(Task.VISUAL, "x", answer, truth, profile)
        assert given.parts["ans_viou"] == value


def test_claims_that_are_written_oddly():
    """A nested box leaves the published divisor; a claim at `inf` stays in it and earns nothing."""
    good = "<obj>dog</obj><box>[10,10,30,30]</box>at<t>5.0</t>s"
    for odd, released, paper in (
        (good.replace("[10,10,30,30]", "[[10,10,30,30]]"), 1, 1),
        (good.replace("30]", "30]]"), 1, 1),
        (good.replace("5.0", "inf"), 0.5, 0.5),
        (good.replace("[10,10,30,30]", "[50,50,60,60],[10,10,30,30]"), 1, 1),
        (good.replace("[10,10,30,30]", "[10,10,\n30,30]"), 0.5, 1),
    ):
        for profile, value in ((RELEASED, released), (PAPER, paper)):
            assert scored(good + odd, profile=profile).parts["thk_spatial"] == value, odd


@every_profile
@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("From <t>2</t>s to <t>8</t>s", 0.6),
        ("From <t>2.5</t>s to <t>8.</t>s", 0.55),
        ("From <t>8</t>s to <t>2</t>s", 0),
        ("From 2s to 8s", 0),
        ("From <t>2</t>s  to <t>8</t>s", 0),
        ("From <t> 2 </t>s to <t>8</t>s", 0),
        ("<t>-2</t>s to <t>8</t>s", 0),
        ("<t>0</t>s to <t>10</t>s", 1),
        ("<t>10</t>s to <t>20</t>s", 0),  # touches
        ("<t>9</t>s to <t>20</t>s", 1 / 20),
        ("<t>5</t>s to <t>5</t>s", 0),
        (f"<t>0</t>s to <t>{'9' * 400}</t>s", 0),  # endless
        ("<t>2</t>s to <t>8</t>s, no, <t>0</t>s to <t>10</t>s", 0.6),
    ],
)
def test_interval(profile, answer, value):
    truth = Truth("[0, 10]", interval=(0.0, 10.0))
    assert reward(Task.TEMPORAL, "x", answer, truth, profile).parts["ans_tiou"] == pytest.approx(
        value
    )


def test_an_interval_of_no_length_on_the_true_one_is_no_match():
    truth = Truth("[5, 5]", interval=(5.0, 5.0))
    got = reward(Task.TEMPORAL, "<t>5</t>s", "<t>5</t>s to <t>5</t>s", truth)
    assert (got.parts["ans_tiou"], got.parts["thk_temporal_segment"]) == (0, 1)


# Boxes of visual QA, on a frame of 400×200 px: the true box is [40,20,200,100].

VISUAL = Truth("<box>[20,10,100,50]</box>", box=(0.1, 0.1, 0.5, 0.5))


@every_profile
@pytest.mark.parametrize(
    ("box", "value"),
    [
        ("[40,20,200,100]", 1),
        ('["40", "20", "200", "100"]', 1),  # cast
        ("[0,0,400,200]", 0.16),  # 160·80 / 400·200
        ("[200,100,40,20]", 0),
        ("[40,100,200,20]", 0),
        ("[40,20,40,100]", 0),
        ("[40,20,200]", 0),
        ("[40,20,200,100,1]", 0),
        ("[40,20,200,null]", 0),
        ("[40,20,200,[100]]", 0),
        ("[40,20,200,NaN]", 0),
        ("[0,0,Infinity,Infinity]", 0),
        ("[-1e308,-1e308,1e308,1e308]", 0),
        ("[0,0,1" + "0" * 400 + ",9]", 0),
        ("[0,0,1" + "0" * 5000 + ",9]", 0),
        ("[" * 100_000 + "]", 0),
        ("[40 20 200 100]", 0),
    ],
)
def test_visual_boxes(profile, box, value):
    got = reward(Task.VISUAL, f"<box>{box}</box>", f"<box>{box}</box>", VISUAL, profile)
    assert got.parts["ans_viou"] == pytest.approx(value)
    assert got.parts["thk_spatial"] == pytest.approx(value)
    assert got.metrics["recall"] == (value >= 0.5)


def test_visual_thought_counts_its_best_box_and_strict_all_of_them():
    thought = "<obj>dog</obj><box>[40,20,200,100]</box> <box>[0,0,9,9]</box> <box>[0,0,9,9]</box>"
    # strict: 2·1/(2 + 1), the box that stands twice counting once
    for profile, value in zip(ALL, (1, 1, 2 / 3), strict=True):
        got = reward(Task.VISUAL, thought, "<box>[0,0,1,1]</box>", VISUAL, profile)
        assert got.parts["thk_spatial"] == pytest.approx(value)
        assert [(shown.name, shown.iou) for shown in got.claims] == [("dog", 1), ("", 0), ("", 0)]


def test_spatial_needs_thought_and_answer():
    scorer, box = Scorer(RewardsConfig()), "<box>[40,20,200,100]</box>"
    for text, value in (
        (f"<think>{box}</think><answer></answer>", 1),
        (f"<think>{box}</think><answer>", 0),
        (f"<think>{box}<answer></answer>", 0),
    ):
        got = scorer.score(Task.VISUAL, text, truth=VISUAL, progress=1, frame_size=(400, 200))
        assert got.parts["thk_spatial"] == value


def test_relative_boxes_are_read_in_thousandths():
    text = "<think></think><answer><box>[100,100,500,500]</box></answer>"
    got = Scorer(RewardsConfig()).score(
        Task.VISUAL,
        text,
        truth=VISUAL,
        progress=1.0,
        frame_size=(400, 200),
        convention=RELATIVE_1000,
    )
    assert got.parts["ans_viou"] == pytest.approx(1.0)


# Times


@pytest.mark.parametrize(
    ("progress", "width", "value", "far"),
    [
        # d = 1 to one key frame and 6.5 to the other: exp(−d²/(2σ²)) of both.
        (0.0, 4.0, 0.969233, 0.267052),
        (0.5, 2.0, 0.882497, 0.005086),
        (0.7499, 1.0004, 0.606773, 0.0),
        (0.75, 1.0, 0.606531, 0.0),
        (1.0, 1.0, 0.606531, 0.0),
    ],
)
def test_curriculum(progress, width, value, far):
    assert sigma(progress, RewardsConfig()) == pytest.approx(width)
    recalled = (value + far) / 2
    balanced = 2 * value * recalled / (value + recalled)
    for profile, point in zip(ALL, (value, value, balanced), strict=True):
        got = scored("<t>6.0</t>s", progress=progress, profile=profile)
        assert got.parts["thk_temporal_point"] == pytest.approx(point, abs=1e-5)
        assert got.metrics["point_sigma1"] == pytest.approx(0.606531, abs=1e-6)


@every_profile
def test_a_fixed_sigma_is_the_same_all_along_the_run(profile):
    got = [
        scored("<t>6.0</t>s", progress=p, profile=profile, sigma_start=2.0, sigma_end=2.0)
        for p in (0.0, 0.5, 0.75, 1.0)
    ]
    assert len({each.total for each in got}) == 1
    if profile is not STRICT:
        assert got[0].parts["thk_temporal_point"] == pytest.approx(0.882497, abs=1e-6)  # exp(−1/8)


@pytest.mark.parametrize(
    ("start", "end", "end_at", "progress", "width"),
    [
        (2, 2, 0.75, 0.3, 2),  # fixed
        (6, 2, 0.5, 0.25, 4),  # half way down
        (6, 2, 0.5, 0.5, 2),
        (6, 2, 0, 0, 2),
        (4, 1, 1, 1, 1),
    ],
)
def test_other_curricula(start, end, end_at, progress, width):
    rewards = RewardsConfig(sigma_start=start, sigma_end=end, sigma_end_at=end_at)
    assert sigma(progress, rewards) == pytest.approx(width)


@pytest.mark.parametrize(
    ("thought", "released_and_paper", "strict"),
    [
        ("", 0, 0),
        ("<t>5</t>", 0, 0),
        # Both key frames: 1, exactly. One: precision 1, recall ½ (the other is 7.5 s off: e⁻²⁸).
        ("<t>5</t>s <t>12.5</t>s", 1, 1),
        ("<t>5</t>s", 1, 2 / 3),
        # A tie between key frames, 3.75 s from each: exp(−7.03125).
        ("<t>8.75</t>s", 0.000884, 0.000884),
        ("<t>5</t>s <t>2.3.4</t>s", 0, 0),
        ("<t>5</t>s <t>.</t>s", 0, 0),
        (f"<t>{'9' * 400}</t>s", 0, 0),
    ],
)
def test_point(thought, released_and_paper, strict):
    for profile in ALL:
        got = scored(thought, profile=profile).parts["thk_temporal_point"]
        value = strict if profile is STRICT else released_and_paper
        assert got == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("thought", "value", "strict"),
    [
        ("<t>2</t>s and <t>20</t>s", 0.5, 0.5),
        ("<t>2</t> and <t>20</t>s", 0, 0),
        ("<t>0</t>s <t>10</t>s", 1, 1),  # ends are inside
        ("<t>10.01</t>s", 0, 0),
        ("", 0, 0),
        ("<t>2</t>s" * 3 + "<t>20</t>s", 0.75, 0.5),  # strict: 2 s counts once
        ("<t>2</t>s <t>3</t>s <t>20</t>s", 2 / 3, 0.5),  # a second apart: one
        ("<t>2</t>s <t>3.1</t>s <t>20</t>s", 2 / 3, 2 / 3),  # more: two
    ],
)
def test_segment(thought, value, strict):
    for task in (Task.TEMPORAL, Task.TEMPORAL_MCQ):
        for profile in ALL:
            truth = Truth("[0, 10]", letter="A", interval=(0.0, 10.0))
            got = reward(task, thought, "", truth, profile).parts["thk_temporal_segment"]
            assert got == pytest.approx(strict if profile is STRICT else value)


@every_profile
def test_the_progress_of_the_prompt_decides(profile):
    """Fixed at admission: whichever process scores it, whichever attempt it is. A claim 1 s off."""
    row = Row("r1", Task.TEMPORAL_SPATIAL, "STR_plm", "What?", "v.mp4", TRUTH)
    plan = FramePlan((0, 1), (0.0, 1.0), (100, 100), 20.0)
    scorer = RowScorer(RewardsConfig(profile=profile), "qwen2_5_vl")
    text = f"<think>{claim('dog', 6.0, DOG)}</think><answer>a dog</answer>"
    early, retried, late = (
        scorer.score(Prompt(0, row, plan, "key", progress, attempt=attempt), text)
        for progress, attempt in ((0.0, 0), (0.0, 1), (1.0, 0))
    )
    assert early == retried
    assert early.parts["thk_temporal_point"] > late.parts["thk_temporal_point"]
    assert early.metrics["point_sigma1"] == late.metrics["point_sigma1"]
    assert early.metrics["sigma"] > late.metrics["sigma"]
    assert early.metrics["recall"] == late.metrics["recall"] == pytest.approx(1 / 3)


# Claims: released, paper, strict. Strict of one good claim among three true boxes: 2·1/(1 + 3) = ½.


@pytest.mark.parametrize(
    ("thought", "values"),
    [
        (claim("dog", 5.0, DOG), (1, 1, 0.5)),
        (claim("cat", 5.0, DOG), (1, 1, 0.25)),  # another name: strict ½
        (claim("a big dog", 5.0, DOG), (1, 1, 0.5)),
        (claim("The Dogs", 5.0, DOG), (1, 1, 0.5)),  # stemmed, without article and case
        (claim("", 5.0, DOG), (1, 1, 0)),
        (claim("dog", 4.0, DOG), (0, 1, 0.5)),  # released: 5 − 4 is not < 1
        (claim("dog", 4.1, DOG), (1, 1, 0.5)),
        (claim("dog", 2.0, DOG), (0, 1, 0.5)),  # τ = 3, included
        (claim("dog", 1.99, DOG), (0, 0, 0)),
        (claim("dog", 8.0, DOG), (1, 1, 0.5)),
        (claim("dog", 8.01, DOG), (1, 0, 0)),  # released: late claims always pass
        # Released: 12.5 is not yet near, so 5.0 counts. Else 12.5: IoU of [10,10,30,30] and
        # [20,20,40,40] is 100/700, and strict 2·v/4 of v = (1/7 − 1/25)/(1 − 1/25).
        (claim("dog", 10.0, DOG), (1, 1 / 7, 3 / 56)),
        # A tie: the first counts. At 8.75 both are 3.75 s off, too far but for released.
        (claim("dog", 8.75, DOG), (1, 0, 0)),
        (claim("dog", 500, "[20,20,40,40]"), (1, 0, 0)),
        (claim("dog", "-1", DOG), (0, 0, 0)),
        (claim("dog", "nan", DOG), (0, 0, 0)),
        (claim("dog", "inf", "[20,20,40,40]"), (0, 0, 0)),  # passes, and is near no key frame
        (claim("dog", 5.0, "[30,30,10,10]"), (0, 0, 0)),
        (claim("dog", 5.0, "[1,2,3]"), (0, 0, 0)),
        # A claim that does not parse leaves the released divisor; its mention stays in the paper's.
        # Strict: D = 1 box + 1 further mention, 2·1/(2 + 3).
        (claim("dog", 5.0, DOG) + claim("dog", 5.0, "[x]"), (1, 0.5, 0.4)),
        # "5 " is no mention, and no number is missing: released 1, paper 1/1, strict 2/(1 + 3).
        (claim("dog", "5 ", DOG), (1, 1, 0.5)),
        (claim("dog", "five", DOG), (0, 0, 0)),
        # Good and bad: strict D = 2.
        (claim("dog", 5.0, DOG) + claim("cat", 5.0, NOWHERE), (0.5, 0.5, 0.4)),
        (claim("dog", 5.0, DOG) + "<t>7</t>s", (1, 0.5, 0.4)),
        (claim("dog", 5.0, DOG).replace("at<t>", " at <t>"), (0, 0, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_claims(thought, values):
    got = [scored(thought, profile=profile).parts["thk_spatial"] for profile in ALL]
    assert got == pytest.approx(values)


def test_two_true_boxes_of_one_object():
    """Predicting one of two: ½ as published, 1 in the paper, strict 2·1/(1 + 2)."""
    truth = Truth(
        "x", key_frames=(KeyFrame(5.0, (("dog", ((0.1, 0.1, 0.3, 0.3), (0.5, 0.5, 0.7, 0.7))),)),)
    )
    one, both = claim("dog", 5.0, DOG), claim("dog", 5.0, DOG, CAT)
    for profile, single in zip(ALL, (0.5, 1, 2 / 3), strict=True):
        assert scored(one, truth=truth, profile=profile).parts["thk_spatial"] == pytest.approx(
            single
        )
        assert scored(both, truth=truth, profile=profile).parts["thk_spatial"] == pytest.approx(1)


@every_profile
def test_without_the_gate_distance_does_not_matter(profile):
    far = claim("dog", 30.0, "[20,20,40,40]")
    got = scored(far, profile=profile, gate=False)
    assert got.parts["thk_spatial"] == pytest.approx(0.5 if profile is STRICT else 1)
    assert not got.claims[0].gated


@pytest.mark.parametrize(("seconds", "value"), [(0.9, 0), (1.0, 1)])
def test_the_gates_width_is_a_setting(seconds, value):
    assert scored(claim("dog", 4.0, DOG), gate_seconds=seconds).parts["thk_spatial"] == value


def test_a_gated_claim_shows_what_it_would_have_earned():
    [shown] = scored(claim("dog", 1.5, DOG)).claims
    assert (shown.key_time, shown.distance, shown.gated) == (5.0, 3.5, True)
    assert shown.iou == pytest.approx(1.0)
    [shown] = scored(claim("dog", 10.0, DOG), profile=RELEASED).claims
    assert (shown.key_time, shown.distance, shown.gated) == (5.0, 5.0, False)


@every_profile
def test_of_two_key_frames_equally_near_the_first_counts(profile):
    """0.75 s from both, so within every gate. Strict: 2·1/(1 + 2)."""
    at = [KeyFrame(5.0, (("dog", ((0.1, 0.1, 0.3, 0.3),)),))]
    at.append(KeyFrame(6.5, (("dog", ((0.5, 0.5, 0.7, 0.7),)),)))
    for box, value in ((DOG, 2 / 3 if profile is STRICT else 1), (CAT, 0)):
        got = scored(
            claim("dog", 5.75, box), truth=Truth("x", key_frames=tuple(at)), profile=profile
        )
        assert got.parts["thk_spatial"] == pytest.approx(value)
        assert got.claims[0].key_time == 5.0


@every_profile
def test_a_key_frame_without_boxes(profile):
    truth = Truth("a dog", key_frames=(KeyFrame(5.0, ()),))
    got = scored(claim("dog", 5.0, DOG), truth=truth, profile=profile)
    assert (got.parts["thk_spatial"], got.metrics["recall"]) == (0, 0)
    assert got.parts["thk_temporal_point"] == 1
    assert "key frame at 5 s has no boxes" in got.notes


@every_profile
def test_empty_evidence(profile):
    bare = Truth("a dog")
    got = scored(claim("dog", 5.0, DOG), truth=bare, profile=profile)
    assert got.parts["thk_temporal_point"] == got.parts["thk_spatial"] == 0
    assert got.parts["ans_acc"] == pytest.approx(1)
    assert "truth has no key frames" in got.notes
    assert "recall" not in got.metrics
    assert [(shown.key_time, shown.gated) for shown in got.claims] == [(None, False)]


# Recall of evidence, the same in every profile: three true boxes.


@every_profile
@pytest.mark.parametrize(
    ("thought", "met"),
    [
        ("", 0),
        (claim("dog", 5.0, DOG), 1),
        (claim("dog", 5.0, DOG) * 3, 1),
        (claim("horse", 5.0, DOG, CAT), 2),
        (claim("dog", 5.0, DOG, CAT) + claim("dog", 15.5, "[20,20,40,40]"), 3),
        (claim("dog", 15.6, "[20,20,40,40]"), 0),  # 3.1 s off
        (claim("dog", 5.0, "[10,10,30,20]"), 1),  # IoU ½, included
        (claim("dog", 5.0, "[10,10,30,19.9]"), 0),
    ],
)
def test_recall(profile, thought, met):
    got = scored(thought, profile=profile, gate=False).metrics
    assert got["recall"] == pytest.approx(met / 3)
    assert got["has_claim"] == (got["claims"] > 0) == bool(thought)


@every_profile
@pytest.mark.parametrize(
    ("thought", "met"),
    [
        ("", 0),
        ("<t>5.0</t>s", 0),  # a mention is no claim
        (claim("dog", 5.0, NOWHERE), 1),  # wherever its box lies
        (claim("dog", 5.0, DOG) * 3, 1),
        (claim("dog", 8.0, DOG), 1),  # 3 s off, included
        (claim("dog", 8.1, DOG), 0),  # and 4.4 s before the other
        (claim("dog", "nan", DOG) + claim("dog", 9.5, DOG), 1),
        (claim("dog", 5.0, DOG) + claim("dog", 15.5, DOG), 2),
    ],
)
def test_recall_of_key_frames(profile, thought, met):
    got = scored(thought, profile=profile, gate=False).metrics
    assert got["recall_key_frames"] == met / 2


def test_gate_pass():
    half = claim("dog", 5.0, DOG) + claim("dog", 30.0, DOG)
    assert scored(half).metrics["gate_pass"] == 0.5
    assert scored(half, profile=RELEASED).metrics["gate_pass"] == 1
    assert "gate_pass" not in scored("").metrics


# Format

SOUND = "<think><obj>a</obj><box>[1,2,3,4]</box>at<t>1</t>s</think><answer>x</answer>"


@every_profile
@pytest.mark.parametrize(
    ("task", "text", "value"),
    [
        (Task.TEMPORAL_SPATIAL, SOUND, 1),
        (Task.TEMPORAL_SPATIAL, SOUND.replace("<t>1</t>", ""), 0.5),
        (Task.TEMPORAL_SPATIAL, SOUND.replace("</obj>", ""), 0),
        (Task.TEMPORAL_SPATIAL, SOUND.replace("<answer>x</answer>", ""), 0),
        (Task.TEMPORAL_SPATIAL, SOUND + "</think>", 0),
        (Task.TEMPORAL_SPATIAL, SOUND + "<obj>", 1),  # outside the thought
        (Task.TEMPORAL, SOUND, 0.5),
        (Task.TEMPORAL, SOUND.replace("<obj>", "<t>2</t>s<obj>"), 1),
        (Task.TEMPORAL_MCQ, SOUND.replace("<obj>", "<t>2</t>s<obj>"), 1),
        (Task.VISUAL, SOUND.replace("<t>1</t>", ""), 1),
        (Task.VISUAL, "<think></think><answer><obj></obj><box>[1]</box></answer>", 0.5),
        (Task.VISUAL, "<think></think><answer><box>[1]</box></answer>", 0.5),
        (Task.MCQ, "<think></think><answer></answer>", 1),
        (Task.FREE_FORM, "<think></think><answer>", 0),
        (Task.FREE_FORM, "", 0),
    ],
)
def test_format(profile, task, text, value):
    truth = Truth("A", letter="A", interval=(0.0, 1.0))
    got = Scorer(RewardsConfig(profile=profile)).score(
        task, text, truth=truth, progress=1.0, frame_size=(100, 100)
    )
    assert got.parts["format"] == value


@pytest.mark.parametrize(
    ("text", "values"),
    [
        # Two words are no name as published.
        ("<think><obj>red car</obj><box>[1,2,3,4]</box></think><answer></answer>", (0.5, 1, 1)),
        # Strict: a box in the answer alone is no thought.
        ("<think></think><answer><obj>car</obj><box>[1,2,3,4]</box></answer>", (1, 1, 0.5)),
        # Nor is one that has no numbers.
        ("<think><obj>car</obj><box>[1]</box></think><answer></answer>", (1, 1, 0.5)),
    ],
)
def test_a_named_box_of_an_image(text, values):
    for profile, value in zip(ALL, values, strict=True):
        got = Scorer(RewardsConfig(profile=profile)).score(
            Task.VISUAL, text, truth=VISUAL, progress=1.0, frame_size=(100, 100)
        )
        assert got.parts["format"] == value


def test_other_scripts_count_but_as_published():
    truth = Truth("红色的汽车")
    for profile, value in zip(ALL, (0, 1, 1), strict=True):
        assert reward(Task.FREE_FORM, "x", truth.text, truth, profile).parts["ans_acc"] == value


# The whole


def test_total_is_weighted():
    got = scored(claim("dog", 5.0, DOG), weights={"format": 0.5, "thk_spatial": 2.0})
    # 0.5·1 + 2·1 + point 1 + answer ("a dog" of "a dog") 1
    assert got.total == pytest.approx(4.5)
    assert tuple(got.parts) == PARTS


def test_an_unknown_task_is_an_error():
    with pytest.raises(ValueError, match="chess"):
        Scorer(RewardsConfig()).score("chess", "", truth=TRUTH, progress=1.0, frame_size=(1, 1))  # type: ignore[arg-type]
