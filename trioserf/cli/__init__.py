"""The command line: a typer application with Serf's grammar of options (see README.md)."""
