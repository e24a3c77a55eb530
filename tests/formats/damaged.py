"""Damaged images: each goes through all that reads images, and ends in clear errors or none.

`ordeal.py` does the reading, in a process of its own in which memory is limited. Here it is started
and its lines are read; `objections` says what must hold of every image whatever is wrong with it.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "MAX_MIB", "MAX_SECONDS", "ORDEAL", "Outcome", "Raised", "any_value", "complaints", "missed",
    "objections", "put_cases", "put_through",
]  # fmt: skip

ORDEAL = Path(__file__).with_name("ordeal.py")
MAX_SECONDS = 1.0
MAX_MIB = 200


class Raised(NamedTuple):
    """What a step raised; ``ours``: it is a VmimgError."""

    kind: str
    message: str
    ours: bool


@dataclass(frozen=True)
class Outcome:
    """What became of an image: errors by step, CPU seconds of the slowest step, peak memory."""

    raised: dict[str, Raised]
    seconds: float
    slowest: str
    mib: int


def put_through(folder: Path, images: list[Path], batch: int = 1000) -> dict[str, Outcome]:
    """The outcome of each image by its name, ``batch`` images to a process (starting one takes
    longer than an image). The processes write into ``folder``.
    """
    outcomes = {}
    for start in range(0, len(images), batch):
        done = subprocess.run(
            [sys.executable, str(ORDEAL), str(folder), *map(str, images[start : start + batch])],
            capture_output=True,
            text=True,
            timeout=240,
            # Address space, which is what can be limited, is also taken by heaps of threads.
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        for line in done.stdout.splitlines():
            name, raised, seconds, slowest, mib = json.loads(line)
            steps = {step: Raised(*what) for step, what in raised.items()}
            outcomes[name] = Outcome(steps, seconds, slowest, mib)
    assert outcomes.keys() == {image.name for image in images}, sorted(outcomes)
    return outcomes


def put_cases(
    folder: Path,
    cases: Sequence[Any],
    suffix: str,
    base: Callable[[Any], bytes],
    *,
    batch: int = 1000,
) -> list[tuple[Path, Outcome]]:
    """For each of ``cases``, in their order: the image that it makes of its ``base``, and what
    became of that.

    A case has a method ``change`` that damages a bytearray. ITSELF in an image is the beginning of
    its own name.
    """
    paths = []
    for number, case in enumerate(cases):
        image = bytearray(base(case))
        case.change(image)
        paths.append(folder / f"{number}{suffix}")
        paths[-1].write_bytes(image.replace(b"ITSELF", paths[-1].name.encode()[:6]))
    found = put_through(folder, paths, batch)
    return [(path, found[path.name]) for path in paths]


def objections(
    outcome: Outcome,
    path: Path,
    named: Collection[str] = (),
    nameless: Collection[str] = ("OptionError",),
) -> Iterator[str]:
    """What must not be, of any image. ``named``: what an error may name in place of the file;
    ``nameless``: kinds of errors that may name no file, but an option alone.
    """
    for step, (kind, message, ours) in outcome.raised.items():
        if not ours:
            yield f"{step} raised {kind}: {message}"
        elif "\n" in message or not message:
            yield f"{step} does not say it in one line: {message!r}"
        elif kind not in nameless and not any(name in message for name in (path.name, *named)):
            yield f"{step} does not name the file: {message}"
    if outcome.seconds > MAX_SECONDS:
        yield f"{outcome.slowest} took {outcome.seconds:.2f} s"
    if outcome.mib > MAX_MIB:
        yield f"all of it took {outcome.mib} MiB"


def complaints(found: Mapping[str, Outcome], paths: Iterable[Path]) -> dict[str, list[str]]:
    """The objections to each of ``paths``, by name; without those to which there are none."""
    said = {path.name: list(objections(found[path.name], path)) for path in paths}
    return {name: lines for name, lines in said.items() if lines}


def missed(outcome: Outcome, steps: Collection[str], says: str) -> Iterator[str]:
    """The steps that did not raise an error with these words."""
    for step in steps:
        if step not in outcome.raised:
            yield f"{step} noticed nothing: {outcome.raised}"
        elif says not in outcome.raised[step].message:
            yield f"{step} says {outcome.raised[step].message!r}, not {says!r}"


def any_value(dice: random.Random) -> int:
    """32 bits that are likely to do harm."""
    return dice.choice((0, 1, 2**31, 2**32 - 1, dice.getrandbits(32), 1 << dice.randrange(32)))
