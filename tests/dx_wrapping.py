"""Films of a training set wrapped as Digital X-Ray Image Storage - For Presentation, as a DX machine would send them.

Used by any test that needs a chest film as DICOM. The wrapping is a valid DX object in itself (dciodvfy finds no
error); the patient is made up.
"""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian


def _uid(*parts: str) -> str:
    return f"2.25.{int.from_bytes(hashlib.sha256('|'.join(parts).encode()).digest()[:16], 'big')}"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def wrap_film_as_dx(
    film: Path,
    *,
    patient_name: str = "Иванов^Иван^Иванович",
    patient_id: str = "",
    character_set: str = "ISO_IR 192",
    study_uid: str = "",
    view: str = "PA",
    age: str = "052Y",
    sex: str = "M",
    inverted: bool = False,
    spacing_mm: float = 0.5,
) -> FileDataset:
    """A film (JPEG or PNG, 8 bits) as a DX object for presentation.

    Parameters
    ----------
    inverted : bool
        Store the film as MONOCHROME1, so that it displays as before.
    character_set : str
        Specific Character Set (0008,0005), in which pydicom encodes the name.

    Returns
    -------
    pydicom.FileDataset
        With file meta information; `dx_bytes` makes a part-10 file of it. UIDs derive from the file's name and the
        arguments, so that a repeated call gives the same object.
    """
    with Image.open(film) as picture:
        pixels = np.asarray(picture.convert("L"))
    key = (film.name, patient_name, patient_id, character_set, view, age, str(inverted), str(spacing_mm))
    study = study_uid or _uid("study", *key)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = _uid("instance", study, *key)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _uid("tests")
    dx = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dx.SpecificCharacterSet = character_set
    dx.SOPClassUID, dx.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dx.StudyInstanceUID, dx.SeriesInstanceUID = study, _uid("series", study, *key)
    dx.PatientName, dx.PatientID = patient_name, patient_id or f"TEST-{film.stem}"
    dx.PatientBirthDate, dx.PatientSex, dx.PatientAge = "19730611", sex, age
    _add_study(dx)
    _add_acquisition(dx, view, spacing_mm)
    _add_pixels(dx, pixels, inverted=inverted)
    return dx


def _add_study(dx: FileDataset) -> None:
    dx.StudyDate = dx.SeriesDate = dx.AcquisitionDate = dx.ContentDate = "20260302"
    dx.StudyTime = dx.SeriesTime = dx.AcquisitionTime = dx.ContentTime = "114500"
    dx.AccessionNumber, dx.StudyID, dx.ReferringPhysicianName = "A26030201", "1", ""
    dx.Modality, dx.PresentationIntentType = "DX", "FOR PRESENTATION"
    dx.SeriesNumber = dx.InstanceNumber = 1
    dx.Manufacturer = "radnode tests"
    dx.StudyDescription, dx.SeriesDescription = "Chest", "Chest film wrapped as DX"
    dx.ImageType = ["ORIGINAL", "PRIMARY"]
    dx.AcquisitionContextSequence = []


def _add_acquisition(dx: FileDataset, view: str, spacing_mm: float) -> None:
    views = {
        "PA": _code("399348003", "SCT", "postero-anterior"),
        "AP": _code("399198007", "SCT", "antero-posterior"),
        "LL": _code("399173006", "SCT", "left lateral"),
    }
    dx.BodyPartExamined, dx.ViewPosition = "CHEST", view if view in {"PA", "AP", "LL"} else ""
    dx.AnatomicRegionSequence = [_code("43799004", "SCT", "Chest")]
    dx.ImageLaterality = "U"
    dx.PatientOrientation = ["A", "F"] if view == "LL" else ["L", "F"]
    dx.ImagerPixelSpacing = [spacing_mm, spacing_mm]
    dx.DetectorType = "SCINTILLATOR"
    dx.PositionerType = "NONE"
    item = views.get(view)
    if item is not None:
        item.ViewModifierCodeSequence = []
        dx.ViewCodeSequence = [item]


def _add_pixels(dx: FileDataset, pixels: np.ndarray, *, inverted: bool) -> None:
    dx.SamplesPerPixel = 1
    dx.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dx.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dx.Rows, dx.Columns = pixels.shape
    dx.BitsAllocated = dx.BitsStored = 8
    dx.HighBit, dx.PixelRepresentation = 7, 0
    dx.PixelIntensityRelationship, dx.PixelIntensityRelationshipSign = "LOG", -1 if not inverted else 1
    dx.RescaleIntercept, dx.RescaleSlope, dx.RescaleType = 0, 1, "US"
    dx.WindowCenter, dx.WindowWidth = 128, 256
    dx.BurnedInAnnotation = "NO"
    dx.LossyImageCompression = "01"
    dx.LossyImageCompressionRatio, dx.LossyImageCompressionMethod = 10, "ISO_10918_1"
    data = (255 - pixels if inverted else pixels).tobytes()
    dx.PixelData = data + b"\0" * (len(data) % 2)


def dx_bytes(dx: FileDataset) -> bytes:
    """The part-10 file of a wrapped film."""
    buffer = BytesIO()
    dcmwrite(buffer, dx, enforce_file_format=True)
    return buffer.getvalue()


def write_dx(film: Path, folder: Path, **details: str | bool | float) -> Path:
    """Wrap a film and write it into `folder`; the arguments are those of `wrap_film_as_dx`."""
    dx = wrap_film_as_dx(film, **details)  # type: ignore[arg-type]
    path = folder / f"{film.stem}-{str(dx.SOPInstanceUID)[-8:]}.dcm"
    path.write_bytes(dx_bytes(dx))
    return path
