"""The picture of a report: well formed, the same for the same figures, every label there, none over another."""

import itertools
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from atoll.bench.bars import ACTORS, RELAY
from atoll.bench.picture import BARS_PX, CHARACTER_PX, picture
from atoll.bench.report import VERSION, Bar, BenchReport, row

SVG = "{http://www.w3.org/2000/svg}"
FONT_PX = 13
ROUNDED_PX = 0.1


def report():
    raw = row("raw TCP, 64 B", "GB/s", [2.0, 3.0, 9.0], group="rate, 64 B")
    rows = [
        row("relay, memory", "MB", [43.4]),
        raw,
        row("BEP, 64 B", "GB/s", [1.0, 1.1, 1.2], against=raw, group="rate, 64 B", bar=Bar(0.5, of_ratio=True)),
        row("BEP, round trip", "us", [50, 60, 9000], group="round trip", bar=Bar(55, at_most=True)),
        row("<b>&'\" socat, 64 B", "GB/s", [0.5, 0.6, 0.7], against=raw, group="rate, 64 B"),
        row(
            "a name that nobody should have chosen, as it is far too long, 64 B", "GB/s", [0, 0, 0], group="rate, 64 B"
        ),
    ]
    return BenchReport("relay", rows, {"took": "3 s", "rounds": "many " * 50}, ours=("BEP", "relay"))


def texts(root):
    """Each text with the box it takes: left, top, right, bottom."""
    for each in root.iter(f"{SVG}text"):
        left, baseline, width = float(each.get("x")), float(each.get("y")), len(each.text) * CHARACTER_PX
        left -= width if each.get("text-anchor") == "end" else 0
        yield each.text, (left, baseline - FONT_PX * 0.8, left + width, baseline + FONT_PX * 0.25)


def test_every_label_is_there_and_no_text_lies_on_another_or_outside():
    root = ET.fromstring(picture(report()))
    boxes = list(texts(root))
    words = [text for text, _ in boxes]
    assert words[:2] == ["atoll bench relay", "single figures · MB"]
    assert {"raw TCP", "BEP", "<b>&'\" socat", "BEP, round trip", "rate, 64 B · GB/s", "took: 3 s"} <= set(words)
    assert "1.1 (1\N{EN DASH}1.2)  0.37 x raw TCP" in words
    assert "".join(words).count("many") == 50
    _, _, width, height = map(float, root.get("viewBox").split())
    for text, (left, top, right, bottom) in boxes:
        assert left >= 0, text
        assert top >= 0, text
        assert right <= width, text
        assert bottom <= height, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        apart = max(b[0] - a[2], a[0] - b[2], b[1] - a[3], a[1] - b[3]) >= -ROUNDED_PX
        assert apart, f"{one!r} lies on {other!r}"


def test_bars_whiskers_and_what_is_asked_are_drawn_to_one_scale():
    root = ET.fromstring(picture(report()))
    bars = {each.find(f"{SVG}title").text: each for each in root.iter(f"{SVG}rect") if each.get("class") != "page"}
    raw, ours = bars["raw TCP, 64 B"], bars["BEP, 64 B"]
    assert float(ours.get("width")) == pytest.approx(float(raw.get("width")) * 1.1 / 3, abs=0.1)
    assert (raw.get("class"), ours.get("class")) == ("other", "ours")
    # 9 is beyond 2.5 times the greatest median: an arrow at the end, and the bar keeps its size.
    assert float(raw.get("width")) == pytest.approx(BARS_PX / 2.5, abs=0.1)
    asked = [each for each in root.iter(f"{SVG}line") if each.get("class") == "asked"]
    assert float(asked[0].get("x1")) - float(raw.get("x")) == pytest.approx(float(raw.get("width")) / 2, abs=0.1)
    # A single figure has no whisker.
    assert len(list(root.iter(f"{SVG}path"))) == 5


def test_what_is_missed_is_said_in_words_and_not_by_colour_alone():
    found = {each.text.strip(): each.get("class") for each in ET.fromstring(picture(report())).iter(f"{SVG}text")}
    assert found["asked ≤ 55, missed"] == "missed"
    assert found["asked ≥ 0.5 x the baseline, missed"] == "missed"
    assert "≤ 55 MISSED" in report().table()


def test_the_same_figures_give_the_same_picture_with_colours_for_both_pages():
    once = picture(report())
    assert once == picture(report())
    assert "prefers-color-scheme: dark" in once
    assert ET.fromstring(picture(BenchReport("nothing", []))).tag == f"{SVG}svg"


def test_the_report_as_data_has_a_version_and_says_what_is_reached():
    data = report().as_dict()
    assert data["version"] == VERSION
    assert list(data) == ["version", "name", "rows", "notes", "ours"]
    assert [each["reached"] for each in data["rows"]] == [None, None, False, False, None, None]
    assert data["rows"][3]["bar"] == {"value": 55, "at_most": True, "of_ratio": False, "of_speed": False}
    assert set(data["rows"][0]) == {
        *("name", "unit", "minimum", "median", "maximum", "ratio", "ratio_minimum", "ratio_maximum"),
        *("against", "slices", "group", "bar", "reached", "speed", "reached_at_speed"),
    }


@pytest.mark.parametrize(
    ("bar", "speed", "reached", "asked", "drawn"),
    [
        (
            Bar(100, of_speed=True),
            0.5,
            True,
            "≥ 100 MISSED; at 0.50 of the speed: ≥ 50 reached",
            "≥ 100, missed, reached at",
        ),
        (Bar(100, of_speed=True), 0.7, False, "≥ 100 MISSED; at 0.70 of the speed: ≥ 70 MISSED", "≥ 100, missed"),
        (Bar(50, of_speed=True), 2.0, False, "≥ 50; at 2.00 of the speed: ≥ 100 MISSED", "≥ 50"),
        (
            Bar(40, at_most=True, of_speed=True),
            0.5,
            True,
            "≤ 40 MISSED; at 0.50 of the speed: ≤ 80 reached",
            "≤ 40, missed",
        ),
        (Bar(100, of_speed=True), None, None, "≥ 100 MISSED", "≥ 100, missed"),
        (Bar(100), 0.5, None, "≥ 100 MISSED", "≥ 100, missed"),
    ],
)
def test_what_was_asked_of_a_faster_host_is_also_judged_by_the_speed_of_this_one(bar, speed, reached, asked, drawn):
    found = BenchReport("some", [replace(row("ours", "1/s", [60.0]), bar=bar, speed=speed)])
    assert found.rows[0].reached_at_speed is reached
    assert asked in found.table()
    assert found.table().count("speed") == asked.count("speed")
    assert f"asked {drawn}" in picture(found)


def test_a_bar_is_reached_on_its_own_side():
    assert Bar(2).reached_by(2)
    assert not Bar(2).reached_by(1.9)
    assert Bar(2, at_most=True).reached_by(2)
    assert not Bar(2, at_most=True).reached_by(2.1)
    assert all(bar.value > 0 for bar in (RELAY | ACTORS).values())
