"""Turns TOML into structs, and mistakes in it into sentences.

Every error names the file, the place in it as `site[0].node[1].power`, and what would be right there. Whole files are
refused: nobody behind this module checks again.
"""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, inspect

from atoll.cluster_specs.node_address import NodeAddress
from atoll.transport.errors import UsageError
from atoll.transport.identity import NodeId

FILE_BYTES_MAX = 1024 * 1024
NAME_PATTERN = "^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$"
Name: TypeAlias = Annotated[str, Meta(pattern=NAME_PATTERN)]
"""Of a process, a site or a service: a label of DNS, but at most 32 characters."""

T = TypeVar("T")


class SpecInvalid(Exception):
    """The file's author is at fault; the text names the file, the place and what would be right."""


class Secret(bytes):
    """Secret bytes, written as hexadecimal digits; empty where the file says `generated`. Never shown by `repr`."""

    __slots__ = ()

    @property
    def generated(self) -> bool:
        """It is still to be made, at first start."""
        return not self

    def __repr__(self) -> str:
        return "Secret(generated)" if self.generated else "Secret(…)"

    __str__ = __repr__


def read_toml(path: Path, name: str) -> dict[str, Any]:
    """Read a TOML file; `name` is what errors call it.

    Raises:
        OSError: It cannot be read.
        SpecInvalid: It is too long, no text or no TOML.
    """
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise SpecInvalid(f"{name}: more than {FILE_BYTES_MAX} bytes; no spec or config is that long")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise SpecInvalid(f"{name}: not UTF-8 text at byte {error.start}") from error
    return parse_toml(text, name)


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        SpecInvalid: It is none; the text says where.
    """
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SpecInvalid(f"{name}: not TOML: {error}") from error


def as_struct(plain: dict[str, Any], kind: type[T], name: str) -> T:
    """Give `plain` as a struct of that kind.

    Raises:
        SpecInvalid: It does not fit; the text says where and what would.
    """
    try:
        return msgspec.convert(plain, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise SpecInvalid(f"{name}: {_worded(str(error), plain, kind)}") from error


def as_plain(value: Any) -> Any:
    """Give a struct as what TOML can hold, secrets included."""
    return msgspec.to_builtins(value, enc_hook=_encode)


def _decode(kind: type, value: Any) -> Any:
    if not isinstance(value, str):
        raise TypeError(f"a text is expected, this is {value!r}")
    if kind is Path:
        return Path(value).expanduser()
    if kind in (NodeId, NodeAddress):
        try:
            return kind.parse(value)
        except UsageError as error:
            raise ValueError(str(error)) from error
    if kind is Secret:
        if value == "generated":
            return Secret()
        if not re.fullmatch("[0-9a-f]{64}", value):
            raise ValueError("a secret is 64 hexadecimal digits, or the word 'generated'")
        return Secret.fromhex(value)
    raise NotImplementedError(kind)


def _encode(value: Any) -> str:
    if isinstance(value, Secret):
        return "generated" if value.generated else value.hex()
    return str(value)


def _worded(error: str, plain: Any, kind: Any) -> str:
    """Say msgspec's "… - at `$.site[0].nat`" with the place first, and what would be right where it is known."""
    what, _, where = error.rpartition(" - at `$")
    if not what:
        what, where = error, ""
    steps = re.findall(r"\.([^.\[\]`]+)|\[(\d+)\]", where)
    place = where.rstrip("`").lstrip(".")
    found = _type_at(inspect.type_info(kind), steps)
    if unknown := re.fullmatch("Object contains unknown field `(.*)`", what):
        known = ", ".join(sorted(each.encode_name for each in getattr(found, "fields", ())))
        what = f"there is no key {unknown[1]!r} here; there are {known}"
    elif missing := re.fullmatch("Object missing required field `(.*)`", what):
        what = f"the key {missing[1]!r} is missing"
    elif isinstance(found, inspect.LiteralType):
        choices = ", ".join(str(each) for each in found.values)
        what = f"must be one of {choices}; this is {_value_at(plain, steps)!r}"
    elif isinstance(found, inspect.StrType) and found.pattern == NAME_PATTERN:
        what = f"a name has 1 to 32 of a-z, 0-9 and - (not at its ends); this is {_value_at(plain, steps)!r}"
    return f"{place}: {what}" if place else what


def _type_at(info: inspect.Type, steps: list[tuple[str, str]]) -> inspect.Type | None:
    for key, _ in steps:
        if key and isinstance(info, inspect.StructType):
            fields = {each.encode_name: each.type for each in info.fields}
            if key not in fields:
                return None
            info = fields[key]
        elif not key and isinstance(info, inspect.VarTupleType | inspect.ListType):
            info = info.item_type
        else:
            return None
        if isinstance(info, inspect.UnionType):
            info = next((each for each in info.types if not isinstance(each, inspect.NoneType)), info)
    return info


def _value_at(plain: Any, steps: list[tuple[str, str]]) -> Any:
    for key, index in steps:
        plain = plain[key] if key else plain[int(index)]
    return plain


def to_toml(plain: dict[str, Any]) -> str:
    """Write plain values as TOML: texts, numbers, booleans, lists of them, tables, lists of tables."""
    return "".join(_table(plain, ()))


def _table(table: dict[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = []
    for key, value in table.items():
        if not isinstance(value, dict) and not _is_tables(value):
            lines.append(f"{_key(key)} = {_value(value)}\n")
    for key, value in table.items():
        inner = (*path, _key(key))
        if isinstance(value, dict):
            lines += [f"\n[{'.'.join(inner)}]\n", *_table(value, inner)]
        elif _is_tables(value):
            for each in value:
                lines += [f"\n[[{'.'.join(inner)}]]\n", *_table(each, inner)]
    return lines


def _is_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], dict)


def _key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else _text(key)


def _text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", escaped) + '"'


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    if isinstance(value, int | float):
        return repr(value)
    raise UsageError(f"TOML cannot hold {type(value).__name__}")
