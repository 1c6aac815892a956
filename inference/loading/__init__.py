"""Files in, trustworthy pictures out: the only place of `inference` that knows DICOM data sets.

`read_image_header` and `load_image` read DICOM; `load_film` reads the JPEG or PNG films of training and
gives what the same film wrapped as DX gives. Whatever is wrong with a file becomes `Refused` with its reason; an
`OSError` means the disk, not the file. What is done with a picture is `inference.preprocess`.
"""

from inference.images import Image, ImageHeader, LoadLimits, Volume
from inference.loading.image import load_film, load_image, read_image_header

__all__ = [
    "Image",
    "ImageHeader",
    "LoadLimits",
    "Volume",
    "load_film",
    "load_image",
    "read_image_header",
]
