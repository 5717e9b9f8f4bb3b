"""A cluster member as Trio tasks around one state object."""
