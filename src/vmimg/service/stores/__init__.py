"""Where the bytes of images lie: five operations, and what can be made of them.

    base      Store and Putting: put a stream, get a range, size, delete, list; the errors
    ranged    a Storage of ranged reads, for stores whose bytes are not files of this system
    file      FileStore: a directory
    objects   ObjectStore: S3, GCS, Azure, memory
    web       WebStore: addresses that users name, read only
    registry  a store from its URL

A store knows keys and bytes. What an image is, who may read it and whether it is complete, the
catalogue knows.
"""
