"""The engine's verbs, for disks in bundles too: what the library and the command call.

Imports sources and transfer.
"""

from __future__ import annotations

from vmimg.bundles.sources import open_disk, taking_bundles
from vmimg.transfer import compare as comparing
from vmimg.transfer import convert as converting
from vmimg.transfer import dd as copying
from vmimg.transfer import measure as measuring

__all__ = ["compare", "convert", "dd", "measure", "open_disk"]

convert = taking_bundles(converting.convert, near=True)
compare = taking_bundles(comparing.compare, formats=("format_a", "format_b"))
measure = taking_bundles(measuring.measure)
dd = taking_bundles(copying.dd, near=True)
