"""HTTP of the node: health, metrics and a read-only account of studies. The only package that knows FastAPI."""
