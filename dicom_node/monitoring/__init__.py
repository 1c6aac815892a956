"""What models did in service: counts from the ledger, defects, drift against the evaluation report, and agreement.

`build` makes the one document that `radnode monitor`, `/api/monitoring` and the page `/monitoring` print; the rows are
counted by `dicom_node.ledger.service`. It names no study and no patient.
"""
