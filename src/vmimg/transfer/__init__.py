"""The engine: convert, stream, compare, measure, create. Imports formats and below."""
