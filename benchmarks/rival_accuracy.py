"""NVIDIA ModelOpt's INT8 of a model, in an interpreter that has it: a side of benchmarks.accuracy.

MODELOPT_PYTHON benchmarks/rival_accuracy.py MODEL SAMPLES.npy max|entropy OUTPUT.onnx
"""

from __future__ import annotations

import sys

import numpy as np


def main() -> None:
    model, samples, method, output = sys.argv[1:]
    from modelopt.onnx.quantization import quantize

    x = np.load(samples)
    quantize(
        model,
        calibration_data={"x": x},
        calibration_method=method,
        calibration_eps=["cpu"],
        calibration_shapes=f"x:1x{'x'.join(map(str, x.shape[1:]))}",
        op_types_to_quantize=["Conv", "MatMul"],
        high_precision_dtype="fp32",
        output_path=output,
        log_level="ERROR",
    )


if __name__ == "__main__":
    main()
