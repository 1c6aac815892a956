"""What the Moscow experiment wants in the archive: one report of fourteen TEXT items and one series of pictures.

Called by `results.result_set` for profiles whose form is ``moscow``. Names, codes and sentences stand in a file
(`form`, `profiles/moscow.toml`), never in code. The messages of the same exchange are `dicom_node.ehr.moscow`.
"""
