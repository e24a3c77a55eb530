"""What libFuzzer runs: ``python -m fuzz.engine HARNESS [libFuzzer's options and folders]``.

HARNESS may be several, with commas between them: then each input goes through all of them, which is
for a moment of fuzzing, as to start takes longer than that.
An input that breaks something does not end the run: it is kept, by what it raised and where, and
fuzzing goes on, so that one shallow bug does not hide the others. What is too slow is libFuzzer's
to end. `python -m fuzz` starts this; needs atheris.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import resource
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

import atheris

from vmimg.bundles.registry import BUNDLES
from vmimg.machines.registry import DIALECTS

__all__ = ["CRASHES", "keep"]

# Of how many inputs the places of structures are learnt.
_LEARNT: Final = 100
# Of memory, in bytes: beyond it there is a MemoryError, kept like any other. libFuzzer's own limit
# looks at the most that was ever used, and that begins with what the parent process had.
_MOST_MEMORY: Final = 1 << 30
# Of that, what may be lost: atheris keeps what watched code compares, and numpy's arrays are large.
# Then the process ends, and `python -m fuzz` begins another.
_MOST_LOST: Final = 512 << 20
CRASHES: Final = Path(__file__).with_name("crashes")


def main() -> None:
    names = sys.argv[1].split(",")
    watched, others = _modules(names)
    # What is imported here for the first time tells libFuzzer which branches were taken: all of it,
    # for most would be imported when it is first used.
    with atheris.instrument_imports(include=["vmimg"], exclude=others):
        for module in watched:
            import_module(module)
        from fuzz.harnesses import HARNESSES
    from fuzz.mutate import Mutator
    from fuzz.sparse import MAX_BYTES

    crashes = Path(os.environ.get("VMIMG_CRASHES", CRASHES))
    folders = {name: crashes / name for name in names}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    known: dict[str, set[str]] = {name: set() for name in names}

    def test_one_input(data: bytes) -> None:
        for name in names:
            try:
                HARNESSES[name].run(data)
            except Exception as error:
                keep(name, folders[name], data, error, known[name])
        if _memory() > _MOST_LOST:
            sys.stdout.flush()
            os._exit(0)

    arguments = [
        sys.argv[0], "-rss_limit_mb=0", f"-max_len={MAX_BYTES}",
        f"-artifact_prefix={folders[names[0]]}/", *sys.argv[2:],
    ]  # fmt: skip
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
    mutator = None
    on_image = HARNESSES[names[0]].on_image
    if on_image is not None:
        # Another function from the start of fuzzing on.
        begun = [Path(argument) for argument in sys.argv[2:] if not argument.startswith("-")]
        inputs = sorted(path for folder in begun for path in folder.iterdir())
        # Many of them have the same structures at the same places.
        some = (path.read_bytes() for path in inputs[:: len(inputs) // _LEARNT + 1])
        mutator = Mutator(on_image, some, lambda d, size: atheris.Mutate(d, size))
    if mutator is None:
        atheris.Setup(arguments, test_one_input)
    else:
        atheris.Setup(arguments, test_one_input, custom_mutator=mutator)
    atheris.Fuzz()


def _memory() -> int:
    """Bytes of data that the process has now, as RLIMIT_DATA counts them."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def keep(name: str, folder: Path, data: bytes, error: Exception, known: set[str]) -> None:
    """Write ``data`` into ``folder`` unless there is one that breaks the same thing."""
    label = _label(error)
    if label in known:
        return
    known.add(label)
    path = folder / label
    if path.exists() and path.stat().st_size <= len(data):
        return
    path.write_bytes(data)
    print("".join(traceback.format_exception(error)), flush=True)
    print(f"kept; to repeat it: python -m fuzz.run {name} {path}", flush=True)


def _label(error: Exception) -> str:
    """What was raised, and the last place in vmimg that it came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if "/vmimg/" in frame.filename]  # fmt: skip
    where = "fuzz"
    if frames:
        where = (
            f"{frames[-1].filename.rpartition('/vmimg/')[2].removesuffix('.py')}.{frames[-1].name}"
        )
    text = re.sub(r"[^A-Za-z]+", "-", str(error))[:40].strip("-")
    digest = hashlib.sha1(f"{where} {text}".encode()).hexdigest()[:6]
    return f"{type(error).__name__}-{re.sub('[^a-z0-9_.]+', '.', where.lower())}-{text}-{digest}"


def _modules(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Modules of vmimg that are watched, and the others: to watch all makes everything slower, and
    to prepare a module for it takes longer than to import it.
    """
    source = Path(__file__).parent.parent / "src"
    paths = {
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((source / "vmimg").rglob("*.py"))
    }
    parts = [_parts(name) for name in names]
    begun = [part for own, _ in parts for part in own]
    around = [part for _, beyond in parts for part in beyond]
    watched: set[str] = set()
    left = [module for module in paths if _within(module, begun)]
    while left:
        module = left.pop()
        if module not in watched:
            watched.add(module)
            left += [m for m in _imports(paths[module]) & paths.keys() if _within(m, around)]
    return sorted(watched), [module for module in paths if module not in watched]


def _parts(name: str) -> tuple[Sequence[str], Sequence[str]]:
    """What of vmimg is watched: the part that the harness is for, and where what that imports is
    watched as well.
    """
    if (Path(__file__).parent.parent / "src" / "vmimg" / "formats" / name).is_dir():
        return [f"vmimg.formats.{name}"], ["vmimg.disk"]
    if name.startswith("probe-"):
        family = name.removeprefix("probe-")
        own = [f"vmimg.probe.{kind}.{family}" for kind in ("recognisers", "vetters")]
        return own, ["vmimg.probe", "vmimg.formats.raw"]
    if name.startswith("codec-"):
        return [f"vmimg.codecs.{name.removeprefix('codec-')}"], ["vmimg.codecs"]
    if name.startswith("bundle-"):
        own = [BUNDLES[name.removeprefix("bundle-")].implementation]
        return own, ["vmimg.bundles", "vmimg.machines"]
    if name.startswith("machine-"):
        return [DIALECTS[name.removeprefix("machine-")].implementation], ["vmimg.machines"]
    return {
        # Not the families, which have harnesses of their own.
        "detect": (["vmimg.probe.detecting", "vmimg.probe.vetting", "vmimg.formats.detect"], []),
        "feed": (["vmimg.probe.inspector", "vmimg.probe.held", "vmimg.probe.detecting"], []),
        "vmdk-text": (_some("vmdk", "descriptor", "driver", "opening", "text", "vettext"), []),
        "parallels-bundle": (_some("parallels", "bundle", "driver", "opening", "vetting"), []),
        "qcow2-names": (_some("qcow2", "driver", "header", "vetting"), []),
    }.get(name, ([f"vmimg.probe.{name}"], []))


def _some(format: str, *modules: str) -> list[str]:
    return [f"vmimg.formats.{format}.{module}" for module in modules]


def _within(module: str, parts: Sequence[str]) -> bool:
    return any(module == part or module.startswith(f"{part}.") for part in parts)


def _imports(path: Path) -> set[str]:
    """The names that may be modules, in all imports of a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


if __name__ == "__main__":
    main()
