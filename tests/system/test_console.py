"""The log of a container: kept over a restart, bounded, and never the end of anything."""

import errno
import logging

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.actors.container_manager import console as module
from atoll.actors.container_manager.console import Console
from atoll.actors.container_manager.errors import StorageFault
from atoll.actors.container_manager.runtimes import frames
from atoll.actors.container_manager.vault import Vault
from atoll.transport.errors import MalformedFrame


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("logs")


@settings(max_examples=examples(50))
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\\nr\n\r\0 ")), max_size=5))
def test_what_was_written_is_there_after_a_restart_to_the_letter(folder, texts):
    with Vault(folder) as vault:
        Console(vault, "a").remove()
        Console(vault, "a").write(tuple(("stdout", text) for text in texts))
        assert [each.text for each in Console(vault, "a").newest(10)] == texts


def test_the_file_is_bounded_by_moving_it_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FILE_BYTES_MAX", 100)
    with Vault(tmp_path) as vault:
        console = Console(vault, "a")
        for number in range(20):
            console.note(f"line {number}")
        assert vault.names() == ["a.log", "a.old.log"]
        assert vault.total_bytes() < 400
        assert [each.text for each in console.newest(2)] == ["line 18", "line 19"]


@pytest.mark.parametrize("refusal", [StorageFault("no space is left"), OSError(errno.EIO, "input/output error")])
def test_a_disk_that_refuses_ends_nothing_and_is_said_once(tmp_path, monkeypatch, caplog, refusal):
    def refuse(*_):
        raise refusal

    with Vault(tmp_path) as vault, caplog.at_level(logging.WARNING):
        console = Console(vault, "a")
        monkeypatch.setattr(vault, "append", refuse)
        for text in ("first", "second"):
            console.note(text)
        assert [each.text for each in console.newest(5)] == ["first", "second"]
        assert len(caplog.records) == 1
        monkeypatch.undo()
        console.note("third")
        assert [each.text for each in Console(vault, "a").newest(5)] == ["third"]


@pytest.mark.parametrize("stream", ["stdout\n0", "node", ""])
def test_a_worker_names_only_streams_that_there_are(stream):
    data = frames.pack(frames.Logged(((stream, "text"),)))
    with pytest.raises(MalformedFrame):
        list(frames.Splitter(frames.FromWorker).feed(data))
