"""``vmimg serve``: the image service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vmimg.cli.human import echo
from vmimg.cli.options import PATH
from vmimg.cli.verb import Verb, examples
from vmimg.errors import OptionError
from vmimg.extras import require

__all__ = ["command"]

_EXAMPLES = (
    "vmimg serve",
    "vmimg serve --port 9292 --config vmimg.toml",
    "vmimg serve --config vmimg.toml --check-config",
)


@click.command("serve", cls=Verb, epilog=examples(*_EXAMPLES))
@click.option("--host", metavar="H", help="The address to listen on. [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), metavar="P", help="[default: 9292]")
@click.option(
    "--config", type=PATH, metavar="FILE", help="The settings: TOML; the environment counts more."
)
@click.option("--data", type=PATH, metavar="DIR", help="Where SQLite and images are kept.")
@click.option("--check-config", is_flag=True, help="Say what is wrong with the settings, and end.")
def command(
    host: str | None, port: int | None, config: str | None, data: str | None, check_config: bool
) -> int:
    """Keep images and hand them out: the OpenStack Image API.

    Alone it serves this computer only: SQLite and a directory, and nobody is asked who he is.
    """
    for module in ("starlette", "uvicorn", "sqlalchemy", "pydantic_settings"):
        require(module, "service", "the image service")
    from vmimg.service.settings import SettingsError, load

    server = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    overrides: dict[str, Any] = {"server": server} if server else {}
    if data is not None:
        overrides["data"] = data
    try:
        settings = load(Path(config) if config else None, **overrides)
    except SettingsError as error:
        # All mistakes at once, in the one line that an error is.
        raise OptionError("; ".join(str(error).splitlines())) from error
    from vmimg.service.server import check, run

    if check_config:
        check(settings)
        echo("The settings can be used.")
        return 0
    run(settings)
    return 0
