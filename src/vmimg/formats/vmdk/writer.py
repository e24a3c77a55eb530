"""make_writer: the Writer of each kind of VMDK. Imports numpy, so it is imported when used."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vmimg.disk.layer import Layer, ParentRef
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import Writer
from vmimg.formats.vmdk.cowdwriter import CowdWriter
from vmimg.formats.vmdk.flatwriter import FlatWriter
from vmimg.formats.vmdk.newdescriptor import NewDescriptor
from vmimg.formats.vmdk.sparsewriter import SparseWriter
from vmimg.formats.vmdk.streamwriter import StreamWriter

__all__ = ["make_writer"]

_WRITERS: Mapping[str, Callable[[NewDescriptor], Writer]] = {
    "monolithicSparse": SparseWriter,
    "monolithicFlat": FlatWriter,
    "twoGbMaxExtentSparse": SparseWriter,
    "twoGbMaxExtentFlat": FlatWriter,
    "streamOptimized": StreamWriter,
    "vmfs": FlatWriter,
    "vmfsThin": FlatWriter,
    "vmfsEagerZeroedThick": FlatWriter,
    "vmfsSparse": CowdWriter,
}


def make_writer(
    size: int,
    options: Mapping[str, OptionValue],
    *,
    parent: ParentRef | None = None,
    base: Layer | None = None,
    name: str = "disk",
) -> Writer:
    """The writer that ``options["subformat"]`` names; see Driver.writer."""
    new = NewDescriptor(size, options, parent=parent, base=base, name=name)
    return _WRITERS[new.subformat](new)
