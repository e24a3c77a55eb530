"""Metadata definitions in the database: namespaces, what is in them, and the standard catalogue.

    namespaces    the namespaces
    contents      their properties, objects and tags: what has a name within a namespace
    associations  resource types, and which namespaces are for which
    standard      the catalogue that every deployment starts with

Functions over a connection; nothing here knows of HTTP.
"""
