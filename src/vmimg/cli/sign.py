"""``vmimg sign``: an OVF package or OVA gets a signature."""

from __future__ import annotations

import click

from vmimg.cli.human import bold, echo, json_text, printable
from vmimg.cli.keys import key_option, passphrases
from vmimg.cli.options import PATH, force_option, output_option, quiet_option
from vmimg.cli.verb import Verb, examples

__all__ = ["command"]


@click.command(
    "sign",
    cls=Verb,
    epilog=examples(
        "vmimg sign appliance.ova --key key.pem --certificate cert.pem",
        "vmimg sign appliance.ova --key key.pem --certificate cert.pem -o signed.ova",
    ),
)
@click.option("--key", type=PATH, required=True, metavar="FILE", help="RSA key (PEM) to sign with.")
@click.option(
    "--certificate",
    type=PATH,
    required=True,
    metavar="FILE",
    help="Certificate (PEM) of the key, those of its issuers behind it.",
)
@click.option(
    "--algorithm",
    type=click.Choice(["sha256", "sha1", "sha512"]),
    default="sha256",
    help="Of the digests and the signature.",
)
@click.option("-o", "target", type=PATH, metavar="FILE", help="Write here; BUNDLE stays as it is.")
@output_option
@quiet_option
@force_option
@key_option
@click.argument("file", type=PATH, metavar="BUNDLE")
def command(
    key: str,
    certificate: str,
    algorithm: str,
    target: str | None,
    output: str,
    quiet: bool,
    force: bool,
    key_file: str | None,
    file: str,
) -> None:
    """Sign BUNDLE, an OVA or an OVF package: a manifest of all its files, signed.

    The signed bundle takes the place of BUNDLE when it is complete, or goes to -o. --key-file gives
    the passphrase of an encrypted key. `vmimg verify` checks the result.
    """
    from vmimg.bundles.signing import sign

    made = sign(
        file,
        key=key,
        certificate=certificate,
        algorithm=algorithm,
        output=target,
        replace=force,
        keys=passphrases(key_file),
    )
    if output == "json":
        echo(json_text({"filename": made, "algorithm": algorithm}))
    elif not quiet:
        echo(f"{bold(printable(made))}: signed, {algorithm}")
