"""A reward of a user's own: a policy that has hardly learned to write still differs in it."""

from o3rl.types import Reward, Row


def vowels(text: str, row: Row, reward: Reward) -> float:
    """The share of vowels among the characters, whatever was asked and earned."""
    del row, reward
    return sum(text.count(letter) for letter in "aeiou") / (1 + len(text))
