"""What makes sampling repeatable; light, other engines have no vLLM."""

from hashlib import blake2b

from o3rl.types import Prompt


def seed_of(seed: int, prompt: Prompt, sample: int) -> int:
    """63 bits from (run seed, group, sample) and, from its second on, the prompt's attempt.

    So a repeat of a request samples the same tokens, and a further attempt samples afresh.
    """
    again = f"/{prompt.attempt}" if prompt.attempt else ""
    return _bits(f"{seed}/{prompt.group}/{sample}{again}")


def seed_of_question(seed: int, question: str, sample: int) -> int:
    """The same for what is asked outside of training; `question` tells it from all others."""
    return _bits(f"{seed}/{question}/{sample}")


def _bits(key: str) -> int:
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
