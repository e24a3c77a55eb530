"""Every field of every structure, set to what does harm: clear errors, and a disk that is whole.

The structures and their places are found by watching vmimg read a good image (fuzz.fields), so a
field that a reader begins to look at is tested without a line here. After each change all that a
reader does is done with it (fuzz.steps): anything but a VmimgError fails, and so does a step that
takes long, a disk of negative size, and a map that does not cover it exactly.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.fields import Field, Place, fields_of, places
from fuzz.images import images
from fuzz.mutate import boundary
from fuzz.repair import repair
from fuzz.sparse import SparseStorage
from fuzz.steps import through
from rounds import rounds
from vmimg.formats import registry
from vmimg.formats.registry import FORMATS

PACKAGES = Path(registry.__file__).parent
MAX_MIB = 200
MAX_SECONDS = 1.0
# What must have been found at the least: watching that finds nothing would test nothing.
EXPECTED = {
    "raw": {"Mbr", "GptHeader", "GptEntry", "ExtSuperblock", "FatBootSector", "SwapHeader"},
    "bochs": {"StandardHeader", "SpecificHeader", "SpecificHeader1"},
    "cloop": {"Head", "Index3", "Tail3"},
    "cow": {"Header32", "Header64"},
    "dmg": {"Koly", "BlockTable", "EncryptedHeader", "KeyPointer", "PassphraseKey"},
    "iso": {"VolumeDescriptor", "DirectoryRecord", "ValidationEntry", "BootEntry", "UdfAnchor"},
    "luks": {"Luks1Header", "Luks2Header"},
    "parallels": {"Header", "ExtensionHeader", "FeatureHeader"},
    "qcow": {"Header"},
    "qcow2": {"Header", "ExtensionHeader"},
    "qed": {"Header"},
    "vdi": {"PreHeader", "Header0", "Header1Plus"},
    "vhd": {"Footer", "DynamicHeader"},
    "vhdx": {"Header", "RegionTableHeader", "RegionTableEntry", "MetadataTableHeader",
             "MetadataTableEntry", "FileParameters", "LogEntryHeader", "ParentLocatorHeader"},
    "vmdk": {"SparseExtentHeader", "GrainMarker", "CowdHeader", "SeSparseConstHeader"},
}  # fmt: skip


@cache
def good(format: str) -> dict[str, SparseStorage]:
    """Images of the format, by name."""
    found = {}
    for name, data in images(format):
        found[name] = SparseStorage(len(data), name)
        found[name].write(0, data)
    return found


@cache
def structures(format: str) -> list[tuple[str, Place]]:
    """(image, structure and where it is in that) of all good images."""
    read = partial(through, FORMATS[format])
    return [(name, place) for name, image in good(format).items() for place in places(image, read)]


@cache
def fields(format: str) -> dict[str, list[tuple[str, Field]]]:
    """Every field of every structure, by its name: (image, field with its offset in that)."""
    found: dict[str, list[tuple[str, Field]]] = {}
    for name, place in structures(format):
        for field in fields_of(place.structure, place.offset):
            found.setdefault(f"{place.structure.__name__}.{field.name}", []).append((name, field))
    return found


def harm(
    format: str, name: str, changes: list[tuple[Field, bytes]], *, mended: bool = True
) -> list[str]:
    """What is wrong with how vmimg takes the image with ``changes``; ``mended``: checksums are set
    right afterwards.
    """
    image = good(format)[name].copy()
    for field, data in changes:
        image.write(field.offset, data)
    if mended:
        repair(image)
    try:
        through(FORMATS[format], image, seconds=MAX_SECONDS)
    except Exception as error:
        told = ", ".join(f"{field.name} at {field.offset}: {data.hex()}" for field, data in changes)
        return [f"{name}, {told}, {mended=}: {type(error).__name__}: {error}"]
    return []


def values(field: Field, old: bytes, dice: random.Random) -> list[bytes]:
    """What the field is set to: the edges of its range, neighbours of what it is, chance."""
    if not field.number:
        return [b"\xff" * field.size, bytes(field.size), dice.randbytes(field.size)]
    top, value = 1 << 8 * field.size, field.value(old)
    numbers = [0, 1, top - 1, top - 2, top // 2, value + 1, value - 1, dice.randrange(top)]
    return [field.pack(number) for number in dict.fromkeys(numbers)]


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def memory_mib(what: str) -> int:
    """VmRSS now, or VmHWM, the most since `reset_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) >> 10


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """Fails a test that took more than MAX_MIB at any time."""
    reset_peak()
    before = memory_mib("VmRSS")
    yield
    assert memory_mib("VmHWM") - before < MAX_MIB


@pytest.mark.parametrize("format", EXPECTED)
def test_the_structures_are_found(format: str) -> None:
    found = {place.structure.__name__ for _, place in structures(format)}
    assert EXPECTED[format] <= found


def test_every_format_with_structures_is_here() -> None:
    with_structures = {name for name in FORMATS if (PACKAGES / name / "structures.py").exists()}
    assert with_structures == EXPECTED.keys()


@pytest.mark.usefixtures("bounded_memory")
@pytest.mark.parametrize("format", EXPECTED)
def test_no_value_of_a_field_does_harm(format: str) -> None:
    dice = random.Random(format)
    found: list[str] = []
    for places_of_it in fields(format).values():
        name, field = dice.choice(places_of_it)
        old = good(format)[name].read(field.offset, field.size)
        tried = list(enumerate(values(field, old, dice)))
        for number, data in dice.sample(tried, rounds(len(tried))):
            if data != old:
                # A wrong checksum is the same error whatever is in the field.
                found += harm(format, name, [(field, data)], mended=number != 2)
    assert found == []


@pytest.mark.usefixtures("bounded_memory")
@pytest.mark.parametrize("format", EXPECTED)
@settings(
    max_examples=rounds(25), deadline=None, suppress_health_check=list(HealthCheck), database=None
)
@given(seed=st.integers(0, 2**32), count=st.integers(2, 5))
def test_no_values_of_several_fields_do_harm(format: str, seed: int, count: int) -> None:
    dice = random.Random(seed)
    name, one = dice.choice(structures(format))
    own = [place for image, place in structures(format) if image == name]
    changes = []
    for place in (one, *dice.choices(own, k=count - 1)):
        field = dice.choice(list(fields_of(place.structure, place.offset)))
        old = good(format)[name].read(field.offset, field.size)
        number = boundary(field, old, good(format)[name].size, dice)
        changes.append((field, field.pack(number)))
    assert harm(format, name, changes) == []
