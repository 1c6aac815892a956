"""Files in, trustworthy pictures out: the only place of `inference` that knows DICOM data sets.

`read_image_header`, `load_image`, `load_volume` read DICOM; `load_film` reads the JPEG or PNG films of training and
gives what the same film wrapped as DX gives. Whatever is wrong with a file becomes `Refused` with its reason; an
`OSError` means the disk, not the file. What is done with a picture is `inference.preprocess`.
"""

from inference.images import Image, ImageHeader, LoadLimits, Volume
from inference.loading.image import load_film, load_image, read_image_header
from inference.loading.volume import DroppedSlice, SliceHeader, load_volume, read_slice_header, select_slices

__all__ = [
    "DroppedSlice",
    "Image",
    "ImageHeader",
    "LoadLimits",
    "SliceHeader",
    "Volume",
    "load_film",
    "load_image",
    "load_volume",
    "read_image_header",
    "read_slice_header",
    "select_slices",
]
