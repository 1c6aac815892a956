"""The one outbox of the regional record: documents are written once, brought in order, and followed until they arrive.

    queueing     a job's end or a withdrawal puts rows into the ledger, in the same transaction
    preparing    row → context, reconciliation, the receiver's form → bytes, fixed in the store
    courier      one thread for each `[[record]]` of the settings: prepares, brings, asks whether it is there

How documents look and travel is `dicom_node.ehr`; results for archives have a path of their own (`deliverer`).
"""
