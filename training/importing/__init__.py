"""Makes installed models of other houses' packages: today MONAI bundles (`radnode models import`).

A bundle is material, not a program: its weights are arrays, its configuration is read by a small reader of our own that
knows a list of networks and transforms and refuses the rest by name. Nothing of a bundle is ever executed.
"""
