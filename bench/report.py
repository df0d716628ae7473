"""What a benchmark reports: rows of min, median and max, each beside the baseline of the same run."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

VERSION = 1
"""Of what `as_dict` gives: fields are added, none renamed or removed."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What is asked of a figure: at least so much, or at most; of itself, or of its ratio to the baseline."""

    value: float
    at_most: bool = False
    of_ratio: bool = False
    of_speed: bool = False
    """It was set on a host of a certain speed, and is asked of others in proportion."""

    def at(self, speed: float) -> "Bar":
        """Give the bar for a host that has so much of the speed of the one it was set on; 1 is as fast."""
        return replace(self, value=self.value / speed if self.at_most else self.value * speed)

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {shown(self.value)}{' x the baseline' if self.of_ratio else ''}"

    def reached_by(self, figure: float) -> bool:
        """Tell whether the figure, or the ratio, is good enough."""
        return figure <= self.value if self.at_most else figure >= self.value


@dataclass(frozen=True, slots=True)
class Row:
    """One figure; the ratios are to the baseline that `against` names, round by round."""

    name: str
    unit: str
    minimum: float
    median: float
    maximum: float
    ratio: float | None = None
    """The median of the rounds' ratios."""
    ratio_minimum: float | None = None
    ratio_maximum: float | None = None
    against: str = ""
    slices: tuple[float, ...] = ()
    """The figure of each round."""
    group: str = ""
    """What it may be compared with at a glance: the rows of the same group and unit."""
    bar: Bar | None = None
    speed: float | None = None
    """How fast this host was meanwhile, by that on which the bar was set; None where that was not measured."""

    @property
    def reached_at_speed(self) -> bool | None:
        """Whether the median reaches what is asked at this host's speed; None if that is nothing else than the bar."""
        if self.bar is None or not self.bar.of_speed or self.speed is None:
            return None
        return self.bar.at(self.speed).reached_by(self.median)

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the bar; None if there is none, or nothing to judge by."""
        figure = self.ratio if self.bar is not None and self.bar.of_ratio else self.median
        return None if self.bar is None or figure is None else self.bar.reached_by(figure)


def row(
    name: str,
    unit: str,
    slices: Sequence[float],
    *,
    against: Row | None = None,
    group: str = "",
    bar: Bar | None = None,
) -> Row:
    """Make a row of at least one slice; a baseline must have as many, taken in the same rounds."""
    ratios: list[float] = []
    if against is not None and all(against.slices):
        ratios = [ours / theirs for ours, theirs in zip(slices, against.slices, strict=True)]
    return Row(
        name,
        unit,
        minimum=min(slices),
        median=statistics.median(slices),
        maximum=max(slices),
        ratio=statistics.median(ratios) if ratios else None,
        ratio_minimum=min(ratios, default=None),
        ratio_maximum=max(ratios, default=None),
        against=against.name if against else "",
        slices=tuple(slices),
        group=group,
        bar=bar,
    )


def shown(value: float) -> str:
    """Write a figure with three digits, or all of a large one."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _bar(each: Row) -> str:
    if each.bar is None:
        return ""
    text = f"{each.bar}{' MISSED' if each.reached is False else ''}"
    if each.reached_at_speed is None or each.speed is None:
        return text
    verdict = "reached" if each.reached_at_speed else "MISSED"
    return f"{text}; at {each.speed:.2f} of the speed: {each.bar.at(each.speed)} {verdict}"


def _ratio(each: Row) -> str:
    if each.ratio is None:
        return ""
    spread = f" ({each.ratio_minimum:.2f} to {each.ratio_maximum:.2f})" if len(each.slices) > 1 else ""
    return f"{each.ratio:.2f}{spread}"


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All rows of a run, and what else one must know to read them."""

    name: str
    rows: list[Row]
    notes: dict[str, Any] = field(default_factory=dict)
    ours: tuple[str, ...] = ()
    """How the names of rows begin that are about Atoll; the others are what it is compared with."""

    def table(self) -> str:
        """Give the rows as text in columns."""
        heads = ("what", "min", "median", "max", "unit", "ratio", "to", "bar")
        lines = [heads] + [
            (
                each.name,
                shown(each.minimum),
                shown(each.median),
                shown(each.maximum),
                each.unit,
                _ratio(each),
                each.against,
                _bar(each),
            )
            for each in self.rows
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
        right = {1, 2, 3}
        text = [
            "  ".join(
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*text, "", *(f"{key}: {value}" for key, value in self.notes.items())])

    def as_dict(self) -> dict[str, Any]:
        """Give everything as plain data for JSON."""
        data = asdict(self)
        for each, plain in zip(self.rows, data["rows"], strict=True):
            plain["reached"], plain["reached_at_speed"] = each.reached, each.reached_at_speed
        return {"version": VERSION, **data}
