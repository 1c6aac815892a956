"""DICOM results: what a model said of a study, written as objects that an archive keeps and a viewer shows.

Called by the worker through `result_set.encode`. The only package that knows highdicom. How objects are sent is
`dicom_node.delivery`; what is clinically said comes from `inference.findings` and is never computed here.
"""
