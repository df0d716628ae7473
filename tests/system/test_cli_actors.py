"""Commands about the actors that move."""

from cli_probe import failed, fine
from small_node import PHONE


def test_actors_are_listed_with_their_hosts_and_why_one_does_not_run(gate):
    lines = fine(gate("actor", "list")).splitlines()
    assert lines[0].split() == ["NAME", "CLASS", "KIND", "HOST", "STATE", "PAUSE", "WHY"]
    assert lines[1].split() == ["books/ledger", "Ledger", "durable", "tv", "running", "12.5", "ms", "-"]
    assert lines[2].endswith("unhosted  -        it is placed on phone, which does not run it")
    actors = gate.json("actor", "list")["actors"]
    assert [(each["name"], each["kind"], each["paused_ms"]) for each in actors] == [
        ("books/ledger", "durable", 12.5),
        ("tide", "soft", None),
    ]


def test_what_is_not_certain_is_said(gate):
    gate.node.actors.why = "no majority of the voters is in reach"
    for command in (("list",), ("show", "tide")):
        done = gate("actor", *command)
        assert done.exit_code == 0
        assert done.stderr == "this is what the node heard last: no majority of the voters is in reach\n"


def test_an_actor_is_shown_by_its_name_whatever_is_in_it(gate):
    text = fine(gate("actor", "show", "books/ledger"))
    assert "class       Ledger\n" in text
    assert "founded     in generation 4\ngeneration  7\nstores      tv, phone (behind)\nlast pause  12.5 ms\n" in text
    assert "stores      none: its state is with its host" in fine(gate("actor", "show", "tide"))
    failed(gate("actor", "show", "nobody"), "no actor of this site that moves is called nobody", "atoll actor list")


def test_an_actor_is_moved_and_its_pause_is_told(gate):
    done = fine(gate("actor", "move", "books/ledger", "--to", "phone", "--within", "3"))
    assert done == "books/ledger is on phone; it paused for 3.2 ms\n"
    assert gate.node.actors.moves == [("books/ledger", "phone", 3.0)]
    moved = gate.json("actor", "move", "books/ledger", "--to", PHONE)
    assert (moved["host"]["id"], moved["paused_ms"]) == (PHONE, 3.25)


def test_a_move_that_cannot_be_says_why_and_what_to_do(gate):
    failed(gate("actor", "move", "tide", "--to", "phone"), "tide stays where it is: the target declines", "host it")
    failed(gate("actor", "move", "nobody", "--to", "phone"), "no actor of this site", "atoll actor list")
    failed(gate("actor", "move", "tide", "--to", "nowhere"), "no node is called nowhere", "")
    wrong = gate("actor", "move", "tide")
    assert wrong.exit_code == 2
    assert "--to" in wrong.stderr


def test_an_actor_is_removed_only_by_who_says_so_twice(gate):
    asked = gate("actor", "remove", "books/ledger")
    failed(asked, "nothing was changed", "say it again with --yes")
    assert "books/ledger is a durable Ledger on tv.\nIts state is lost, and its log on tv, phone." in asked.stdout
    assert gate.node.actors.removed == []
    assert fine(gate("actor", "remove", "books/ledger", "--yes")) == "books/ledger was removed\n"
    assert gate.node.actors.removed == [("books/ledger", False, 4)], "the one that it has seen"
    failed(gate("actor", "remove", "nobody", "--yes"), "no actor of this site", "atoll actor list")


def test_an_actor_whose_host_says_nothing_is_removed_by_force_only(gate):
    failed(gate("actor", "remove", "tide", "--yes"), "whether tide is removed is not known", "with --force")
    assert gate.json("actor", "remove", "tide", "--yes", "--force")["name"] == "tide"
    assert gate.node.actors.removed == [("tide", True, 0)]


def test_a_removal_that_is_repeated_ends_no_actor_that_was_begun_since(gate):
    text = fine(gate("actor", "remove", "books/ledger", "--yes", "--founded", "2"))
    since = "another one of that name was founded since, in generation 4, and stays"
    assert text == f"books/ledger was removed before; {since}\n"
    assert gate.json("actor", "remove", "books/ledger", "--yes", "--founded", "2")["founded_since"] == 4
    failed(gate("actor", "remove", "tide", "--yes", "--founded", "3"), "is not known", "say it again with --founded 3")
    wrong = gate("actor", "remove", "tide", "--yes", "--founded", "0")
    assert wrong.exit_code == 2
