"""Pages: escaped, whole in themselves, bounded; geometry by hand; nonsense survives."""

import base64
import hashlib
import html
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from o3rl.evaluation import evidence
from o3rl.evaluation.cards import bars, most, plain_answer, verdict
from o3rl.evaluation.evidence import Entry, Response, crops, pairs, strip, ticks, timeline
from o3rl.evaluation.pages import write_index, write_page
from o3rl.text.boxes import ABSOLUTE, RELATIVE_1000
from o3rl.types import TASK_PARTS, Claim, FramePlan, KeyFrame, Reward, Row, Task, Truth
from tests.o3rl.evaluation.shown import compared, shown

BOX = (0.25, 0.25, 0.5, 0.75)
TRUE = (0.3, 0.3, 0.5, 0.7)
PARTS = {
    **{"ans_acc": 1.0, "ans_tiou": 0.0, "ans_viou": 0.0, "thk_temporal_point": 0.9},
    **{"thk_temporal_segment": 0.0, "thk_spatial": 0.6, "format": 1.0},
}
TEXT = (
    "<think>I see <obj>red car</obj><box>[50,25,100,75]</box>at<t>5.0</t>s and again "
    "<t>9.0</t>s.</think><answer>red</answer>"
)
CLAIM = Claim("red car", 5.0, (BOX,), key_time=5.0, distance=0.0, iou=0.6)


def entry(
    task: Task = Task.TEMPORAL_SPATIAL,
    *,
    truth: Truth | None = None,
    text: str = TEXT,
    claims: tuple[Claim, ...] = (CLAIM,),
    frames: int = 4,
    question: str = "What colour is the car?",
) -> Entry:
    truth = truth or Truth("red", key_frames=(KeyFrame(5.0, (("red car", (TRUE,)),)),))
    times = tuple(5.0 * index for index in range(frames))
    plan = FramePlan(tuple(range(frames)), times, (200, 100), duration=20.0 if frames > 1 else 0.0)
    pixels = np.zeros((frames, 100, 200, 3), np.uint8)
    row = Row("row-1", task, "synth", question, "a.mp4", truth, (400, 200))
    reward = Reward(PARTS, sum(PARTS.values()), claims, {"point_sigma1": 0.9}, ("a note",))
    return Entry(row, plan, pixels, text, reward, "step 3, group 1, sample 0")


class Links(HTMLParser):
    """Every address that a page asks for, and the scripts in it."""

    def __init__(self):
        super().__init__()
        self.addresses: list[str] = []
        self.scripts = 0
        self.handlers: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "href", "action", "poster", "data"):
                self.addresses.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)


def parsed(path) -> Links:
    links = Links()
    links.feed(path.read_text())
    return links


def test_a_page_is_whole_in_itself(tmp_path):
    path = tmp_path / "deep" / "page.html"
    link = write_page(path, "Step 3", [entry(), entry(Task.MCQ, truth=Truth("A", letter="A"))])
    links = parsed(path)
    assert all(address.startswith(("data:", "#")) for address in links.addresses)
    assert links.scripts == 1
    text = path.read_text()
    assert "default-src 'none'" in html.unescape(text)
    assert "http://" not in text
    assert "https://" not in text
    assert text.count("data:image/jpeg;base64,") == 8  # each frame once, though drawn twice
    assert (link.responses, link.mean_total) == (2, 3.5)
    assert link.tasks == {str(Task.MCQ): 1, str(Task.TEMPORAL_SPATIAL): 1}


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def test_what_a_model_or_a_data_set_wrote_is_escaped(tmp_path):
    """In every field that comes from outside."""
    evil = entry(
        text=f"<think>{EVIL}<obj>{EVIL}</obj><box>[1,2,3,4]</box>at<t>5.0</t>s</think>{EVIL}",
        truth=Truth(EVIL, key_frames=(KeyFrame(5.0, ((EVIL, (TRUE,)),)),)),
        claims=(replace(CLAIM, name=EVIL),),
        question=EVIL,
    )
    row = replace(evil.row, id=EVIL)
    reward = replace(evil.reward, parts={EVIL: 1.0, "format": 1.0}, notes=(EVIL,))
    evil = replace(evil, row=row, reward=reward, heading=EVIL, notes=(EVIL,))
    path = tmp_path / "page.html"
    page = write_page(path, EVIL, [evil])
    links = parsed(path)
    assert links.scripts == 1
    assert links.handlers == []
    assert "x" not in links.addresses
    assert "alert(1)" in path.read_text()  # shown, as text
    write_index(tmp_path / "index.html", EVIL, [page])
    assert parsed(tmp_path / "index.html").scripts == 1
    assert parsed(tmp_path / "index.html").handlers == []


def test_the_policy_lets_our_script_run_and_no_other(tmp_path):
    path = tmp_path / "page.html"
    write_page(path, "t", [entry()])
    text = path.read_text()
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert f"script-src 'sha256-{digest}'" in html.unescape(policy[1])


def test_pages_are_bounded(tmp_path):
    path = tmp_path / "page.html"
    link = write_page(path, "t", [entry(text="x" * 30_000)] * 5, max_entries=2)
    text = path.read_text()
    assert link.responses == 2
    assert text.count("<article") == 2
    assert "3 more responses are not shown" in text
    assert "10000 more characters are not shown" in text
    with pytest.raises(ValueError, match="no responses to show"):
        write_page(path, "t", [])


def test_index_leads_to_pages_and_shows_the_report(tmp_path):
    link = write_page(tmp_path / "pages" / "a.html", "Step 3", [entry()])
    picture = tmp_path / "curves.png"
    picture.write_bytes(b"\x89PNG")
    summary = {"rows": 2, "total": 1.25, "claims": {"time_proximity": 0.5}}
    report = {
        "seed": 7,
        "steps": {"rl": 20},
        "seconds": {"total": 90.0},
        "sft": {"sampled": summary},
        "rl": {"sampled": summary | {"total": 2.5}},
    }
    write_index(tmp_path / "index.html", "demo", [link], report=report, curves=picture)
    text = (tmp_path / "index.html").read_text()
    assert 'href="pages/a.html"' in text
    assert "data:image/png;base64,iVBORw==" in text
    assert "+100%" in text
    assert "1.250" in text
    write_index(tmp_path / "index.html", "demo", [])
    assert "No evidence pages yet" in (tmp_path / "index.html").read_text()


def test_frames_must_fit_the_plan():
    with pytest.raises(ValueError, match=r"frames of row row-1 are uint8 \(3, 100, 200, 3\)"):
        replace(entry(), frames=np.zeros((3, 100, 200, 3), np.uint8))
    with pytest.raises(ValueError, match="float64"):
        replace(entry(), frames=np.zeros((4, 100, 200, 3)))


def test_a_claim_is_drawn_on_the_nearest_frame_and_the_true_one_beside_it():
    [pair] = pairs(entry(), convention=ABSOLUTE)
    shot = pair.cited
    assert (shot.frame, shot.time, shot.is_key) == (1, 5.0, True)
    truth, claim = shot.outlines
    # 200×100: [.3,.3,.5,.7] and [.25,.25,.5,.75]
    assert (truth.x, truth.y, truth.width, truth.height) == (60.0, 30.0, 40.0, 40.0)
    assert (claim.x, claim.y, claim.width, claim.height) == (50.0, 25.0, 50.0, 50.0)
    assert (truth.badge, truth.faint, claim.badge, claim.label) == ("a", False, "1", "red car")
    assert [(c.badge, c.words, c.color) for c in shot.captions] == [("1", "red car at 5 s", 0)]
    [true] = pair.true
    assert (true.frame, true.key_time, true.is_key) == (1, 5.0, True)
    assert true.outlines == (truth,)
    assert [(c.badge, c.words, c.color) for c in true.captions] == [("a", "red car", -1)]


def test_a_claim_of_another_moment_has_the_true_frame_beside_it():
    far = replace(CLAIM, time=9.0, distance=4.0, gated=True)
    [pair] = pairs(entry(claims=(far,)), convention=ABSOLUTE)
    assert [outline.kind for outline in pair.cited.outlines] == ["claim"]
    assert (pair.cited.time, [shot.time for shot in pair.true]) == (10.0, [5.0])


def test_a_key_frame_that_was_not_seen_is_faint_on_the_nearest_and_says_so():
    truth = Truth("red", key_frames=(KeyFrame(7.0, (("red car", (TRUE,)),)),))
    claim = replace(CLAIM, key_time=7.0)
    [pair] = pairs(entry(truth=truth, claims=(claim,)), convention=ABSOLUTE)
    [true] = pair.true
    assert (true.time, true.is_key) == (5.0, False)
    assert (true.outlines[0].faint, true.outlines[0].label) == (True, "red car, 7 s")


def test_a_crop_shows_the_box_with_some_room_and_stays_in_the_frame():
    """[50, 25, 100, 75] of 200×100 with 15 % on each side; a small box has at least 12 of 100."""
    found = crops(entry(claims=(CLAIM, replace(CLAIM, boxes=((0.0, 0.0, 0.01, 0.02),)))))
    assert found[0].window == (42.5, 17.5, 65.0, 65.0)
    assert found[1].window == (0.0, 0.0, 12.0, 12.0)
    assert crops(entry(claims=(replace(CLAIM, boxes=((2.0, 2.0, 3.0, 3.0),)),))) == {}


def test_the_strip_marks_key_frames_and_cited_ones():
    found = strip(entry())
    assert [shot.is_key for shot in found] == [False, True, False, False]
    assert [shot.cited for shot in found] == [(), (0,), (), ()]


@pytest.mark.parametrize(
    ("convention", "numbers", "x"),
    [(ABSOLUTE, "20,10,40,20", 20.0), (RELATIVE_1000, "100,100,200,200", 20.0)],
)
def test_an_image_shows_truth_thought_and_answer(convention, numbers, x):
    claim = Claim("cat", 0.0, (BOX,), iou=0.6)
    text = f"<think>x</think><answer><obj>cat</obj><box>[{numbers}]</box></answer>"
    one = entry(Task.VISUAL, truth=Truth("cat", box=TRUE), text=text, claims=(claim,), frames=1)
    [pair] = pairs(one, convention=convention)
    assert [outline.kind for outline in pair.cited.outlines] == ["claim", "answer"]
    assert pair.cited.outlines[1].x == x
    assert [outline.kind for outline in pair.true[0].outlines] == ["truth"]
    assert timeline(one) is None


def test_timeline_by_hand():
    """20 s over 1000 units less 14 on each side: 48.6 units a second."""
    truth = Truth("[5, 10]", interval=(5.0, 10.0))
    text = TEXT.replace("red</answer>", "From <t>0</t>s to <t>5.0</t>s</answer>")
    line = timeline(entry(Task.TEMPORAL, truth=truth, text=text))
    assert line is not None
    assert line.true_band == (257.0, 243.0, "5 s to 10 s")
    assert line.said_band == (14.0, 243.0, "0 s to 5 s")
    assert [(c.x, c.color, c.label) for c in line.cited] == [
        (257.0, 0, "red car at 5 s"),
        (451.4, -1, "cites 9 s"),  # the claim's own mention is not shown twice
    ]
    assert line.frames == (14.0, 257.0, 500.0, 743.0)
    assert [words for _, words in line.ticks] == [f"{t} s" for t in range(0, 21, 2)]


def test_ticks():
    assert ticks(3.0) == [0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert ticks(60.0) == [0, 10, 20, 30, 40, 50, 60]
    assert ticks(1e9) == [0.0, 1e9]


NONSENSE = (
    "",
    "<think>",
    "</think><answer></answer></obj>",
    "<think><obj>a</obj><box>[1,2]</box>at<t>x</t>s</think><answer><box>[a,b]</box></answer>",
    "<think><t>1.2.3</t>s <t>" + "9" * 400 + "</t>s</think>"
    "<answer>From <t>9</t>s to <t>2</t>s <box>[1,2,3,4,5]</box></answer>",
    "<think><obj>a</obj><box>[1,2,3,4]</box>at<t>inf</t>s</think>",
)


@pytest.mark.parametrize("text", NONSENSE)
@pytest.mark.parametrize("task", list(Task))
def test_nonsense_survives(tmp_path, text, task):
    claims = (
        Claim("", math.inf, ((0.0, 0.0, math.inf, 1.0),)),
        Claim("b", math.nan, ((0.9, 0.9, 0.1, 0.1), (-5.0, -5.0, 9.0, 9.0))),
        Claim("c", 1e9, (), key_time=5.0, distance=1e9, gated=True),
    )
    frames = 1 if task is Task.VISUAL else 4
    write_page(tmp_path / "p.html", "t", [entry(task, text=text, claims=claims, frames=frames)] * 2)


def test_many_claims_are_bounded():
    claims = tuple(replace(CLAIM, time=float(time)) for time in range(0, 100, 5))
    many = entry(frames=20, claims=claims)
    assert len(pairs(many, convention=ABSOLUTE)) == evidence.MAX_SHOTS


def test_bars_are_those_of_the_task_cut_to_their_room_but_tell_the_value():
    reward = Reward({"ans_acc": 1.5, "ans_viou": 0.5, "mine": -0.5, "format": 0.25}, 1.25)
    assert [(bar.words, bar.value, bar.percent) for bar in bars(reward, Task.MCQ)] == [
        ("answer", 1.5, 100.0),
        ("mine", -0.5, 0.0),
        ("format", 0.25, 25.0),
    ]


@pytest.mark.parametrize("task", list(Task))
def test_the_parts_of_a_task_are_those_that_an_answer_can_earn(task):
    """A perfect annotator earns something of each part that the task has, and of no other."""
    parts = shown(task).reward.parts
    assert {name for name, value in parts.items() if value > 0} <= set(TASK_PARTS[task])
    assert parts[TASK_PARTS[task][0]] > 0.5


def test_the_most_that_a_task_allows():
    assert most(Reward(PARTS, 0.0), Task.TEMPORAL, {"format": 0.5}) == 2.5
    assert most(Reward(PARTS | {"mine": 9.0}, 0.0), Task.TEMPORAL, {}) is None


@pytest.mark.parametrize(
    ("task", "overlap", "right", "words"),
    [
        (Task.TEMPORAL, {"ans_tiou": 0.62}, True, "IoU 0.62"),
        (Task.TEMPORAL, {"ans_tiou": 0.49}, False, "IoU 0.49"),
        (Task.VISUAL, {"ans_viou": 0.5}, True, "IoU 0.50"),
        (Task.MCQ, {}, True, ""),
        (Task.TEMPORAL_SPATIAL, {}, True, ""),
    ],
)
def test_verdict(task, overlap, right, words):
    one = entry(task)
    found = verdict(replace(one, reward=replace(one.reward, parts=PARTS | overlap)))
    assert found
    assert (found.is_right, found.words) == (right, words)


def test_an_answer_is_shown_without_its_tags():
    text = "<answer><obj>cat</obj><box>[1,2,3,4]</box>\nfrom <t>2.0</t>s</answer>"
    assert plain_answer(text) == "cat [1,2,3,4] \nfrom 2.0 s"
    assert plain_answer("cat") is None
    assert plain_answer(f"<answer>{'x' * 400}</answer>") == "x" * 300 + "…"


VOID = {"meta", "link", "input"}


class Tree(HTMLParser):
    """Texts of elements by class, ids, and inner addresses."""

    def __init__(self, page):
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.by_class: dict[str, list[str]] = {}
        self.attributes: list[str] = []
        self._open: list[list[str]] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.attributes += named
        self.ids += [named["id"]] if "id" in named else []
        self.links += [named["href"][1:]] if named.get("href", "").startswith("#") else []
        if tag not in VOID:
            self._open.append((named.get("class") or "").split())
            for name in self._open[-1]:
                self.by_class.setdefault(name, []).append("")

    def handle_endtag(self, tag):
        if tag not in VOID:
            self._open.pop()

    def handle_data(self, data):
        for name in {name for names in self._open for name in names}:
            self.by_class[name][-1] += data

    def words(self, name: str) -> list[str]:
        return [" ".join(text.split()) for text in self.by_class.get(name, [])]


def test_a_head_tells_answer_verdict_truth_and_reward(tmp_path):
    write_page(tmp_path / "p.html", "t", [entry()])
    tree = Tree(tmp_path / "p.html")
    assert tree.words("reply") == ["✓ red 3.50 of 4"]
    assert tree.words("answer") == ["Truth red"]


def test_every_inner_link_leads_somewhere_and_no_id_is_given_twice(tmp_path):
    write_page(tmp_path / "p.html", "t", [compared(), entry(), shown(Task.VISUAL)])
    tree = Tree(tmp_path / "p.html")
    assert set(tree.links) <= set(tree.ids)
    assert len(tree.ids) == len(set(tree.ids))
    assert {"r2s0p1", "r2s0t1"} <= set(tree.ids) & set(tree.links)  # picture, sentence


def test_models_stand_side_by_side_and_who_did_not_look_is_hidden(tmp_path):
    write_page(tmp_path / "p.html", "t", [compared()])
    tree = Tree(tmp_path / "p.html")
    assert tree.words("model-name") == ["base", "sft", "rl", "rl, blank frames"]
    assert tree.attributes.count("data-blind") == 2  # its reply and its side
    assert "Without looking" in tree.words("bar")[0]


def test_what_nobody_scored_shows_nothing_that_needs_a_truth(tmp_path):
    claim = Claim("red car", 5.0, (BOX,))
    one = entry(truth=Truth(""), claims=(claim,))
    asked = replace(one, reward=Reward({}, 0.0, (claim,)), notes=(), heading="asked")
    write_page(tmp_path / "p.html", "a.mp4", [asked])
    tree = Tree(tmp_path / "p.html")
    assert tree.words("reply") == ["red"]
    assert not {"answer", "facts", "score", "mark", "sum", "details"} & tree.by_class.keys()
    text = (tmp_path / "p.html").read_text()
    body = text[text.index("<body>") : text.index("<script>")]
    assert not re.search(r"Truth|reward|IoU|true (box|key)|gate|off by", body)


def test_a_clip_is_in_the_page_once(tmp_path):
    one = replace(entry(), clip=b"clip", others=(Response("sft", TEXT, entry().reward),))
    write_page(tmp_path / "p.html", "t", [one])
    assert (tmp_path / "p.html").read_text().count('data-clip="Y2xpcA=="') == 1
