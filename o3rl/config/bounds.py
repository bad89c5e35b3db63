"""The range of a field, written beside it, and the checker that reads it.

>>> readers: int = bound(0, least=0, zero="by the machine")  # "0 (by the machine) or more"
"""

from dataclasses import dataclass, field, fields
from typing import Any

from o3rl.config.require import require


@dataclass(frozen=True, slots=True)
class Bound:
    """What a value must be; `zero` says what 0 means, `why` why it must be so."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    among: tuple[Any, ...] = ()
    text: str = ""  # what a text that is not empty is
    zero: str = ""
    why: str = ""

    def holds(self, value: Any) -> bool:
        """Whether `value` is so; NaN is in no range."""
        if self.among or self.text:
            return value in self.among if self.among else bool(value)
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    @property
    def rule(self) -> str:
        """In words: "1 or more", "in (0, 1]", "2 or 3"."""
        words = self.text or " or ".join(map(str, self.among)) or self._range()
        return f"{words}: {self.why}" if self.why else words

    def _range(self) -> str:
        low = self.above if self.least is None else self.least
        high = self.below if self.most is None else self.most
        zero = f" ({self.zero})" if self.zero else ""
        if high is not None:
            left, right = "[" if self.above is None else "(", "]" if self.below is None else ")"
            return f"in {left}{low}, {high}{right}{zero and f', 0{zero}'}"
        return f"more than {low}" if self.least is None else f"{low}{zero} or more"


def bound(default: Any, **limits: Any) -> Any:
    """A field with `default` whose value keeps within `limits`, which are those of `Bound`."""
    return field(default=default, metadata={"bound": Bound(**limits)})


@dataclass
class Section:
    """A part of the configuration: every field is checked when it is made, then `check` asked."""

    def __post_init__(self):
        name = type(self).__name__.removesuffix("Config").lower()
        for each in fields(self):
            if rule := each.metadata.get("bound"):
                value = getattr(self, each.name)
                require(rule.holds(value), f"{name}.{each.name}", value, rule.rule)
        self.check()

    def check(self) -> None:
        """What several fields must be together."""
