"""The process around a node: configuration, event handlers, files, logs and metrics."""
