"""ROUGE against the package that the released code uses, and what it drops: other scripts."""

import itertools
import random
import time
from pathlib import Path

import pytest
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer

from rewards.parts import stemmer
from rewards.parts.rouge import ascii_rouge, unicode_rouge, unicode_tokens

SUFFIXES = [suffix for suffix, _ in (*stemmer.STEP_2, *stemmer.STEP_3, *stemmer.STEP_4)]
SUFFIXES += "s es ies ied ed eed ing at bl iz y ly e ll logi alli ion sion tion ss sses".split()  # noqa: SIM905
SENTENCE = (
    "the a dog dogs running runs ran quickly red, red-coloured car cars vest. relational happily "
    "national generously fly flies 3 12.5 woman's wearing"
)
WORDS = SENTENCE.split()


def words() -> set[str]:
    """Real words from this project's own text, and short stems before every suffix or two."""
    here = Path(__file__).parents[3]
    sources = [*here.glob("o3rl/*.py"), *here.glob("rewards/*.py"), *here.glob("tests/o3rl/*.py")]
    text = " ".join(path.read_text(encoding="utf-8") for path in sources)
    real = {word.lower() for word in text.split() if word.isascii() and word.isalpha()}
    letters = "aeybtlsxw"
    stems = ["".join(made) for made in itertools.product(letters, repeat=3)]
    source = random.Random(3)
    made = {stem + suffix for stem in stems for suffix in SUFFIXES}
    twice = {
        source.choice(stems) + source.choice(SUFFIXES) + source.choice(SUFFIXES)
        for _ in range(20_000)
    }
    return real | made | twice | set(stemmer.IRREGULAR) | {"", "y", "yy", "dies", "died", "a1b2s"}


def test_stems_equal_nltk():
    nltk, ours = PorterStemmer(), stemmer.Stemmer()
    different = [word for word in words() if nltk.stem(word) != ours.stem(word)]
    assert not different


@pytest.fixture(scope="module")
def published():
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)

    def mean(text: str, truth: str) -> float:
        return sum(score.fmeasure for score in scorer.score(truth, text).values()) / 3

    return mean


def test_equal_to_the_package(published):
    source = random.Random(5)
    for _ in range(2_000):
        text, truth = (" ".join(source.choices(WORDS, k=source.randrange(9))) for _ in range(2))
        assert ascii_rouge(text, truth) == pytest.approx(published(text, truth), abs=1e-12)
        assert unicode_rouge(text, truth) == ascii_rouge(text, truth)


@pytest.mark.parametrize(
    ("text", "truth", "value"),
    [
        # STGR.md; 7 of 12 and of 7 words: F1 0.7368, bigrams 6 of 11 and of 6: 0.7059 … mean:
        (
            "The woman is wearing a red vest over a white, long-sleeved shirt.",
            "The woman is wearing a red vest.",
            0.688889,
        ),
        ("running dogs", "run dog", 1.0),
        ("", "run dog", 0.0),
        ("run dog", "", 0.0),
        ("dog", "dog", 2 / 3),  # no bigrams
        ("…", "?!", 0.0),
    ],
)
def test_worked_values(text, truth, value):
    assert ascii_rouge(text, truth) == pytest.approx(value, abs=1e-6)
    assert unicode_rouge(text, truth) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    "text", ["红色的汽车", "красная машина", "लाल गाड़ी", "赤い車です", "سيارة حمراء", "รถสีแดง"]
)
def test_other_scripts_count_in_unicode_only(text):
    assert ascii_rouge(text, text) == 0.0
    assert unicode_rouge(text, text) == 1.0
    assert 0 < unicode_rouge(text[:3], text) < 1 or len(unicode_tokens(text)) < 3


def test_unicode_tokens():
    assert unicode_tokens("Café-Restaurants") == ["café", "restaur"]
    assert unicode_tokens("Cafe\u0301") == ["café"]  # composed and not are the same
    assert unicode_tokens("红车 car") == ["红", "车", "car"]
    assert unicode_tokens("हिन्दी है") == ["हिन्दी", "है"]  # vowel signs stay with their letters
    assert unicode_tokens("รถดี") == ["ร", "ถ", "ดี"]


def test_a_long_answer_takes_linear_time():
    source = random.Random(1)
    text = " ".join("".join(source.choices("abcdeings", k=7)) for _ in range(20_000))
    start = time.process_time()
    ascii_rouge(text, "a red car turns left at the crossing " * 5)
    assert time.process_time() - start < 2.0
