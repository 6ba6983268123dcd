"""What a training step costs on a GPU: its operations are traced, not run, and nothing is measured.

`tracing` records a step's operations without computing them, `operations` knows the bytes and
floating-point operations of each, `devices` a GPU's published figures, `calibration` how much of
them kernels reach, and `prediction` puts these together.
"""

from gmixout.cost_model.calibration import CALIBRATED_ON_H100, Calibration
from gmixout.cost_model.devices import DEVICES, DeviceSpec, get_device
from gmixout.cost_model.operations import Operation, WorkKind
from gmixout.cost_model.prediction import Part, Prediction, part_of, predict_step
from gmixout.cost_model.tracing import Trace, bytes_of, gpu_autocast, imagined, trace_steps

__all__ = [
    "CALIBRATED_ON_H100",
    "DEVICES",
    "Calibration",
    "DeviceSpec",
    "Operation",
    "Part",
    "Prediction",
    "Trace",
    "WorkKind",
    "bytes_of",
    "get_device",
    "gpu_autocast",
    "imagined",
    "part_of",
    "predict_step",
    "trace_steps",
]
