"""Numbers against a reference: matching, curves, intervals. Pure functions over arrays; reads no film and no model."""
