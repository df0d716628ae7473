"""What a benchmark reports: rows of min, median and max, each beside the baseline of the same run."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One figure; `ratio` is to the baseline that `against` names, measured in the same run."""

    name: str
    unit: str
    minimum: float
    median: float
    maximum: float
    ratio: float | None = None
    against: str = ""


def row(name: str, unit: str, slices: Sequence[float], *, against: Row | None = None) -> Row:
    """Make a row of at least one slice; the ratio is that of the medians."""
    median = statistics.median(slices)
    ratio = median / against.median if against and against.median else None
    return Row(name, unit, min(slices), median, max(slices), ratio, against.name if against else "")


def _figure(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All rows of a run, and what else one must know to read them."""

    name: str
    rows: list[Row]
    notes: dict[str, Any] = field(default_factory=dict)

    def table(self) -> str:
        """Give the rows as text in columns."""
        heads = ("what", "min", "median", "max", "unit", "ratio", "to")
        lines = [heads] + [
            (
                each.name,
                _figure(each.minimum),
                _figure(each.median),
                _figure(each.maximum),
                each.unit,
                "" if each.ratio is None else f"{each.ratio:.2f}",
                each.against,
            )
            for each in self.rows
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
        right = {1, 2, 3, 5}
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
        return asdict(self)
