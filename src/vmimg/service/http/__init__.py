"""What all requests share: operations, errors, limits, logs, metrics."""
