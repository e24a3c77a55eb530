"""What libFuzzer runs: ``python -m fuzz.engine HARNESS [libFuzzer's options and folders]``.

An input that breaks something does not end the run: it is kept, by what it raised and where, and
fuzzing goes on, so that one shallow bug does not hide the others. What is too slow or takes too
much memory is libFuzzer's to end. `python -m fuzz` starts this; needs atheris.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Final

import atheris

__all__ = ["CRASHES", "keep"]

CRASHES: Final = Path(__file__).with_name("crashes")


def main() -> None:
    name = sys.argv[1]
    watched, others = _modules(name)
    # What is imported here for the first time tells libFuzzer which branches were taken: all of it,
    # for most would be imported when it is first used.
    with atheris.instrument_imports(include=["vmimg"], exclude=others):
        for module in watched:
            import_module(module)
        from fuzz.harnesses import HARNESSES
    from fuzz.mutate import Mutator
    from fuzz.seeds import MAX_BYTES, seeds

    harness = HARNESSES[name]
    folder = Path(os.environ.get("VMIMG_CRASHES", CRASHES)) / name
    folder.mkdir(parents=True, exist_ok=True)
    known: set[str] = set()

    def test_one_input(data: bytes) -> None:
        try:
            harness.run(data)
        except Exception as error:
            keep(name, folder, data, error, known)

    arguments = [
        sys.argv[0], "-rss_limit_mb=1024", f"-max_len={MAX_BYTES}", f"-artifact_prefix={folder}/",
        *sys.argv[2:],
    ]  # fmt: skip
    mutator = None
    if harness.on_image is not None:
        # Another function from the start of fuzzing on.
        mutator = Mutator(harness.on_image, seeds(name), lambda d, size: atheris.Mutate(d, size))
    if mutator is None:
        atheris.Setup(arguments, test_one_input)
    else:
        atheris.Setup(arguments, test_one_input, custom_mutator=mutator)
    atheris.Fuzz()


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


def _modules(name: str) -> tuple[list[str], list[str]]:
    """Modules of vmimg that are watched, and the others: to watch all makes everything slower."""
    wanted = tuple(_packages(name))
    source = Path(__file__).parent.parent / "src"
    modules = sorted(
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        for path in (source / "vmimg").rglob("*.py")
    )
    watched = [m for m in modules if any(m == w or m.startswith(f"{w}.") for w in wanted)]
    return watched, [m for m in modules if m not in watched]


def _packages(name: str) -> list[str]:
    """What of vmimg is watched: the part that the harness is for, and what is under it."""
    root = Path(__file__).parent.parent / "src" / "vmimg"
    if (root / "formats" / name).is_dir():
        return [f"vmimg.formats.{name}", "vmimg.disk"]
    if name.startswith("probe-"):
        family = name.removeprefix("probe-")
        own = [f"vmimg.probe.{kind}.{family}" for kind in ("recognisers", "vetters")]
        return [*own, "vmimg.probe", "vmimg.formats.raw"]
    if name.startswith("codec-"):
        return ["vmimg.codecs"]
    return {
        "detect": ["vmimg.probe", "vmimg.formats"],
        "feed": ["vmimg.probe"],
        "vmdk-text": ["vmimg.formats.vmdk"],
        "parallels-bundle": ["vmimg.formats.parallels"],
        "qcow2-names": ["vmimg.formats.qcow2"],
    }.get(name, ["vmimg.probe"])


if __name__ == "__main__":
    main()
