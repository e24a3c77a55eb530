"""What the guest sees: layers, the stack of them, extents, and the machine of blocks.

Imports storage, codecs and below; the formats above answer what is asked here.
"""
