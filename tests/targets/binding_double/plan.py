"""The plan of the double: the engine's description as JSON, behind what a real plan is checked for."""

from __future__ import annotations

import json
from typing import Any

from .fusion import Region, regions
from .precision import Step

MAGIC = b"ftrt"


def write(trt: Any, network: Any, config: Any, steps: list[Step]) -> bytes:
    found = regions(steps, network, config)
    return (
        MAGIC
        + json.dumps(
            {
                "version": trt.__version__,
                "gpu": trt._behaviour.gpu,
                "compute": trt._behaviour.compute,
                "verbosity": config.profiling_verbosity.name,
                "layers": _with_reformats(found, network),
                "tensors": [
                    _io(tensor, "INPUT", config) for tensor in _all(network.get_input, network.num_inputs)
                ]
                + [_io(tensor, "OUTPUT", config) for tensor in _all(network.get_output, network.num_outputs)],
            }
        ).encode()
    )


def _all(get: Any, count: int) -> list[Any]:
    return [get(index) for index in range(count)]


def _io(tensor: Any, mode: str, config: Any) -> dict[str, Any]:
    shapes = config._profiles[0].get_shape(tensor.name) if config._profiles and mode == "INPUT" else []
    return {
        "name": tensor.name,
        "mode": mode,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype.name,
        "profile": [list(shape) for shape in shapes],
    }


def _with_reformats(found: list[Region], network: Any) -> list[dict[str, Any]]:
    """Each region as a layer, behind a reformat for each input that was made in another type."""
    types = {tensor.name: tensor.dtype.name for tensor in _all(network.get_input, network.num_inputs)}
    outputs = {tensor.name: tensor.dtype.name for tensor in _all(network.get_output, network.num_outputs)}
    typed = network._strongly_typed()
    layers = []
    for region in found:
        inputs = []
        for index, tensor in enumerate(region.inputs):
            entry = _tensor(tensor, types.get(tensor.name, region.precision))
            if not typed and entry["type"] not in (region.precision, "INT8" if region.origin else None):
                made = _tensor(tensor, region.precision, f"Reformatted Input Tensor {index} to {region.name}")
                name = f"Reformatting CopyNode for Input Tensor {index} to {region.name}"
                layers.append(_reformat(name, entry, made))
                entry = made
            inputs.append(entry)
        given = [_tensor(tensor, kind) for tensor, kind in region.outputs]
        types.update({tensor.name: kind for tensor, kind in region.outputs})
        layers.append(
            {
                "name": region.name,
                "kind": region.kind,
                "parameter": region.parameter,
                "origin": region.origin,
                "inputs": inputs,
                "outputs": given,
                "weights": region.weights and [region.precision, region.weights],
                "notes": [step.note for step in region.steps if step.note],
            }
        )
        for index, entry in enumerate(given):
            if outputs.get(entry["name"], entry["type"]) != entry["type"]:
                asked = {**entry, "type": outputs[entry["name"]]}
                entry["name"] = f"Reformatted Output Tensor {index} to {region.name}"
                name = f"Reformatting CopyNode for Output Tensor {index} to {region.name}"
                layers.append(_reformat(name, entry, asked))
    return layers


def _tensor(tensor: Any, kind: str, name: str = "") -> dict[str, Any]:
    return {"name": name or tensor.name, "shape": list(tensor.shape), "type": kind}


def _reformat(name: str, read: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "Reformat",
        "parameter": "Reformat",
        "origin": "REFORMAT",
        "inputs": [dict(read)],
        "outputs": [dict(made)],
        "weights": None,
        "notes": [],
    }
