"""The process around a node: configuration, handlers, files, logs and signals."""
