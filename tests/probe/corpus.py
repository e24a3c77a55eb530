"""All samples, from the modules `samples_*` beside this one: a new one joins by itself."""

from __future__ import annotations

import importlib
from pathlib import Path

import peers
from probe.sample import Sample

__all__ = ["BAD", "GOOD", "made"]


def _collected(kind: str) -> list[Sample]:
    found: list[Sample] = []
    for path in sorted(Path(__file__).parent.glob("samples_*.py")):
        found += getattr(importlib.import_module(f"probe.{path.stem}"), kind)
    names = [sample.name for sample in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    assert not twice, f"samples of the same name: {twice}"
    return found


GOOD = _collected("GOOD")
BAD = _collected("BAD")


def made(sample: Sample, folder: Path) -> Path:
    """The file that ``sample`` is, in a folder of its own below ``folder``."""
    for name in sample.peers:
        peers.require(name)
    place = folder / sample.name
    place.mkdir(parents=True)
    return sample.make(place)
