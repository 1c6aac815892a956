"""Documents for the regional record: an unsigned SEMD draft, FHIR R4, HL7 v2 and the Moscow exchange's messages.

Every writer here takes the same `context.DocumentRequest` and computes nothing clinical: findings come from
`inference.findings`, their wording from `dicom_node.wording`. Sending is the outbox's.
"""
