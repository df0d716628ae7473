"""What the documents say is so: every table that names code equals the code; `lab/` runs their commands."""

import importlib
import inspect
import pkgutil
import re
import tomllib
from itertools import pairwise

import click
import pytest
from documents import PAGES, ROOT, fenced, is_make, shell
from msgspec import inspect as types

from atoll import actors, cli
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.gateway.authority import ANY, SCOPES
from atoll.actors.gateway.problems import CATALOGUE
from atoll.actors.runtime import Actor
from atoll.actors.runtime import errors as runtime_errors
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.cluster_specs import NodeConfig
from atoll.cluster_specs import config as configs
from atoll.cluster_specs.reading import as_plain, as_struct
from atoll.cluster_specs.spec import parse_spec
from atoll.node import codec
from atoll.transport.envelope import Kind
from atoll.transport.link_frames import FrameKind

README = PAGES["README.md"]
PROTOCOL, COMMANDS = PAGES["docs/protocol.md"], PAGES["docs/commands.md"]
MAKEFILE = (ROOT / "Makefile").read_text()
STAGES = {"", "node", "left", "right", "up", "cluster", "serve"}


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_block_is_of_a_kind_that_runs(page):
    for language, stage, text in fenced(page):
        assert language in {"", "sh", "python", "toml", "nft"}, f"{page}: nothing runs a block of {language!r}"
        assert not stage or (language == "sh" and stage in STAGES), f"{page}: there is no stage {stage!r}"
        assert language or not re.search(r"^\$ ", text, re.MULTILINE), f"{page}: a command in a block that does not run"


@pytest.mark.parametrize(("page", "text"), [each for each in shell("") if is_make(each[1])])
def test_make_targets_exist(page, text):
    for target in re.findall(r"^make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), f"{page}: make {target}"


@pytest.mark.parametrize(
    ("page", "file"),
    [
        ("README.md", "embedding.py"),
        ("docs/migratable-actors.md", "ledger.py"),
        ("docs/publish-subscribe.md", "topics.py"),
    ],
)
def test_the_example_is_the_one_that_is_kept_as_a_file(page, file):
    kept = ROOT / "docs" / "examples" / file
    (example,) = [text for language, _, text in fenced(page) if language == "python"]
    assert kept.read_text() == example


@pytest.mark.parametrize("page", sorted(PAGES))
def test_specs_and_configs_in_the_documents_are_good(page):
    for language, _, text in fenced(page):
        if language == "toml":
            if "[[site]]" in text:
                parse_spec(text, page)
            else:
                as_struct(tomllib.loads(text), NodeConfig, page)


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", PAGES[page]):
        assert "://" in target or (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"
    for file, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", PAGES[page]):
        text = PAGES[page] if not file else (ROOT / page).parent.joinpath(file).read_text()
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in titles}, (
            f"{page}: #{anchor}"
        )


def test_the_readme_stays_short_and_begins_with_two_commands():
    assert len(README.splitlines()) <= 100
    first = next(text for language, _, text in fenced("README.md") if language == "sh")
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make test"]


@pytest.mark.parametrize("page", sorted(PAGES))
def test_files_that_are_named_exist(page):
    for name in re.findall(
        r"`((?:actors|transport|cli|testing|tests|cluster_specs|bench|docs)/[\w./-]*)`", PAGES[page]
    ):
        assert (ROOT / name).exists(), f"{page} names {name}"


def test_every_decision_is_listed_under_its_number():
    folder = ROOT / "docs" / "decisions"
    rows = re.findall(r"^\| \[(\d{4})\]\((\1-.+?\.md)\) \|", (folder / "README.md").read_text(), re.MULTILINE)
    assert [page for _, page in rows] == sorted(each.name for each in folder.glob("[0-9]*.md"))


# Tables


def rows(text, *header):
    """Give the cells of the tables with that header, without the marks around code."""
    start = f"| {' | '.join(header)}"
    found, inside = [], False
    for line in text.splitlines():
        if line.startswith(start):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            found.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    assert found, f"no table begins with {start}"
    return found


def test_the_table_of_messages_is_the_codec():
    documented = {tag: (name, fields) for tag, name, fields, *_ in rows(PROTOCOL, "tag", "message")}
    wanted = {
        kind.__struct_config__.tag: (kind.__name__, ", ".join(kind.__struct_fields__) or "-")
        for kind in codec().messages
    }
    assert documented == wanted, "correct the table in docs/protocol.md"


def test_the_table_of_limits_is_the_code():
    for file, name, value, _ in [row for row in rows(PROTOCOL, "file", "constant") if row[1]]:
        module = importlib.import_module("atoll." + file.removesuffix(".py").replace("/", "."))
        assert str(getattr(module, name)) == value, f"{file}: {name}; correct docs/protocol.md"


def test_the_layouts_are_those_of_the_code():
    found = re.findall(r"<!-- sizes: ([\w.]+)\.(\w+) -->\n\| bytes.*\n\|---.*\n((?:\|.*\n)+)", PROTOCOL)
    assert len(found) == 4
    for module, name, table in found:
        layout = getattr(importlib.import_module(f"atoll.{module}"), name)
        sizes = [int(row.split("|")[1]) for row in table.splitlines()]
        # One field of the format after the other: `3s`, `B`, `Q`.
        fields = re.findall(r"\d+s|[A-Z]", layout.format)
        widths = {"B": 1, "H": 2, "I": 4, "Q": 8}
        assert sizes == [int(each[:-1]) if each.endswith("s") else widths[each] for each in fields], name


def golden(file):
    lines = (ROOT / "tests" / "golden" / file).read_text().splitlines()
    return {name: bytes.fromhex(data) for name, _, data in (line.partition(" = ") for line in lines)}


def test_the_frames_of_a_relay_have_their_golden_bytes():
    documented = {name: int(kind, 16) for kind, name, *_ in rows(PROTOCOL, "kind", "frame", "from")}
    pinned = {
        name.split()[0].strip(","): data[0] for name, data in golden("relay_frames.txt").items() if name[0].isupper()
    }
    assert documented == pinned


def test_a_beacon_begins_as_documented():
    table = PROTOCOL.partition("<!-- sizes: transport.beacon_packet._HEAD -->\n")[2].partition("\n\n")[0]
    data, at, seen = golden("beacon.txt")["neighbour"], 0, {}
    for row in table.splitlines()[2:]:
        size, name = (cell.strip() for cell in row.split("|")[1:3])
        seen[name] = data[at : (at := at + int(size))]
    assert (seen["magic"], seen["version"], seen["flags"]) == (b"ATL", b"\1", b"\0")
    assert seen["port"] == (8085).to_bytes(2, "big")


def test_kinds_and_reasons_are_those_of_the_code():
    assert [(int(kind), name) for kind, name, _ in rows(PROTOCOL, "kind", "frame", "body")] == [
        (kind.value, kind.name) for kind in FrameKind
    ]
    assert [(int(kind), name) for kind, name, _ in rows(PROTOCOL, "kind", "name", "meaning")] == [
        (kind.value, kind.name) for kind in Kind
    ]
    assert [tuple(row) for row in rows(PROTOCOL, "number", "name", "sentence")] == [
        (str(each.value), each.name, each.sentence) for each in Reason
    ]
    faults = {
        kind.kind: name
        for name, kind in inspect.getmembers(runtime_errors, inspect.isclass)
        if issubclass(kind, runtime_errors.AskFailed) and kind is not runtime_errors.AskFailed
    }
    assert {kind: name for kind, name, _ in rows(PROTOCOL, "kind", "error")} == faults


def test_the_settings_of_an_election_are_those_of_the_code():
    for names, values, _ in rows(PROTOCOL, "setting", "value", "meaning"):
        for name, value in zip(names.split("`, `"), values.split(", "), strict=True):
            assert getattr(ElectionSettings(), name) == float(value), name


def test_the_actors_are_open_to_whom_the_architecture_says():
    modules = [
        each.name for each in pkgutil.walk_packages(actors.__path__, "atoll.actors.") if "bench" not in each.name
    ]
    classes = {
        name: kind
        for module in modules
        if "javascript" not in module and "isolate" not in module
        for name, kind in inspect.getmembers(importlib.import_module(module), inspect.isclass)
        if issubclass(kind, Actor)
    }
    for path, name, _, who in rows(PAGES["docs/architecture.md"], "actor", "class"):
        open_to = {each.value for each in classes[name].open_to}
        assert {each.strip() for each in who.split(",")} == (open_to or {"this node"}), path


def test_what_happens_happens_where_the_architecture_says():
    table = rows(PAGES["docs/architecture.md"], "what happens", "where", "in")
    assert len(table) > 10
    for what, file, name in table:
        assert re.search(rf"^ *(async )?(def|class) {name}\b", (ROOT / file).read_text(), re.MULTILINE), what


def test_the_sentences_to_look_for_are_said_somewhere():
    files = [*ROOT.glob("actors/**/*.py"), *ROOT.glob("transport/*.py"), ROOT / "node.py"]
    sources = "\n".join(path.read_text() for path in files)
    table = PAGES["docs/operations.md"].partition("| you see |")[2].partition("\n\n")[0]
    sentences = [each for row in table.splitlines()[2:] for each in re.findall("`([^`]+)`", row.split("|")[1])]
    assert len(sentences) > 5
    assert not [each for each in sentences if each not in sources], "nothing says these any more"


def test_as_many_mutants_are_killed_as_is_said():
    mutants = (ROOT / "tests" / "mutants" / "test_election_mutants.py").read_text()
    killed = len(re.findall(r"^    \w+: Nemesis\(", mutants, re.MULTILINE))
    assert re.findall(r"(\d+) mutants of the election", PAGES["docs/reliability.md"]) == [str(killed)]
    for name in ("roster", "roster_order", "placement", "placement_adversary"):
        file = f"tests/mutants/test_{name}_mutants.py"
        nemeses = (ROOT / file).read_text().partition("\nNEMESES = {\n")[2].partition("\n}\n")[0]
        killed = len(re.findall(r"^    \w+: ", nemeses, re.MULTILINE))
        assert f"`{file}`, {killed} mutants" in PAGES["docs/reliability.md"]


# The reference of commands


def commands(command=cli.main, words=("atoll",)):
    context = click.Context(command)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), (*words, name))
    else:
        yield " ".join(words), command


def sections():
    reference = COMMANDS.partition("\n## REST\n")[0]
    parts = re.split(r"^### (atoll [a-z ]*[a-z]).*$", reference, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_command_and_option_is_documented_and_no_other():
    documented = {name: set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)) for name, text in sections().items()}
    wanted = {}
    for name, command in commands():
        options = [each for each in command.params if isinstance(each, click.Option)]
        wanted[name] = {
            ", ".join(each.opts)
            + ("" if each.is_flag else f" {each.make_metavar(click.Context(command))}".replace("|", "/"))
            for each in options
        }
    assert documented == wanted, "correct docs/commands.md"


def test_commands_are_in_alphabetical_order():
    assert all(before < after for before, after in pairwise(sections()))


def test_every_path_of_the_gateway_is_documented_and_no_other():
    documented = {(method, path): scope for method, path, scope, *_ in rows(COMMANDS, "method", "path")}
    assert documented == {
        ("any" if method == ANY else method, path): scope.value for (method, path), scope in SCOPES.items()
    }


def test_every_problem_is_documented_and_no_other():
    assert {name: (int(status), title) for name, status, title in rows(COMMANDS, "name", "status")} == dict(CATALOGUE)


@pytest.mark.parametrize("kind", sorted(configs.KINDS))
def test_every_setting_is_documented_with_its_default(kind):
    text = COMMANDS.partition(f"#### {kind}\n")[2].partition("\n#")[0]
    documented = {name: default for name, default, _ in rows(text, "setting", "default")}
    plain = {"cloud": {"id": "a" * 52}} if kind == "relay" else {}
    cloud = {"cloud": {"id": "a" * 52}} if kind == "node" else {}
    defaults = dict(configs._leaves(as_plain(as_struct(plain | cloud, configs.KINDS[kind], "defaults"))))
    wanted = {}
    for name, _ in configs._settings(types.type_info(configs.KINDS[kind])):
        value = defaults.get(name)
        shown = {True: "true", False: "false", None: "-", "": "-"}
        # A number as it is: to a dict 1 is True.
        found = value if type(value) is int else shown.get(value, value) if not isinstance(value, list | tuple) else "-"
        wanted[name] = found
    of_host = {"name", "state_dir", "run_dir", "cloud.id"}
    assert documented.keys() == wanted.keys(), "correct docs/commands.md"
    assert {key: value for key, value in documented.items() if key not in of_host} == {
        key: str(value) for key, value in wanted.items() if key not in of_host
    }
