"""HL7 v2.5.1: writing a document as ORU^R01 (`oru.write_oru`) and bringing it over MLLP (`client.MllpClient`).

Used by the outbox; `encoding` also reads what comes in. Profiles of receivers are in `profile` and its TOML files.
"""
