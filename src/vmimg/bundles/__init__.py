"""Bundles: disks and a machine in one package: opened in place, verified, and made.

`registry` names the kinds, `opening` finds out which one a path is, one module for each kind knows
its rules. `archives` reads and writes what they are packed in. Imports machines, probe, transfer
and below.
"""
