"""The errors of this package. Each message is one line: what was seen, what was expected, what to do."""


class CalibratorError(Exception):
    """Ranges cannot be found from what was given."""


class ShardError(CalibratorError):
    """A folder of shards, or one file in it, is not what the model needs."""


class TableError(CalibratorError):
    """A range table or a TensorRT calibration cache is missing, malformed or incomplete."""


class DeviceError(CalibratorError):
    """The machine lacks what feeding TensorRT takes: pycuda, a driver, a GPU, memory on it."""
