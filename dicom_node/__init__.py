"""The edge of the product: DICOM, HTTP, database, processes. Start reading in `node.py`, then `pipeline.py`."""
