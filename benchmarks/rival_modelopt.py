"""What NVIDIA ModelOpt's entropy calibration takes, in an interpreter that has its ONNX Runtime.

    MODELOPT_PYTHON benchmarks/rival_modelopt.py MODEL SAMPLES.npy

Prints one JSON document. Seconds are those of its calibrator alone (collect_data and compute_data), in the
ONNX Runtime that it patches; `whole_seconds` is its `quantize` call, graph surgery included.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from process_memory import peak_mb  # this file is run as a script


def main() -> None:
    model, samples = sys.argv[1:]
    import modelopt
    from modelopt.onnx.quantization import ort_utils, quantize
    from onnxruntime.quantization.calibrate import HistogramCalibrater

    spent = [0.0]
    patch = ort_utils.patch_ort_modules

    def timed(method: Any) -> Any:
        def run(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                spent[0] += time.perf_counter() - started

        return run

    def patched(*arguments: Any, **options: Any) -> None:
        patch(*arguments, **options)
        HistogramCalibrater.collect_data = timed(HistogramCalibrater.collect_data)
        HistogramCalibrater.compute_data = timed(HistogramCalibrater.compute_data)

    ort_utils.patch_ort_modules = patched
    x = np.load(samples)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        quantize(
            model,
            calibration_data={"x": x},
            calibration_method="entropy",
            calibration_eps=["cpu"],
            calibration_shapes=f"x:1x{'x'.join(map(str, x.shape[1:]))}",
            op_types_to_quantize=["Conv", "MatMul"],
            high_precision_dtype="fp32",
            output_path=str(Path(folder) / "quantized.onnx"),
            log_level="ERROR",
        )
    document = {
        "modelopt": modelopt.__version__,
        "samples": len(x),
        "seconds": spent[0],
        "whole_seconds": time.perf_counter() - started,
        "peak_mb": peak_mb(),
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
