"""The page as PDF (WeasyPrint), with nothing in it that the page does not say: same page, same bytes.

Called by ``radnode eval report``. Dates in the file are the report's own; its identifier is the digest of the page.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

from PIL import ImageFile


def pdf_of(page: str) -> bytes:
    """Print a self-contained page; a reference to anything outside it ends the printing with an error.

    Raises
    ------
    ValueError
        If it does.
    ImportError, OSError
        If WeasyPrint or the system's Pango is not installed.
    """
    with _truncation_as_before():
        from weasyprint import HTML
        from weasyprint.urls import FatalURLFetchingError, URLFetcher

    fetcher = URLFetcher(allowed_protocols={"data"}, fail_on_errors=True)
    printed: Any = HTML(string=page, url_fetcher=fetcher)
    identifier = hashlib.sha256(page.encode()).hexdigest()[:32].encode()
    try:
        found: bytes = printed.write_pdf(pdf_identifier=identifier)
    except FatalURLFetchingError as error:  # WeasyPrint's own, outside the tree of Exception
        raise ValueError("the page refers to something outside itself") from error
    return found


@contextlib.contextmanager
def _truncation_as_before() -> Iterator[None]:
    """WeasyPrint tells Pillow, when it is imported, to fill up truncated pictures for the whole process.

    A film that was cut off must be refused afterwards as before.
    """
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
