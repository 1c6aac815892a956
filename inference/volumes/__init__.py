"""The way of a CT volume through a three-dimensional model, from Hounsfield units to lesions in millimetres.

    grid      the volume resampled along its own axes to the card's spacing, windowed; and exactly back
    tiles     overlapping tiles that cover every voxel
    decode    what the network says of a tile: boxes or a map
    merge     one lesion out of what several tiles say of it
    segment   a lesion's voxels within its box, on the source's own grid
    measure   volume, axes, centre
    outline   the border of a mask on one slice as a polygon
    series    which of a study's series is looked at
    run       one study: from files to `Findings`; called by `inference.engine`

Loading files is `inference.loading`; writing results is `dicom_node.results`.
"""
