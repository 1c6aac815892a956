"""The evaluation report of a run: a JSON twin with every number, and pages and papers printed from it alone.

`inputs` reads the run folder, `build` fills the twin (`twin`), `checks` refuses what may not be printed, `pages` and
`pdf` print. Used by ``radnode eval report``; the statistics themselves are the modules above this package.
"""
