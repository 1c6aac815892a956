"""The exchange of the Moscow experiment: results and errors as JSON over Kafka.

`message` writes them, `client` brings them to the brokers, `destination` is what people write into the settings. All
that is known of this exchange is second-hand, so every name of it is in a profile file (`profile`, `profiles/`). The
structured report and the picture series that the exchange expects in the archive are `dicom_node.results`.
"""
