"""Machines: one neutral description of a virtual machine, and the dialects it is written in.

`model` is the description, `registry` names the dialects, one module in `dialects` reads and writes
each. Nothing here opens an image. Imports units and errors; lxml where a dialect is XML.
"""
