"""A node that a command names; an empty name, as of a variable that is not set, is none and not this node."""

import pytest
from click.testing import CliRunner

from atoll.cli import main


@pytest.mark.parametrize(
    "words",
    [
        ("receive", "--from", ""),
        ("send", "file", ""),
        ("pub", "a", "x", "--to", ""),
        ("sub", "a", "--from", " "),
        ("image", "pull", "echo", "--from", ""),
        ("container", "rm", "echo", "--node", ""),
        ("actor", "move", "tide", "--to", ""),
        ("node", "show", ""),
    ],
    ids=" ".join,
)
def test_an_empty_name_is_refused(words):
    done = CliRunner().invoke(main, ["--at", "/nowhere/api.sock", *words])
    assert done.exit_code == 2, done.output
    assert "it names no node" in done.stderr
