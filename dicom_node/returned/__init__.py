"""The way back: what radiologists and registers say of a study or a document after radnode has spoken.

`reports` takes signed reports as truth for monitoring, decided by `rules`; `statuses` takes states and signatures of
documents. `desk` runs the doors: a watched folder, MLLP, and the routes of `dicom_node.web.returned`. No text of a
report is kept anywhere.
"""
