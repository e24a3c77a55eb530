"""Options that several verbs share, and how their text is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from vmimg.cli.human import echo, printable
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import OptionError
from vmimg.formats import by_extension, find
from vmimg.units import format_size, parse_size

if TYPE_CHECKING:
    from vmimg.formats import Format

__all__ = [
    "FORMAT",
    "PATH",
    "SIZE",
    "align_option",
    "chain_options",
    "creation_options",
    "find_snapshot",
    "force_option",
    "grown",
    "ignored",
    "level_option",
    "output_option",
    "parent_policy",
    "parse_options",
    "print_options",
    "quiet_option",
    "share_option",
    "source_format",
    "target_format",
    "threads_option",
    "wants_help",
]

_F = TypeVar("_F", bound=Callable[..., Any])
_Decorator = Callable[[_F], _F]

PATH = click.Path()

# Letters of an option's choices in the first column of their list.
_MOST_VALUES = 40


if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]  # generic from click 8.4 on
else:
    _ParamType = click.ParamType


class _Size(_ParamType):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except OptionError as error:
            self.fail(str(error), param, ctx)


class _FormatName(_ParamType):
    name = "format"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from vmimg.formats.registry import all_formats

        return [
            CompletionItem(format.name, help=format.title)
            for format in all_formats()
            if format.name.startswith(incomplete)
        ]


SIZE = _Size()
FORMAT = _FormatName()


def source_format(help: str = "Format of the image; detected where missing.") -> _Decorator[Any]:
    """-f, and which image it is about."""
    return click.option("-f", "--format", "source_format", type=FORMAT, metavar="FMT", help=help)


def output_option(function: _F) -> _F:
    """--output human|json."""
    return click.option(
        "--output",
        type=click.Choice(["human", "json"]),
        default="human",
        help="For people, or qemu-img's JSON.",
    )(function)


def share_option(function: _F) -> _F:
    """-U."""
    return click.option(
        "-U",
        "--force-share",
        "share",
        is_flag=True,
        help="Read although a running machine may write to it.",
    )(function)


def quiet_option(function: _F) -> _F:
    """-q."""
    return click.option("-q", "--quiet", is_flag=True, help="Print errors only.")(function)


def force_option(function: _F) -> _F:
    """--force."""
    return click.option("--force", is_flag=True, help="Replace the target if it exists.")(function)


def align_option(function: _F) -> _F:
    """--align; see `grown`."""
    return click.option(
        "--align",
        type=SIZE,
        default=512,
        metavar="SIZE",
        help="Round the virtual size up to a multiple of SIZE, with zeros (Azure wants 1M).",
    )(function)


def grown(target: str, before: int, after: int) -> str:
    """What to say of a disk that became larger: never in silence."""
    return (
        f"{printable(target)}: the disk grew from {before} to {after} bytes, "
        f"by {format_size(after - before)} of zeros (--align)"
    )


def level_option(function: _F) -> _F:
    """--level."""
    return click.option(
        "--level",
        type=click.Choice(["fast", "default", "best"]),
        default="default",
        help="How hard to compress.",
    )(function)


def threads_option(function: _F) -> _F:
    """--threads."""
    return click.option(
        "--threads",
        type=click.IntRange(min=0),
        default=0,
        metavar="N",
        help="Threads to work with; 0, the default, takes one per processor.",
    )(function)


def creation_options(function: _F) -> _F:
    """-o, as often as wanted; see `parse_options`."""
    return click.option(
        "-o",
        "options",
        multiple=True,
        metavar="K=V,...",
        help="Options of the new image; `-o help` lists them. A comma in a value is written twice.",
    )(function)


_CHANGED = "vmimg.allow_changed_parent"
_MAX_SIZE = "vmimg.max_size"


def _remember(key: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def remember(context: click.Context, param: click.Parameter, value: Any) -> None:
        context.meta[key] = value

    return remember


def chain_options(function: _F) -> _F:
    """What an image may have its reader do: --allow-dir, --backing-format, --allow-changed-parent
    and --max-size.

    The last two go into the policy by themselves, see `parent_policy`.
    """
    function = click.option(
        "--max-size",
        type=SIZE,
        expose_value=False,
        callback=_remember(_MAX_SIZE),
        metavar="SIZE",
        help="Refuse images that say they are larger, or unpack to more (default: 64T).",
    )(function)
    function = click.option(
        "--allow-changed-parent",
        is_flag=True,
        expose_value=False,
        callback=_remember(_CHANGED),
        help="Go on where a parent is not, or no longer, the one that its child was made for.",
    )(function)
    function = click.option(
        "--backing-format",
        type=FORMAT,
        metavar="FMT",
        help="Format of a backing file whose overlay names none.",
    )(function)
    return click.option(
        "--allow-dir",
        "allow_dirs",
        type=click.Path(file_okay=False),
        multiple=True,
        metavar="DIR",
        help="Follow parents, data files and extents below DIR too, not only beside the image.",
    )(function)


def ignored(*names: str, value: bool = True) -> _Decorator[Any]:
    """Flags of qemu-img that are accepted, mean nothing here, and are not shown."""

    def add(function: Any) -> Any:
        for name in names:
            function = click.option(
                name,
                f"ignored_{name.strip('-')}",
                is_flag=not value,
                hidden=True,
                expose_value=False,
            )(function)
        return function

    return add


def parent_policy(allow_dirs: Sequence[str], backing_format: str | None) -> ParentPolicy:
    """The policy that the options of `chain_options` ask for."""
    context = click.get_current_context()
    policy = ParentPolicy(
        allowed=tuple(allow_dirs),
        parent_format=backing_format,
        allow_changed=bool(context.meta.get(_CHANGED)),
    )
    largest = context.meta.get(_MAX_SIZE)
    return policy if largest is None else replace(policy, max_size=largest)


def parse_options(texts: Sequence[str]) -> dict[str, str]:
    """``{"cluster_size": "128k"}`` for ``-o`` texts: commas separate, ``,,`` is a comma in a value.

    A name alone means ``on``. The last of several values of a name counts. Raises OptionError.
    """
    values: dict[str, str] = {}
    for text in texts:
        for item in _split(text):
            name, equals, value = item.partition("=")
            if not name:
                raise OptionError(f"'-o {text}': an option has no name; write -o name=value,...")
            values[name] = value if equals else "on"
    return values


def wants_help(texts: Sequence[str]) -> bool:
    """Whether one of the ``-o`` texts asks for the list of options."""
    return any(item in ("help", "?") for text in texts for item in _split(text))


def _split(text: str) -> list[str]:
    # A NUL cannot come in from a command line, so it may stand for an escaped comma.
    return [item.replace("\0", ",") for item in text.replace(",,", "\0").split(",")]


def target_format(path: str | None, given: str | None, flag: str) -> Format:
    """The format to make: the one that ``flag`` gave, or the one that ``path`` is named for."""
    if given is not None:
        return find(given)
    if path is None:
        raise OptionError(f"pass {flag} FMT to say which format")
    format = None if path == "-" else by_extension(path)
    if format is None:
        where = (
            "standard output has no name" if path == "-" else f"'{path}' does not tell the format"
        )
        raise OptionError(f"{where}; pass {flag} FMT, for example {flag} qcow2")
    return format


def print_options(format: Format) -> None:
    """The list that ``-o help`` asks for."""
    from vmimg.cli.human import bold, table

    if not format.options:
        echo(f"{format.name} has no options.")
        return
    echo(bold(f"Options of {format.name}:"))
    rows = []
    for option in format.options:
        meaning = option.help
        values = "|".join(map(str, option.choices)) or {"bool": "on|off"}.get(
            option.kind, option.kind
        )
        if len(values) > _MOST_VALUES:
            meaning += ": " + ", ".join(map(str, option.choices))
            values = option.kind
        default = option.default
        if isinstance(default, bool):
            default = "on" if default else "off"
        elif option.kind == "size" and isinstance(default, int):
            default = format_size(default)
        rows.append((f"{option.name}={values}", "" if default is None else str(default), meaning))
    table(("OPTION", "DEFAULT", "MEANING"), rows, indent=2)


def find_snapshot(path: str, text: str, *, format: str | None, share: bool) -> str:
    """The id or name to open for ``-l``: as it stands, or ``snapshot.id=ID,snapshot.name=NAME``.

    Raises OptionError where the image has no snapshot with that id and that name.
    """
    if not text.startswith(("snapshot.id=", "snapshot.name=")):
        return text
    wanted = parse_options([text])
    identity, name = wanted.pop("snapshot.id", None), wanted.pop("snapshot.name", None)
    if wanted:
        raise OptionError(
            f"'-l {text}': write snapshot.id=ID,snapshot.name=NAME, or one of the two"
        )

    from vmimg.formats.info import image_info

    for snapshot in image_info(path, format=format, share=share)[0].image.snapshots:
        if identity in (None, snapshot.id) and name in (None, snapshot.name):
            return snapshot.id
    raise OptionError(f"{path}: no snapshot matches '{text}'; `vmimg info` lists them")
