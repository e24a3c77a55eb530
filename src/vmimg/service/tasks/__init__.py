"""Work in the background: imports, copies, conversions. It survives a restart of the service."""
