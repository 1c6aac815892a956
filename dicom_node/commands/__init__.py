"""Subcommands of `radnode`, one module each; loaded by `dicom_node.cli` when they are called."""
