"""A report as a picture: SVG without any library, for light and dark pages, the same for the same figures.

One panel for each group of rows of one unit; a bar is the median, the whisker goes from the least to the greatest
round, a dashed line is what is asked. A whisker far beyond all medians is cut to an arrow. All text is in one
monospaced font, so that its width is known where no font is at hand, and nothing overlaps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from atoll.bench.report import BenchReport, Row, shown

CHARACTER_PX = 7.9
"""Of the widest of the monospaced fonts named below, at 13 px; a narrower one leaves a gap."""
LABEL_CHARACTERS_MAX = 44
NOTE_CHARACTERS_MAX = 118
BARS_PX = 340
ROW_PX, TITLE_PX, PANEL_GAP_PX, MARGIN_PX, GAP_PX = 22, 26, 16, 20, 10
BAR_PX = 12
CUT_AT = 2.5
"""Times the greatest median (or bar): what lies beyond would only make the rest small."""
_STYLE = """
text { font: 13px ui-monospace, "DejaVu Sans Mono", "Liberation Mono", Menlo, Consolas, monospace; fill: #1f2328 }
.title { font-weight: 700 } .quiet { fill: #59636e } .missed { fill: #b3261e; font-weight: 700 }
.page { fill: #ffffff } .other { fill: #b8c0c8 } .ours { fill: #2f6fde }
.whisker { stroke: #1f2328; stroke-width: 1.5; fill: none }
.asked { stroke: #b3261e; stroke-width: 2; stroke-dasharray: 3 2 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .quiet { fill: #9aa4af } .missed { fill: #ff8a80 }
.page { fill: #0d1117 } .other { fill: #57606a } .ours { fill: #4f8ff7 }
.whisker { stroke: #e6edf3 } .asked { stroke: #ff8a80 }
}
"""


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the labels end, the bars begin, and the figures stand."""

    bars_at: float
    figures_at: float
    width: float


def picture(report: BenchReport) -> str:
    """Draw all rows of a report."""
    by_group: dict[tuple[str, str], list[Row]] = {}
    for each in report.rows:
        by_group.setdefault((each.group, each.unit), []).append(each)
    panels = [_Panel(rows) for rows in by_group.values()]
    medians = {each.name: each.median for each in report.rows}
    columns = _columns(panels, [f"{key}: {value}" for key, value in report.notes.items()])
    parts: list[str] = []
    top = float(MARGIN_PX)
    parts.append(_text(MARGIN_PX, top + 15, f"atoll bench {report.name}", "title"))
    top += TITLE_PX + PANEL_GAP_PX
    for panel in panels:
        parts += _drawn(panel, top, columns, medians, report.ours)
        top += TITLE_PX + ROW_PX * len(panel.rows) + PANEL_GAP_PX
    for line in _notes(report):
        parts.append(_text(MARGIN_PX, top + 15, line, "quiet"))
        top += ROW_PX
    width, height = _number(columns.width), _number(top + MARGIN_PX)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head += f" role='img' aria-label={quoteattr(f'atoll bench {report.name}')}>"
    page = '<rect class="page" width="100%" height="100%"/>'
    return "\n".join([head, f"<style>{_STYLE}</style>", page, *parts, "</svg>\n"])


class _Panel:
    """Rows that are looked at together, and what each is called and says there."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.labels = _labels(rows)
        named = {each.name: label for each, label in zip(rows, self.labels, strict=True)}
        self.figures = [_figures(each, named.get(each.against, each.against)) for each in rows]


def _columns(panels: Sequence[_Panel], notes: Sequence[str]) -> _Columns:
    labels = [len(label) for panel in panels for label in panel.labels]
    figures = [
        len(text) + len(_asked(each)) for panel in panels for text, each in zip(panel.figures, panel.rows, strict=True)
    ]
    bars_at = MARGIN_PX + max(labels, default=0) * CHARACTER_PX + GAP_PX
    figures_at = bars_at + BARS_PX + GAP_PX
    longest_note = min(NOTE_CHARACTERS_MAX, max(map(len, notes), default=0))
    right = max(figures_at + max(figures, default=0) * CHARACTER_PX, MARGIN_PX + longest_note * CHARACTER_PX)
    return _Columns(bars_at, figures_at, right + MARGIN_PX)


def _labels(rows: Sequence[Row]) -> list[str]:
    """Name each row by what the others of its panel do not say, too."""
    names = [each.name.split(", ") for each in rows]
    if len(rows) > 1:
        while all(len(each) > 1 for each in names) and len({each[-1] for each in names}) == 1:
            names = [each[:-1] for each in names]
    return [_cut(", ".join(each)) for each in names]


def _cut(text: str) -> str:
    return text if len(text) <= LABEL_CHARACTERS_MAX else f"{text[: LABEL_CHARACTERS_MAX - 1]}…"


def _drawn(
    panel: _Panel, top: float, columns: _Columns, medians: dict[str, float], ours: Sequence[str]
) -> Iterator[str]:
    rows, first = panel.rows, panel.rows[0]
    title = f"{first.group} · {first.unit}" if first.group else f"single figures · {first.unit}"
    yield _text(MARGIN_PX, top + 15, title, "title")
    asked = [_asked_value(each, medians) for each in rows]
    greatest = max([each.median for each in rows] + [each for each in asked if each is not None])
    end = min(max(greatest, *(each.maximum for each in rows)), greatest * CUT_AT) or 1.0
    scale = BARS_PX / end
    for number, (each, label, figures, line) in enumerate(zip(rows, panel.labels, panel.figures, asked, strict=True)):
        middle = top + TITLE_PX + ROW_PX * number + ROW_PX / 2
        baseline = middle + 4.5
        bar_end = columns.bars_at + each.median * scale
        kind = "ours" if each.name.startswith(tuple(ours)) else "other"
        yield _text(columns.bars_at - GAP_PX, baseline, label, "", anchor="end")
        yield (
            f'<rect class="{kind}" x="{_number(columns.bars_at)}" y="{_number(middle - BAR_PX / 2)}" '
            f'width="{_number(bar_end - columns.bars_at)}" height="{BAR_PX}" rx="2">'
            f"<title>{escape(each.name)}</title></rect>"
        )
        yield from _whisker(each, columns.bars_at, scale, end, middle)
        if line is not None:
            at = _number(columns.bars_at + line * scale)
            edges = _number(middle - ROW_PX / 2 + 1), _number(middle + ROW_PX / 2 - 1)
            yield f'<line class="asked" x1="{at}" y1="{edges[0]}" x2="{at}" y2="{edges[1]}"/>'
        yield _text(columns.figures_at, baseline, figures, "")
        if asked_text := _asked(each):
            at_px = columns.figures_at + len(figures) * CHARACTER_PX
            yield _text(at_px, baseline, asked_text, "missed" if each.reached is False else "quiet")


def _whisker(each: Row, left: float, scale: float, end: float, middle: float) -> Iterator[str]:
    if len(each.slices) < 2:
        return
    low, high = left + each.minimum * scale, left + min(each.maximum, end) * scale
    up, down = _number(middle - 4), _number(middle + 4)
    caps = f"M{_number(low)} {up}V{down}M{_number(low)} {_number(middle)}H{_number(high)}"
    if each.maximum <= end:
        caps += f"M{_number(high)} {up}V{down}"
    else:
        # An arrow: it goes on.
        caps += f"M{_number(high - 5)} {up}L{_number(high)} {_number(middle)}L{_number(high - 5)} {down}"
    yield f'<path class="whisker" d="{caps}"/>'


def _figures(each: Row, baseline: str) -> str:
    text = shown(each.median)
    if len(each.slices) > 1:
        text += f" ({shown(each.minimum)}–{shown(each.maximum)})"  # noqa: RUF001 - a range, to be read
    return text if each.ratio is None else f"{text}  {each.ratio:.2f} x {_cut(baseline)}"


def _asked(each: Row) -> str:
    if each.bar is None:
        return ""
    if each.reached is not False:
        return f"  asked {each.bar}"
    return f"  asked {each.bar}, missed{', reached at this speed' if each.reached_at_speed else ''}"


def _asked_value(each: Row, medians: dict[str, float]) -> float | None:
    if each.bar is None:
        return None
    return each.bar.value * medians[each.against] if each.bar.of_ratio and each.against in medians else each.bar.value


def _notes(report: BenchReport) -> Iterator[str]:
    for key, value in report.notes.items():
        line = f"{key}: {value}"
        while line:
            yield line[:NOTE_CHARACTERS_MAX]
            line = line[NOTE_CHARACTERS_MAX:].lstrip()


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "") -> str:
    attributes: dict[str, Any] = {"x": _number(x), "y": _number(y)}
    if kind:
        attributes["class"] = kind
    if anchor:
        attributes["text-anchor"] = anchor
    attributes["xml:space"] = "preserve"
    return f"<text {' '.join(f'{name}={quoteattr(value)}' for name, value in attributes.items())}>{escape(text)}</text>"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
