"""Sandbox: a stranger's image is parsed by another process, which can do nothing but parse.

The parent opens the file and passes the descriptor on. The child is a fresh interpreter: it loads
what it needs, gives up everything else (`confining`), parses, answers in JSON and ends. What a
parser that was taken over could still do is to lie about its image, and to use up a few seconds.

Imports probe, formats and storage; it and storage are the only ones that call the operating system.
"""

from vmimg.sandbox.confinement import Confinement, Limits
from vmimg.sandbox.running import detect, info, run, vet

__all__ = ["Confinement", "Limits", "detect", "info", "run", "vet"]
