"""The fuzzers, for a moment: every harness takes its own seeds, and nothing breaks right away.

To start libFuzzer takes longer than the moment. So each run changes inputs here, as the fuzzer
does, and starts it for one harness of each sort; for all of them is slow.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.harnesses import HARNESSES
from fuzz.mutate import Mutator
from fuzz.seeds import seeds
from fuzz.sparse import MAX_BYTES
from rounds import rounds
from vmimg.bundles.registry import BUNDLES
from vmimg.formats.registry import FORMATS
from vmimg.machines.registry import DIALECTS

ROOT = Path(__file__).parent.parent.parent
# With how many of those fuzzing for a moment begins, and how many inputs it tries.
SOME = 12
MOMENT = 100


@pytest.fixture(scope="module", params=HARNESSES)
def name(request: pytest.FixtureRequest) -> str:
    """Of the module, so that the tests of one harness follow each other and share its seeds."""
    return str(request.param)


@pytest.fixture(scope="module")
def inputs(name: str) -> list[bytes]:
    """The seeds of a harness."""
    return list(seeds(name))


def test_every_seed_passes(name: str, inputs: list[bytes]) -> None:
    for data in inputs:
        HARNESSES[name].run(data)
    assert len(inputs) > 1


def test_nothing_breaks_that_is_changed_a_little(
    name: str, inputs: list[bytes], tmp_path: Path
) -> None:
    dice = random.Random(name)

    def mutate(data: bytes, most: int) -> bytes:
        """Bytes that are others, gone, twice or new: what libFuzzer does without a dictionary."""
        changed = bytearray(data)
        for _ in range(dice.choice((1, 1, 2, 8))):
            at, length = dice.randrange(len(changed) + 1), dice.choice((1, 2, 4, 8, 100))
            part = changed[at : at + length]
            changed[at : at + length] = dice.choice(
                (dice.randbytes(len(part)), b"", part * 2, dice.randbytes(length) + part)
            )
        return bytes(changed[:most])

    harness = HARNESSES[name]
    some = inputs[:: len(inputs) // SOME + 1]
    change = lambda data, most, _: mutate(data, most)  # noqa: E731
    if harness.on_image is not None:
        change = Mutator(harness.on_image, some, mutate)
    for _ in range(rounds(MOMENT)):
        data = change(dice.choice(inputs), MAX_BYTES, dice.getrandbits(32))
        try:
            harness.run(data)
        except Exception as error:
            kept = tmp_path / "input"
            kept.write_bytes(data)
            error.add_note(f"to repeat it: python -m fuzz.run {name} {kept}")
            raise


# What is watched differs by sort (fuzz.engine).
ONE_OF_EACH_SORT = [
    ("bochs",), ("probe-wim",), ("codec-adc",), ("policy",), ("parallels-bundle",),
    ("bundle-gce", "bundle-lxd"), ("machine-xl", "machine-vmx"),
]  # fmt: skip


def _groups() -> list[tuple[str, ...]]:
    """Harnesses that are fuzzed in one process. What one kind of bundle or one dialect is offered,
    may be offered to the others.
    """
    together: dict[str, list[str]] = {}
    for name in HARNESSES:
        family = name.partition("-")[0]
        together.setdefault(family if family in ("bundle", "machine") else name, []).append(name)
    return [tuple(names) for names in together.values()]


@pytest.mark.peer("atheris")
@pytest.mark.parametrize(
    "names",
    [
        *(pytest.param(names, id="+".join(names)) for names in ONE_OF_EACH_SORT),
        *(
            pytest.param(names, id=names[0], marks=pytest.mark.slow)
            for names in _groups()
            if names not in ONE_OF_EACH_SORT
        ),
    ],
)
def test_nothing_breaks_in_a_moment_of_fuzzing(names: tuple[str, ...], tmp_path: Path) -> None:
    corpus, crashes = tmp_path / "corpus", tmp_path / "crashes"
    corpus.mkdir()
    inputs = [data for name in names for data in seeds(name)]
    for number, data in enumerate(inputs[:: len(inputs) // SOME + 1]):
        (corpus / str(number)).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.engine", ",".join(names), str(corpus),
         f"-runs={MOMENT}", "-timeout=60", "-seed=1"],
        cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=200,
        env=os.environ | {"VMIMG_CRASHES": str(crashes)},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert [path.name for path in crashes.glob("*/*")] == [], said[-3000:]
    assert "DONE" in said, said[-3000:]


def test_each_format_bundle_and_dialect_has_a_harness() -> None:
    assert FORMATS.keys() <= HARNESSES.keys()
    assert {f"bundle-{name}" for name in BUNDLES} <= HARNESSES.keys()
    reads = {f"machine-{name}" for name, dialect in DIALECTS.items() if dialect.reads}
    assert reads <= HARNESSES.keys()
