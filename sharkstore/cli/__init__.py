"""The command line: one module a command, each options, one call, and a rendering."""
