"""Bringing results to archives: `open_archive` gives the `Archive` of a destination.

Called by the coordinator and by `radnode check`. What an archive is stands in `delivery.archive`, when to try again in
`delivery.backoff`. The protocols' libraries are imported only when an archive of their kind is opened.
"""

from __future__ import annotations

from dicom_node.delivery.archive import Archive, DicomwebDestination, PacsDestination


def open_archive(destination: PacsDestination | DicomwebDestination) -> Archive:
    """Make the archive of a destination; nothing is connected until it is used.

    Raises
    ------
    ArchiveMisconfigured
        When a certificate named in the settings cannot be used.
    """
    if isinstance(destination, PacsDestination):
        from dicom_node.delivery.pacs import PacsArchive

        return PacsArchive(destination)
    from dicom_node.delivery.dicomweb import DicomwebArchive

    return DicomwebArchive(destination)
