"""The registry of disk formats: one line each, plain data, cheap to import."""

from vmimg.formats.descriptor import Capabilities, Format, Limits, Option
from vmimg.formats.registry import FORMATS, by_extension, find

__all__ = ["FORMATS", "Capabilities", "Format", "Limits", "Option", "by_extension", "find"]
