"""Signing a package that is there: its manifest is verified, or made, and signed.

Nothing of a package that does not hold is signed. An OVA is written anew beside the old one, which
the new one replaces when it is complete; in a directory the manifest and the certificate are files
of their own. Imports opening, archives and storage.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from vmimg.bundles.archives import TarWriter
from vmimg.bundles.manifest import MAX_BYTES as MAX_MANIFEST
from vmimg.bundles.manifest import digest_all, parse_manifest, verify_manifest, write_manifest
from vmimg.bundles.opening import open_bundle
from vmimg.bundles.ovf.reading import OvaBundle, OvfBundle
from vmimg.bundles.signing import Signer
from vmimg.errors import FormatError, OptionError, VmimgError
from vmimg.storage.output import Output, OutputSet

__all__ = ["sign_package"]


@dataclass(frozen=True, slots=True)
class _Signed:
    """The manifest and the certificate by their names, and their bytes."""

    manifest: str
    certificate: str
    texts: dict[str, bytes]


def sign_package(path: str, signer: Signer, *, output: str | None, replace: bool) -> str:
    """See `vmimg.bundles.signing.sign`; returns where the signed package is."""
    with open_bundle(path) as bundle:
        if not isinstance(bundle, OvfBundle):
            raise OptionError(
                f"{path}: OVF packages and OVAs are signed, and it is a {bundle.kind}"
            )
        signed = _signed(bundle, signer)
        if isinstance(bundle, OvaBundle):
            target = output or path
            with Output(target, replace=replace or output is None) as storage:
                archive = TarWriter(storage)
                for name in _order(bundle, signed):
                    if name in signed.texts:
                        archive.add(name, signed.texts[name])
                        continue
                    with bundle.folder.open(name) as member:
                        archive.add_storage(name, member)
                archive.finish()
            return target
        if output is not None:
            raise OptionError(f"{path}: a package in a directory is signed where it is")
        folder = path if os.path.isdir(path) else os.path.dirname(path)
        with OutputSet() as outputs:
            for name, data in signed.texts.items():
                file = outputs.add(os.path.join(folder, *name.split("/")), replace=True)
                file.write(0, data)
        return path


def _signed(bundle: OvfBundle, signer: Signer) -> _Signed:
    stem = bundle.stem
    name, certificate = bundle.manifest or f"{stem}.mf", bundle.certificate or f"{stem}.cert"
    texts = dict[str, bytes]()
    if bundle.manifest:
        manifest = bundle.folder.read(name, MAX_MANIFEST)
        wrong = [v for v in verify_manifest(bundle.folder, name, bundle.expected())
                 if v.state != "good"]  # fmt: skip
        if wrong:
            first = wrong[0]
            raise FormatError(
                f"{bundle.name}: '{first.subject}' is not what the manifest says ({first.state}"
                f"{': ' + first.detail if first.detail else ''}): nothing was signed"
            )
        kinds = {digest.algorithm for digest in parse_manifest(manifest, name)[0]}
        if kinds != {signer.algorithm}:
            manifest = texts[name] = _manifest(bundle, bundle.expected(), signer.algorithm)
    else:
        manifest = texts[name] = _manifest(bundle, bundle.expected(), signer.algorithm)
    texts[certificate] = signer.sign(manifest, name.rpartition("/")[2])
    return _Signed(name, certificate, texts)


def _manifest(bundle: OvfBundle, names: Sequence[str], algorithm: str) -> bytes:
    """A manifest of those members, which lie beside the descriptor."""
    folder = bundle.stem.rpartition("/")[0]
    values = list[tuple[str, str]]()
    jobs = [(partial(bundle.folder.open, name), (algorithm,)) for name in names]
    for name, result in zip(names, digest_all(jobs), strict=True):
        if isinstance(result, VmimgError):
            raise result
        if folder and not name.startswith(f"{folder}/"):
            raise OptionError(f"{bundle.name}: '{name}' does not lie beside the descriptor")
        values.append((name[len(folder) + 1 if folder else 0 :], result[0]))
    return write_manifest(algorithm, values)


def _order(bundle: OvfBundle, signed: _Signed) -> list[str]:
    """The members as DSP0243 orders them: descriptor, manifest, certificate, and the others."""
    first = [bundle.descriptor, signed.manifest, signed.certificate]
    return [*first, *(name for name in bundle.folder.names() if name not in first)]
