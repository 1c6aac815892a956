"""The subcommands of ``radnode eval``: each reads tables, calls pure functions of `eval`, prints a document."""
