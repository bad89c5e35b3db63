"""Each known way to game the reward, in each profile: the table of docs/rewards.md."""

import re
from pathlib import Path

import pytest
from spatial_row import CAT, DOG, NOWHERE, SECOND_DOG, claim, scored

from o3rl.config import Profile

HONEST = claim("dog", 5.0, DOG) + claim("cat", 5.0, CAT) + claim("dog", 12.5, SECOND_DOG)
GOOD_AND_BAD = claim("dog", 5.0, DOG) + claim("cat", 5.0, NOWHERE)

# Released and paper, spatial: Σ over claims / claims, or / mentions. Strict: 2·S/(D + 3), for three
# true boxes. Point at σ = 1: strict is the harmonic mean of both directions; a mention 7.5 s off is
# worth exp(−28), so one key frame met of two gives 2·1·½/1½ = ⅔.
GAMES = {
    "all evidence cited once": (HONEST, (1, 1, 1), (1, 1, 1)),  # strict 2·3/(3 + 3)
    "one claim of three": (claim("dog", 5.0, DOG), (1, 1, 2 / 3), (1, 1, 1 / 2)),  # 2·1/(1 + 3)
    "four boxes in one claim": (
        claim("dog", 5.0, "[0,0,5,5]", DOG, CAT, NOWHERE),
        (1, 1, 2 / 3),
        (1, 1, 3 / 7),  # the cat's under a wrong name is worth ½: 2·1½/(4 + 3)
    ),
    "a good and a bad claim": (GOOD_AND_BAD, (1, 1, 2 / 3), (1 / 2, 1 / 2, 2 / 5)),
    "the good one three times": (
        claim("dog", 5.0, DOG) * 2 + GOOD_AND_BAD,
        (1, 1, 2 / 3),
        (3 / 4, 3 / 4, 2 / 7),  # 2·1/(4 + 3)
    ),
    "wrong name": (claim("horse", 5.0, DOG), (1, 1, 2 / 3), (1, 1, 1 / 4)),  # ½ of ½
    # 3.5 s after one key frame, 4 s before the other: point exp(−3.5²/2) = 0.002187. Strict: recall
    # (0.002187 + exp(−4²/2))/2 = 0.001261, harmonic mean 0.001600.
    "too late": (claim("dog", 8.5, DOG), (0.002187, 0.002187, 0.001600), (1, 0, 0)),
    # Of ten mentions nine good: point 0.9, spatial 1/10. Strict: 5 s and 30 s count once each, ½,
    # and 5 s meets one of two key frames: ½; D = 1 box + 9 more mentions: 2/(10 + 3).
    "a good time copied": (
        claim("dog", 5.0, DOG) + "<t>5</t>s" * 8 + "<t>30</t>s",
        (9 / 10, 9 / 10, 1 / 2),
        (1, 1 / 10, 2 / 13),
    ),
    "the same, not copied": (
        claim("dog", 5.0, DOG) + "<t>30</t>s",
        (1 / 2, 1 / 2, 1 / 2),
        (1, 1 / 2, 2 / 5),  # D = 1 + 1
    ),
}
PROFILES = (Profile.released, Profile.paper, Profile.strict)


def parts(thought: str, name: str) -> tuple[float, ...]:
    return tuple(scored(thought, profile=profile).parts[name] for profile in PROFILES)


@pytest.mark.parametrize(("thought", "point", "spatial"), GAMES.values(), ids=GAMES.keys())
def test_what_it_is_worth(thought, point, spatial):
    assert parts(thought, "thk_temporal_point") == pytest.approx(point, abs=1e-6)
    assert parts(thought, "thk_spatial") == pytest.approx(spatial, abs=1e-9)


def test_the_table_in_the_docs_says_the_same():
    page = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
    rows = {
        cells[0]: [float(cell) for cell in cells[1:]]
        for line in page.splitlines()
        if len(cells := [cell.strip() for cell in line.strip("| ").split("|")]) == 7
        and re.fullmatch(r"[\d.]+", cells[1])
    }
    assert rows == {
        name: [
            round(value, 3)
            for part in ("thk_temporal_point", "thk_spatial")
            for value in parts(thought, part)
        ]
        for name, (thought, _, _) in GAMES.items()
    }


NEARLY_DOG = "[10,10,30,25]"  # IoU 15/20 with the dog
PARTLY_RIGHT = {
    "one claim of three": claim("dog", 5.0, DOG),
    "half a second late": claim("dog", 5.5, DOG),
    "a box that is nearly right": claim("dog", 5.0, NEARLY_DOG),
    "a right and a wrong one": GOOD_AND_BAD,
}
GAMED = {
    "all of it once more": lambda said: said * 2,
    "its first box twice": lambda said: re.sub("(<box>.*?</box>)", r"\1\1", said, count=1),
    "its first time copied": lambda said: said + re.findall("<t>.*?</t>s", said)[0] * 5,
    "a wrong name": lambda said: said + claim("horse", 5.0, DOG),
    "a wrong box": lambda said: said + claim("dog", 5.0, NOWHERE),
    "a time far off": lambda said: said + claim("dog", 30.0, DOG),
}


@pytest.mark.parametrize("thought", PARTLY_RIGHT.values(), ids=PARTLY_RIGHT.keys())
@pytest.mark.parametrize("game", GAMED.values(), ids=GAMED.keys())
def test_strict_pays_no_game_more_than_what_was_said_before(thought, game):
    """What is partly right leaves room for more, but boxes, copies and wrong claims cost."""
    before, after = (
        scored(each, profile=Profile.strict).total for each in (thought, game(thought))
    )
    assert 0 < before < scored(HONEST, profile=Profile.strict).total
    assert after < before


def test_the_paper_pays_a_right_box_under_a_wrong_name():
    thought = PARTLY_RIGHT["a right and a wrong one"]
    gamed = GAMED["a wrong name"](thought)
    before, after = (scored(each, profile=Profile.paper).total for each in (thought, gamed))
    assert after == pytest.approx(before + 2 / 3 - 1 / 2)
