"""What a confined process cannot do, what stops it, and what becomes of its answer.

Everything is tried, in a process of its own, for real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import vmimg
from kinds import KINDS, Kind
from vmimg import sandbox
from vmimg.errors import InUseError, StorageError, UnsafeImage, UnsupportedFeature, VmimgError
from vmimg.sandbox import Confinement, Limits, running

linux = pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux's")

# Each is tried in a confined process, where `folder` is a directory that everybody may write to,
# `fd` a file that was open before, and `call(name, ...)` a system call by its name.
ATTEMPTS = {
    "open a file for reading": "os.open('/etc/passwd', os.O_RDONLY)",
    "open a file for writing": "os.open(f'{folder}/there', os.O_WRONLY)",
    "make a file": "os.open(f'{folder}/new', os.O_WRONLY | os.O_CREAT)",
    "make a file without a name": "os.open(folder, os.O_WRONLY | os.O_TMPFILE)",
    "open what is open once more": "os.open(f'/proc/self/fd/{fd}', os.O_RDWR)",
    "list a directory": "os.listdir('/')",
    "look for a file": "os.lstat('/etc/passwd')",
    "read a link": "os.readlink('/proc/self/exe')",
    "make a directory": "os.mkdir(f'{folder}/made')",
    "make a link": "os.symlink('/', f'{folder}/link')",
    "make a pipe with a name": "os.mkfifo(f'{folder}/pipe')",
    "delete a file": "os.unlink(f'{folder}/there')",
    "rename a file": "os.rename(f'{folder}/there', f'{folder}/gone')",
    "change a mode": "os.chmod(f'{folder}/there', 0o777)",
    "change the mode of what is open": "os.fchmod(fd, 0o777)",
    "write to what is open": "os.write(fd, b'x')",
    "cut off what is open": "os.ftruncate(fd, 0)",
    "make a socket": "socket.socket()",
    "make a datagram socket": "socket.socket(type=socket.SOCK_DGRAM)",
    "make a local socket": "socket.socket(socket.AF_UNIX)",
    "make a pair of sockets": "socket.socketpair()",
    "use a socket that was open": "early.connect(('127.0.0.1', port))",
    "send by a socket that was open": "early_datagram.sendto(b'x', ('127.0.0.1', port))",
    "fork": "os.fork()",
    "start a program": "os.execv('/bin/true', ['true'])",
    "start a program beside": "os.posix_spawn('/bin/true', ['true'], {})",
    "start a thread": "_thread.start_new_thread(print, ())",
    "clone": "call('clone3', 0, 0)",
    "send a signal to the parent": "os.kill(os.getppid_before, 0)",
    "send a signal to itself": "os.kill(os.getpid(), 0)",
    "trace": "call('ptrace', 16, os.getppid_before, 0, 0)",
    "read another's memory": "call('process_vm_readv', os.getppid_before, 0, 0, 0, 0, 0)",
    "mount": "call('mount', 0, 0, 0, 0, 0)",
    "enter a namespace": "call('unshare', 0x10000000)",
    "use io_uring": "call('io_uring_setup', 1, 0)",
    "load a program into the kernel": "call('bpf', 0, 0, 0)",
    "handle page faults": "call('userfaultfd', 0)",
    "count events": "call('perf_event_open', 0, 0, 0, 0, 0)",
    "use a keyring": "call('keyctl', 0, -3, 0)",
    "open by a handle": "call('open_by_handle_at', 0, 0, 0)",
    "make a file in memory": "os.memfd_create('x')",
    "map memory to execute": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "raise a limit": "resource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
    "become somebody else": "os.setuid(65534)",
    "copy in the kernel": "os.sendfile(1, fd, 0, 1)",
    "push into a terminal": "fcntl.ioctl(0, 0x5412, b'x')",
}
# What Landlock alone stops, where seccomp is missing.
BY_LANDLOCK = (
    "open a file for reading",
    "open a file for writing",
    "make a file",
    "open what is open once more",
    "list a directory",
    "make a directory",
    "make a link",
    "delete a file",
    "rename a file",
    "use a socket that was open",
    "send a signal to the parent",
)

PROGRAM = """
import _thread, ctypes, errno, fcntl, json, mmap, os, resource, socket, sys
import seccompy.syscalls
from vmimg.sandbox.confinement import Limits
from vmimg.sandbox.confining import confine, load_libraries
folder = sys.argv[1]
fd = os.open(f"{folder}/there", os.O_RDONLY)
os.getppid_before = os.getppid()
early, early_datagram = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    ctypes.set_errno(0)
    if libc.syscall(seccompy.syscalls.syscall_nr(name), *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "")

attempts = {name: compile(text, name, "eval") for name, text in json.load(sys.stdin).items()}
for library in sys.argv[2:]:
    sys.modules[library] = None
load_libraries()
confine(Limits())
answers = {}
for name, code in attempts.items():
    try:
        eval(code)
        answers[name] = "done"
    except OSError as error:
        answers[name] = errno.errorcode[error.errno]
    except (RuntimeError, ValueError) as error:
        answers[name] = str(error)
print(json.dumps(answers))
sys.stdout.flush()
os._exit(0)
"""
REFUSALS = {"EPERM", "EACCES", "can't start new thread", "not allowed to raise maximum limit"}


@pytest.fixture(autouse=True)
def libraries() -> None:
    if sys.platform == "linux":
        pytest.importorskip("landlockpy")
        pytest.importorskip("seccompy")


def attempted(folder: Path, attempts: dict[str, str], *without: str) -> dict[str, str]:
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "there").write_bytes(b"content")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder, *without],
        input=json.dumps(attempts),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, str] = json.loads(done.stdout)
    assert sorted(path.name for path in folder.iterdir()) == ["there"]
    assert (folder / "there").read_bytes() == b"content"
    return answers


@linux
def test_a_confined_process_can_do_nothing_but_read_and_answer(tmp_path: Path) -> None:
    answers = attempted(tmp_path / "free", ATTEMPTS)
    assert {name: said for name, said in answers.items() if said not in REFUSALS} == {}


@linux
def test_seccomp_does_all_of_it_where_landlock_is_missing(tmp_path: Path) -> None:
    answers = attempted(tmp_path / "free", ATTEMPTS, "landlockpy")
    assert {name: said for name, said in answers.items() if said not in REFUSALS} == {}


@linux
def test_landlock_keeps_files_and_network_where_seccomp_is_missing(tmp_path: Path) -> None:
    wanted = {name: ATTEMPTS[name] for name in BY_LANDLOCK}
    answers = attempted(tmp_path / "free", wanted, "seccompy")
    assert {name: said for name, said in answers.items() if said not in REFUSALS} == {}


@linux
def test_the_attempts_succeed_outside_of_the_sandbox(tmp_path: Path) -> None:
    # Or the tests above would say nothing.
    (tmp_path / "there").write_bytes(b"")
    works = ("open a file for reading", "look for a file", "make a socket", "list a directory")
    program = PROGRAM.replace("confine(Limits())", "")
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        input=json.dumps({name: ATTEMPTS[name] for name in works}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(json.loads(done.stdout).values()) == {"done"}


# What comes out of it


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    vmimg.create(path, 10 << 20, format="qcow2")
    return path


# One of each format: the subformats of one are read by the same code.
FORMATS = {kind.format: kind for kind in KINDS}.values()


@pytest.mark.parametrize("kind", FORMATS, ids=str)
def test_the_answer_is_the_one_without_a_sandbox(kind: Kind, tmp_path: Path) -> None:
    raw = tmp_path / "source.raw"
    raw.write_bytes(os.urandom(1 << 16) + bytes(1 << 20))
    path = kind.path(tmp_path)
    vmimg.convert(raw, path, format=kind.format, options=kind.options)
    report, confinement = sandbox.vet(path, policy="desktop")
    if kind.format == "split":
        # Its parts are found by their names, and the sandbox looks for none.
        assert report.detection.best.name == "raw"
    else:
        assert report == vmimg.vet(path, policy="desktop")
    assert isinstance(confinement, Confinement)
    if sys.platform == "linux":
        assert confinement.missing == ()


def test_detect_and_info_say_the_same_in_the_sandbox(image: Path) -> None:
    assert sandbox.detect(image)[0] == vmimg.detect(image)
    (plain,) = vmimg.image_info(image)
    assert sandbox.info(image)[0].to_json() == plain.to_json()


def test_an_overlay_is_told_of_and_its_parent_is_not_opened(image: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.qcow2"
    vmimg.create(overlay, format="qcow2", backing=str(image), backing_format="qcow2")
    image.unlink()
    found, _ = sandbox.info(overlay)
    assert found.image.parent is not None and found.image.parent.format == "qcow2"
    codes = {finding.code for finding in sandbox.vet(overlay)[0].findings}
    assert codes & {"backing-file", "backing-file-outside"}


def test_the_image_is_read_under_a_relative_name(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sandbox.info(image.name)[0].filename == image.name


def test_a_module_beside_the_image_is_not_imported(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "landlockpy.py").write_text("raise SystemExit('imported')")
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert sandbox.detect(image)[0].best.name == "qcow2"


def test_what_is_no_image_is_the_error_that_it_is_outside(tmp_path: Path) -> None:
    broken = tmp_path / "broken.qcow2"
    broken.write_bytes(b"QFI\xfb" + b"\xff" * 200)
    with pytest.raises(VmimgError) as outside:
        vmimg.image_info(broken)
    with pytest.raises(type(outside.value)) as inside:
        sandbox.info(broken)
    assert str(inside.value) == str(outside.value)


def test_a_missing_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        sandbox.detect(tmp_path / "missing")


def test_the_lock_of_a_writer_is_respected(image: Path) -> None:
    with vmimg.open(image, writable=True):
        with pytest.raises(InUseError):
            sandbox.info(image)
        assert sandbox.info(image, share=True)[0].image.format == "qcow2"


@linux
def test_a_folder_is_read_and_what_its_links_lead_to_is_not(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("<Parallels_disk_image/>")
    folder = tmp_path / "disk.hdd"
    folder.mkdir()
    (folder / "DiskDescriptor.xml").symlink_to(secret)
    with pytest.raises(StorageError, match=r"permission denied|no image"):
        sandbox.info(folder)


# What stops it

SPIN = "while True: pass"
HOARD = "x = [bytes(1 << 20) for i in range(100_000)]"


def replaced(monkeypatch: pytest.MonkeyPatch, body: str, *, before: str = "") -> None:
    """Let the child do ``body`` instead of detecting, and ``before`` ahead of everything."""
    lines = [
        "import os, sys",
        running._BOOTSTRAP.partition(";")[0].replace("import sys", "pass"),
        "sys.path += [p for p in sys.argv[1:] if p not in sys.path]",
        before,
        "from vmimg.sandbox import child, tasks",
        "from vmimg.errors import FormatError",
        "def body(path, arguments):",
        textwrap.indent(body, "    "),
        "tasks.TASKS['detect'] = tasks.Task(body)",
        "child.main()",
    ]
    monkeypatch.setattr(running, "_BOOTSTRAP", "\n".join(lines))


@pytest.mark.parametrize(
    ("body", "limits", "said"),
    [
        (SPIN, Limits(processor_seconds=1), "more than 1 s of processor time"),
        (HOARD, Limits(memory=64 << 20), "more than 64 MiB of memory"),
        ("import time; time.sleep(99)", Limits(seconds=0.5), "more than 0.5 s"),
        ("while True: os.write(1, b'x' * 65536)", Limits(), "no end"),
        ("while True: os.write(2, b'x' * 65536)", Limits(), "no end"),
        ("os._exit(3)", Limits(), "without an answer"),
        ("os._exit(0)", Limits(), "without an answer"),
        ("os.abort()", Limits(), r"died \(SIG"),
        ("import ctypes; ctypes.string_at(1)", Limits(), r"died \(SIGSEGV\)"),
        ("os.write(1, b'{}\\n{}\\n'); os._exit(0)", Limits(), "without an answer"),
        ("os.write(1, b'[[[[\\n'); os._exit(0)", Limits(), "no sense"),
        ("os.write(1, b'[' * 100_000 + b'\\n'); os._exit(0)", Limits(), "no sense"),
        ("os.write(1, b'{\"result\": 5}\\n'); os._exit(0)", Limits(), "no sense"),
        ("os.write(1, b'{\"error\": 5}\\n'); os._exit(0)", Limits(), "no sense"),
        ("os.write(1, b'{\"result\": {}}\\n'); os._exit(0)", Limits(), "no sense"),
    ],
)
def test_a_parser_that_goes_wrong_is_one_clear_error(
    body: str, limits: Limits, said: str, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_START", 3.0)
    replaced(monkeypatch, body)
    with pytest.raises(UnsafeImage, match=said) as error:
        sandbox.detect(image, limits=limits)
    assert str(image) in str(error.value)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("size", "'large'"),
        ("size", "True"),
        ("claims", "[]"),
        ("claims", "[5]"),
        ("contradictions", "{}"),
        ("filename", "None"),
    ],
)
def test_an_answer_of_other_types_is_refused(
    change: str, value: str, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"""
from vmimg.probe.detecting import detect
from vmimg.sandbox.records import encode
return encode(detect(path)) | {{{change!r}: {value}}}
"""
    replaced(monkeypatch, body)
    with pytest.raises(UnsafeImage, match="no sense"):
        sandbox.detect(image)


def test_an_error_of_another_class_is_no_way_out(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced(monkeypatch, "raise SystemError('inside')")
    with pytest.raises(VmimgError, match="SystemError: inside; this is a bug"):
        sandbox.detect(image)


def test_the_child_has_the_image_and_its_standard_streams_and_no_more(
    image: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    body = """
there = []
for fd in range(64):
    try:
        os.fstat(fd)
        there.append(fd)
    except OSError:
        pass
raise FormatError(f"{len(there)} descriptors, {len(os.environ)} variables")
"""
    replaced(monkeypatch, body)
    monkeypatch.setenv("SECRET", "x")
    with open(tmp_path / "other", "wb") as other:
        os.set_inheritable(other.fileno(), True)
        with pytest.raises(VmimgError, match=r"4 descriptors, [0-3] variables"):
            sandbox.detect(image)


# What the system lacks

GONE = "sys.modules['landlockpy'] = None"
OLD = """
import landlockpy
def none(**settings):
    raise landlockpy.UnsupportedError(38, 'not implemented')
landlockpy.Ruleset = none
"""


@linux
@pytest.mark.parametrize(
    ("before", "said"),
    [
        (GONE, r"Landlock is missing: .*vmimg\[sandbox\]"),
        (OLD, "Landlock is missing: this kernel has none"),
        ("sys.modules['seccompy'] = None", r"seccomp is missing: .*vmimg\[sandbox\]"),
        ("import resource; del resource.RLIMIT_AS", "limits is missing: RLIMIT_AS"),
    ],
)
def test_what_is_missing_is_said_and_refused_where_all_is_required(
    before: str, said: str, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = "raise FormatError('the image was read')"
    replaced(monkeypatch, opened, before=before)
    with pytest.raises(UnsupportedFeature, match=said):
        sandbox.detect(image, require=True)
    monkeypatch.undo()
    replaced(
        monkeypatch, "from vmimg.probe.detecting import detect; return detect(path)", before=before
    )
    _, confinement = sandbox.detect(image)
    (missing,) = confinement.missing
    assert missing in str(confinement)
    assert confinement.to_json()["complete"] is False


@linux
def test_a_folder_is_not_read_where_nothing_keeps_the_parser_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced(monkeypatch, "raise FormatError('the image was read')", before=OLD)
    with pytest.raises(UnsupportedFeature, match="cannot read a directory here"):
        sandbox.detect(tmp_path)


def test_where_there_is_no_posix_there_is_no_sandbox(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UnsupportedFeature, match="no sandbox here"):
        sandbox.detect(image)


# The command


def command(*arguments: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vmimg", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


@linux
def test_info_says_what_held_the_parser(image: Path) -> None:
    plain = command("info", image)
    confined = command("info", "--require-sandbox", image)
    assert (confined.stdout, confined.returncode) == (plain.stdout, 0)
    assert confined.stderr.startswith("vmimg: sandbox: resource limits (256 MiB of memory")
    assert "Landlock (ABI" in confined.stderr and len(confined.stderr.splitlines()) == 1
    told: dict[str, Any] = json.loads(
        command("info", "--sandbox", "--output", "json", image).stdout
    )
    assert told["sandbox"]["complete"] is True


@linux
def test_vet_and_detect_print_the_same_in_the_sandbox(image: Path) -> None:
    for verb in ("vet", "detect"):
        plain, confined = command(verb, image), command(verb, "--require-sandbox", image)
        assert (confined.stdout, confined.returncode) == (plain.stdout, 0)
        assert confined.stderr.startswith("vmimg: sandbox: ")
        told = json.loads(command(verb, "--sandbox", "--output", "json", image).stdout)
        assert told["sandbox"]["complete"] is True


def test_standard_input_cannot_be_handed_over(image: Path) -> None:
    done = command("detect", "--sandbox", "-")
    assert done.returncode == 1
    assert "standard input" in done.stderr


def test_info_in_the_sandbox_follows_no_chain(image: Path) -> None:
    done = command("info", "--sandbox", "--backing-chain", image)
    assert done.returncode == 1
    assert "--backing-chain" in done.stderr
