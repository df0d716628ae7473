"""The sessions' benchmark runs to its end and reports every figure; speeds are not judged here."""

import json

import pytest
from click.testing import CliRunner

from atoll.bench import sessions
from atoll.bench.rounds import ROUNDS
from atoll.cli.bench import command


def test_a_short_run_reports_every_figure():
    said = []
    report = sessions.run(0.5, sizes=(64, 65_000), progress=said.append)
    named = {each.name: each for each in report.rows}
    assert set(named) >= {
        "bare agreements, handshake, both ends",
        "session, handshake, both ends",
        "session, living, re-handshake, both ends",
        "noiseprotocol, handshake, both ends",
        "bare AES-GCM, 64 B, sealed and opened",
        "record, 64 B, sealed and opened",
        "session, messages sharing records, 65000 B, sealed and opened",
        "noiseprotocol, 65000 B, sealed and opened",
        "sealing alone, bulk, both ends",
        "streams, bulk, both ends",
    }
    for each in report.rows:
        assert 0 < each.minimum <= each.median <= each.maximum, each
        assert len(each.slices) == ROUNDS
    assert named["record, 64 B, sealed and opened"].against == "bare AES-GCM, 64 B, sealed and opened"
    assert named["streams, bulk, both ends"].against == "sealing alone, bulk, both ends"
    assert said[0] == "1/5 handshake, both ends"


def test_without_noiseprotocol_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(sessions.importlib.util, "find_spec", lambda _name: None)
    report = sessions.run(0.1, sizes=(64,))
    assert report.notes["absent: noiseprotocol"] == "not installed (pip install noiseprotocol)"
    assert not [each for each in report.rows if "noiseprotocol" in each.name]


def test_the_command_prints_json_and_writes_a_picture(tmp_path):
    file = tmp_path / "sessions.svg"
    done = CliRunner().invoke(command, ["sessions", "--seconds", "0.5", "--sizes", "64", "--json", "--svg", str(file)])
    assert done.exit_code == 0
    data = json.loads(done.stdout)
    assert (data["version"], data["name"]) == (1, "sessions")
    assert "measuring 1/4 handshake" in done.stderr
    assert file.read_text().startswith("<svg")


@pytest.mark.parametrize("sizes", ["many", "0", "70000", "64,"])
def test_sizes_that_make_no_sense_are_refused_in_words(sizes):
    done = CliRunner().invoke(command, ["sessions", f"--sizes={sizes}"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("atoll: ")


def test_a_picture_that_cannot_be_written_is_said_after_the_figures(tmp_path):
    file = tmp_path / "gone" / "sessions.svg"
    done = CliRunner().invoke(command, ["sessions", "--seconds", "0.5", "--sizes", "64", "--svg", str(file)])
    assert done.exit_code == 1
    assert "bare AES-GCM" in done.stdout
    assert "the picture was not written" in done.stderr
