"""FHIR R4: writing a document as a transaction bundle (`bundle.write_bundle`) and bringing it (`client.FhirClient`).

Used by the outbox. Profiles of receivers are in `profile` and its TOML files.
"""
