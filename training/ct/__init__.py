"""Training of three-dimensional detectors on CT: the task ``detection-3d`` of `training.tasks`.

recipe     what decides the weights
cases      one scan and its lesions, whatever layout they came in
luna16, lidc, boxes_csv, decathlon   readers of layouts
grids      scans on the model's grid, kept on disk
nodules    nodules synthesised into real lung
patches    what the network is shown
network    the detector, out of MONAI's detection parts
loop       the training itself
score      marks on real lesions of patients that were left out
export     one ONNX file with its proof
train      the stages of ``radnode train``
"""
