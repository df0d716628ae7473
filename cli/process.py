"""What `node run`, `relay run` and `cloud run` have in common: options, and the config that they make."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from atoll.cli.output import fail

if TYPE_CHECKING:
    from atoll.cluster_specs.config import ProcessConfig

F = TypeVar("F", bound=Callable[..., Any])


def process_options(function: F) -> F:
    """Add the options of every process."""
    for option in (
        click.option("--log-json", is_flag=True, help="Write the log as JSON lines."),
        click.option(
            "--set", "flags", multiple=True, metavar="SETTING=VALUE", help="One setting, such as links.port=0."
        ),
        click.option(
            "--config",
            "file",
            envvar="ATOLL_CONFIG",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="A config file; `atoll config show` lists the settings.",
        ),
    ):
        function = option(function)
    return function


def flags_given(flags: tuple[str, ...]) -> dict[str, str]:
    """Take `--set a=b` apart."""
    given = {}
    for each in flags:
        setting, equals, value = each.partition("=")
        if not equals:
            fail(f"--set {each}: there is no value", "write it as --set gateway.port=0", code=2)
        given[setting] = value
    return given


def config_of(kind: str, file: Path | None, flags: dict[str, Any], *, remedy: str = "") -> "ProcessConfig":
    """Read a process's config, or end with what is wrong with it; `remedy` where the kind knows a better one."""
    from atoll.cluster_specs.config import KINDS, read_config
    from atoll.cluster_specs.reading import SpecInvalid

    try:
        return read_config(KINDS[kind], file, flags=flags).config
    except SpecInvalid as error:
        usual = f"mend it and run this again; `atoll config show --kind {kind}` lists the settings"
        fail(str(error), remedy or usual, code=2)


@contextmanager
def loading() -> Iterator[None]:
    """Leave the collector out while a process that lasts loads its modules, of which nothing becomes garbage.

    And for good: else it would look through all of them again and again, and hold up the loop for the time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
