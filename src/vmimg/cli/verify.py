"""``vmimg verify``: whether a bundle is what its manifest, checksums and signature say."""

from __future__ import annotations

from typing import Any

import click

from vmimg.cli.human import bold, echo, json_text, paint, printable
from vmimg.cli.options import PATH, chain_options, output_option, parent_policy, quiet_option
from vmimg.cli.verb import Verb, examples, exit_codes

__all__ = ["command"]

_COLOURS = {"good": "green", "bad": "red", "missing": "red", "unlisted": "yellow"}


@click.command(
    "verify",
    cls=Verb,
    error_exit=2,
    epilog=exit_codes(
        {
            0: "everything that carries a checksum or a signature is right",
            1: "something is not, or is missing",
            2: "the bundle cannot be read, or carries no checksum at all",
        }
    )
    + examples(
        "vmimg verify appliance.ova",
        "vmimg verify --trust ca.pem appliance.ova",
        "vmimg verify --output json machine.xva | jq '.verdicts[] | select(.state != \"good\")'",
    ),
)
@click.option(
    "--trust",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Certificates (PEM) that a signature must lead to.",
)
@output_option
@quiet_option
@chain_options
@click.argument("file", type=PATH, metavar="BUNDLE")
def command(
    trust: str | None,
    output: str,
    quiet: bool,
    allow_dirs: tuple[str, ...],
    backing_format: str | None,
    file: str,
) -> int:
    """Check the manifest, the signature and the checksums of BUNDLE.

    Reads everything that has a checksum, once.
    """
    from vmimg.bundles.opening import open_bundle

    settings: dict[str, Any] = {}
    if trust is not None:
        with open(trust, "rb") as certificates:
            settings["trust"] = certificates.read()
    with open_bundle(file, policy=parent_policy(allow_dirs, backing_format)) as bundle:
        verdicts = list(bundle.verify(**settings))
    wrong = [verdict for verdict in verdicts if verdict.state in ("bad", "missing")]
    checked = [verdict for verdict in verdicts if verdict.state in ("good", "bad", "missing")]
    unknown = sum(verdict.state == "unknown" for verdict in verdicts)
    code = 1 if wrong else 0 if checked else 2
    if output == "json":
        facts = {
            "filename": file,
            "kind": bundle.kind,
            "verified": code == 0,
            "verdicts": [verdict.to_json() for verdict in verdicts],
        }
        echo(json_text(facts))
        return code
    if quiet:
        return code
    for verdict in verdicts:
        state = paint(verdict.state, _COLOURS.get(verdict.state, "yellow"))
        detail = f": {verdict.detail}" if verdict.detail else ""
        echo(f"{state:>8}  {printable(f'{verdict.subject} {verdict.what}{detail}'.rstrip())}")
    name = bold(printable(file))
    if not checked:
        echo(f"{name}: a {bundle.kind} without checksums: there is nothing to verify", err=True)
    elif wrong:
        echo(f"{name}: {len(wrong)} of {len(checked)} are wrong", err=True)
    else:
        more = f", {unknown} could not be" if unknown else ""
        echo(f"{name}: {len(checked)} verified{more}")
    return code
