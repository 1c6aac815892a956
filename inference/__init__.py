"""Pixels and geometry in, findings out.

Pure: no network, no database, no configuration files; time comes in as an argument. `dicom_node` and `eval` and
`training` call it; it imports only `models`.
"""
