"""What a model is: its card, its weights and their digest, and where installed models are found.

Everything above (`inference`, `eval`, `training`, `dicom_node`) may import this package; it imports none of them.
"""
