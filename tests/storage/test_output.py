"""Output appears under its name when it is complete, and not before."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vmimg.errors import OptionError, StorageError
from vmimg.storage import output as module
from vmimg.storage.output import Output, OutputSet


@pytest.fixture(params=["without a name", "with a name beside it"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of making a file: O_TMPFILE, and what stands in for it."""
    if request.param == "with a name beside it":
        monkeypatch.setattr(module, "_CAN_LINK", False)
    return str(request.param)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "disk.raw"


def names(target: Path) -> list[str]:
    return sorted(os.listdir(target.parent))


@pytest.mark.usefixtures("way")
def test_the_name_appears_when_the_content_is_complete(target: Path) -> None:
    with Output(target) as storage:
        storage.write(0, b"content")
        assert not target.exists()
    assert target.read_bytes() == b"content"
    assert names(target) == ["disk.raw"]


def test_nothing_can_be_seen_while_it_is_made(target: Path) -> None:
    with Output(target) as storage:
        storage.write(0, b"content")
        assert names(target) == []


@pytest.mark.usefixtures("way")
def test_an_exception_leaves_nothing(target: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Output(target) as storage:
        storage.write(0, b"content")
        raise KeyboardInterrupt
    assert names(target) == []


@pytest.mark.usefixtures("way")
def test_an_existing_file_is_kept_unless_told_otherwise(target: Path) -> None:
    target.write_bytes(b"old")
    with pytest.raises(OptionError, match=r"disk\.raw exists; pass --force to replace it"):
        Output(target)
    assert (names(target), target.read_bytes()) == (["disk.raw"], b"old")


@pytest.mark.usefixtures("way")
def test_a_file_that_appears_meanwhile_is_kept(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Output(target)
    output.storage.write(0, b"new")
    target.write_bytes(b"old")
    # Even in the moment between the last look and the name.
    monkeypatch.setattr(Output, "_check_target", lambda self: None)
    with pytest.raises(OptionError, match="exists"):
        output.commit()
    assert (names(target), target.read_bytes()) == (["disk.raw"], b"old")


@pytest.mark.usefixtures("way")
def test_a_replaced_file_is_untouched_until_the_new_one_is_complete(target: Path) -> None:
    target.write_bytes(b"old")
    target.chmod(0o640)
    before = target.stat().st_ino
    with pytest.raises(ZeroDivisionError), Output(target, replace=True) as storage:
        storage.write(0, b"new content")
        raise ZeroDivisionError
    assert (target.read_bytes(), target.stat().st_ino) == (b"old", before)
    with Output(target, replace=True) as storage:
        storage.write(0, b"new content")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new content"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert names(target) == ["disk.raw"]


def test_a_replaced_file_passes_on_its_owner_when_root_replaces_it(target: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    target.write_bytes(b"old")
    os.chown(target, 1234, 5678)
    with Output(target, replace=True) as storage:
        storage.write(0, b"new")
    assert (target.stat().st_uid, target.stat().st_gid) == (1234, 5678)


@pytest.mark.usefixtures("way")
def test_the_mode_follows_the_umask(target: Path) -> None:
    before = os.umask(0o027)
    try:
        with Output(target):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.usefixtures("way")
def test_a_symbolic_link_is_written_through(target: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.raw"
    target.symlink_to("../elsewhere.raw")
    with Output(target) as storage:  # it points to nothing yet
        storage.write(0, b"one")
    assert elsewhere.read_bytes() == b"one"
    with pytest.raises(OptionError, match="exists"):
        Output(target)
    with Output(target, replace=True) as storage:
        storage.write(0, b"two")
    assert target.is_symlink()
    assert elsewhere.read_bytes() == b"two"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing/disk.raw", "no such file or directory"),
        (".", "it is a directory"),
        ("disk.raw/", "it names a directory"),
        ("/dev/null", "no file and no block device"),
        ("x" * 300, "file name too long"),
    ],
)
def test_a_place_where_no_file_can_be_is_an_error_at_once(
    target: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.chdir(target.parent)
    with pytest.raises(StorageError, match=says):
        Output(name, replace=True)


@pytest.mark.usefixtures("way")
def test_a_name_as_long_as_names_may_be_works(target: Path) -> None:
    longest = target.with_name("ä" * 127)
    for _ in range(2):
        with Output(longest, replace=True) as storage:
            storage.write(0, b"content")
    assert longest.read_bytes() == b"content"


def test_committing_or_aborting_twice_does_nothing(target: Path) -> None:
    output = Output(target)
    output.storage.write(0, b"content")
    output.commit()
    output.commit()
    output.abort()
    assert target.read_bytes() == b"content"


def test_a_process_killed_while_it_writes_leaves_nothing(target: Path) -> None:
    target.write_bytes(b"old")
    program = (
        "import sys, time; from vmimg.storage.output import Output\n"
        "storage = Output(sys.argv[1], replace=True).storage\n"
        "storage.write(0, bytes(1 << 20)); print('writing', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(target)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    assert (names(target), target.read_bytes()) == (["disk.raw"], b"old")


@pytest.mark.usefixtures("way")
def test_a_full_disk_at_the_last_moment_leaves_nothing(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(StorageError, match="cannot make its content durable: no space left"),
        Output(target) as storage,
    ):
        storage.write(0, b"content")
    assert names(target) == []


def test_a_device_is_written_in_place(tmp_path: Path) -> None:
    backing = tmp_path / "device"
    backing.write_bytes(b"x" * 65536)
    try:
        done = subprocess.run(
            ["losetup", "--show", "-f", str(backing)], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no losetup")
    if done.returncode:
        pytest.skip(f"losetup is not allowed here: {done.stderr.strip()}")
    device = done.stdout.strip()
    try:
        with Output(device) as storage:
            assert storage.is_device
            storage.write(0, b"content")
        assert Path(device).read_bytes() == b"content" + b"x" * 65529
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


# Several


@pytest.mark.usefixtures("way")
def test_files_of_a_set_get_their_names_in_order(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[str] = []
    real = Output._publish

    def publish(output: Output) -> bool:
        published.append(Path(output.path).name)
        return real(output)

    monkeypatch.setattr(Output, "_publish", publish)
    with OutputSet() as outputs:
        data = outputs.add(target.with_name("a.data"))
        image = outputs.add(target.with_name("a.qcow2"))
        data.write(0, b"data")
        image.write(0, b"image")
        assert [name for name in names(target) if not name.endswith(".vmimg-part")] == []
    assert published == ["a.data", "a.qcow2"]
    assert names(target) == ["a.data", "a.qcow2"]


@pytest.mark.usefixtures("way")
def test_one_failure_takes_the_whole_set_back(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = OutputSet()
    outputs.add(target.with_name("a.data")).write(0, b"data")
    outputs.add(target.with_name("a.qcow2")).write(0, b"image")
    target.with_name("a.qcow2").write_bytes(b"old")
    monkeypatch.setattr(Output, "_check_target", lambda self: None)
    with pytest.raises(OptionError, match=r"a\.qcow2 exists"):
        outputs.commit()
    assert names(target) == ["a.qcow2"]
    assert target.with_name("a.qcow2").read_bytes() == b"old"


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("links", [True, False])
def test_one_failure_gives_the_files_back_that_a_set_replaced(
    target: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    data, image = target.with_name("a.data"), target.with_name("a.qcow2")
    data.write_bytes(b"old data")
    image.write_bytes(b"old image")
    outputs = OutputSet()
    outputs.add(data, replace=True).write(0, b"new data")
    outputs.add(image, replace=True).write(0, b"new image")
    real = os.link

    def link(source: str, *more: object, **named: object) -> None:
        if not links and not str(source).startswith("/proc"):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        real(source, *more, **named)  # type: ignore[arg-type]

    def fail(output: Output) -> bool:
        if output.path == str(image):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return names_it(output)

    names_it = Output._name_it
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(Output, "_name_it", fail)
    with pytest.raises(StorageError, match="input/output"):
        outputs.commit()
    assert (data.read_bytes(), image.read_bytes()) == (b"old data", b"old image")
    assert names(target) == ["a.data", "a.qcow2"]


@pytest.mark.usefixtures("way")
def test_nothing_is_left_of_the_files_that_a_set_replaced(target: Path) -> None:
    data, image = target.with_name("a.data"), target.with_name("a.qcow2")
    data.write_bytes(b"old data")
    with OutputSet() as outputs:
        outputs.add(data, replace=True).write(0, b"new data")
        outputs.add(image, replace=True).write(0, b"new image")
    assert (data.read_bytes(), image.read_bytes()) == (b"new data", b"new image")
    assert names(target) == ["a.data", "a.qcow2"]


@pytest.mark.usefixtures("way")
def test_an_exception_leaves_nothing_of_a_set(target: Path) -> None:
    with pytest.raises(ZeroDivisionError), OutputSet() as outputs:
        outputs.add(target.with_name("a.data"))
        outputs.add(target.with_name("a.qcow2"))
        raise ZeroDivisionError
    assert names(target) == []
