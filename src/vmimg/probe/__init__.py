"""Identify an image, and vet one that comes from a stranger.

`detect` says what a file is, with evidence; `Inspector` says it of a stream; `vet` says what it
could make its reader do. Nothing here follows a name, and all of it is bounded, whatever the bytes.
"""
