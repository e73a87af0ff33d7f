"""IBuilderConfig."""

from __future__ import annotations

from typing import Any

from .native import Native, expect

_EXCLUSIVE = {
    "OBEY_PRECISION_CONSTRAINTS": "PREFER_PRECISION_CONSTRAINTS",
    "PREFER_PRECISION_CONSTRAINTS": "OBEY_PRECISION_CONSTRAINTS",
}


class BuilderConfig(Native):
    __slots__ = (
        "_builder",
        "_calibration_profile",
        "_flags",
        "_pools",
        "_profiles",
        "_tactics",
        "_timing",
        "_values",
    )

    @classmethod
    def _new(cls, builder: Any) -> Any:
        return cls._make(
            _builder=builder,
            _flags=1 << int(cls._trt.BuilderFlag.TF32),
            _pools={"WORKSPACE": 1 << 33},
            _profiles=[],
            _calibration_profile=None,
            _tactics=_tactics_by_default(cls._trt),
            _timing=None,
            _values={},
        )

    def set_flag(self, flag: Any) -> None:
        expect(flag, self._trt.BuilderFlag, "set_flag")
        against = _EXCLUSIVE.get(flag.name)
        if against is not None and self.get_flag(getattr(self._trt.BuilderFlag, against)):
            self._builder._tell(
                "ERROR", f"Error Code 3: API Usage Error (k{flag.name} cannot be set if k{against} is set.)"
            )
            return
        self._flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        self._flags &= ~(1 << int(expect(flag, self._trt.BuilderFlag, "clear_flag")))

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(expect(flag, self._trt.BuilderFlag, "get_flag")) & 1)

    @property
    def flags(self) -> int:
        return int(self._flags)

    @flags.setter
    def flags(self, flags: int) -> None:
        self._flags = expect(flags, int, "flags")

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        expect(pool, self._trt.MemoryPoolType, "set_memory_pool_limit")
        if expect(pool_size, int, "set_memory_pool_limit") < 0:
            raise TypeError(
                "set_memory_pool_limit(): incompatible function arguments; pool_size is no size_t"
            )
        self._pools[pool.name] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return int(self._pools.get(expect(pool, self._trt.MemoryPoolType, "get_memory_pool_limit").name, 0))

    def add_optimization_profile(self, profile: Any) -> int:
        """The index of the profile; -1, with an error in the log, for one that is not valid."""
        expect(profile, self._trt.IOptimizationProfile, "add_optimization_profile")
        if not profile:
            self._builder._tell("ERROR", "Error Code 3: API Usage Error (condition: profile->isValid())")
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        """False for a bit beyond those of the *builder flags*: the real one mistakes the enumeration."""
        if expect(tactic_sources, int, "set_tactic_sources") >> len(self._trt.BuilderFlag.__members__):
            self._builder._tell(
                "ERROR",
                "Error Code 3: API Usage Error (Parameter check failed, condition: tacticSources < 1U << "
                "EnumMax<BuilderFlag>())",
            )
            return False
        self._tactics = tactic_sources
        return True

    def get_tactic_sources(self) -> int:
        return int(self._tactics)

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        made = self._trt.ITimingCache._read(bytes(memoryview(serialized_timing_cache)))
        if made._version is None:
            self._builder._tell("ERROR", "Error Code 1: Serialization (Magic tag does not match)")
        return made

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        reason = expect(cache, self._trt.ITimingCache, "set_timing_cache")._misfit(ignore_mismatch)
        if reason:
            self._builder._tell("ERROR", f"4: {reason}")
            self._builder._tell("ERROR", "4: The timing cache will not be used!")
            return False
        self._timing = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._timing

    @property
    def DLA_core(self) -> int:  # noqa: N802  (the binding's own name)
        return int(self._values.get("DLA_core", -1))

    @DLA_core.setter
    def DLA_core(self, core: int) -> None:  # noqa: N802
        if core < self._trt._behaviour.dla_cores:
            self._values["DLA_core"] = core
        else:
            self._builder._tell("ERROR", f"Error Code 3: API Usage Error (no DLA core {core})")

    @property
    def default_device_type(self) -> Any:
        return self._values.get("default_device_type", self._trt.DeviceType.GPU)

    @default_device_type.setter
    def default_device_type(self, kind: Any) -> None:
        self._values["default_device_type"] = expect(kind, self._trt.DeviceType, "default_device_type")

    @property
    def profiling_verbosity(self) -> Any:
        return self._values.get("profiling_verbosity", self._trt.ProfilingVerbosity.LAYER_NAMES_ONLY)

    @profiling_verbosity.setter
    def profiling_verbosity(self, verbosity: Any) -> None:
        self._values["profiling_verbosity"] = expect(
            verbosity, self._trt.ProfilingVerbosity, "profiling_verbosity"
        )


class CalibratedConfig:
    """Mixed into BuilderConfig where quantization may be implicit."""

    __slots__ = ()

    @property
    def int8_calibrator(self: Any) -> Any:
        return self._values.get("int8_calibrator")

    @int8_calibrator.setter
    def int8_calibrator(self: Any, calibrator: Any) -> None:
        if calibrator is not None:
            expect(calibrator, self._trt.IInt8Calibrator, "int8_calibrator")
        self._values["int8_calibrator"] = calibrator

    def set_calibration_profile(self: Any, profile: Any) -> bool:
        if profile is not None and not expect(
            profile, self._trt.IOptimizationProfile, "set_calibration_profile"
        ):
            self._builder._tell(
                "ERROR", "Error Code 3: API Usage Error (condition: !profile || profile->isValid())"
            )
            return False
        self._calibration_profile = profile
        return True

    def get_calibration_profile(self: Any) -> Any:
        return self._calibration_profile


class LevelledConfig:
    """Mixed into BuilderConfig from TensorRT 8.6 on."""

    __slots__ = ()

    @property
    def builder_optimization_level(self: Any) -> int:
        return int(self._values.get("builder_optimization_level", 3))

    @builder_optimization_level.setter
    def builder_optimization_level(self: Any, level: int) -> None:
        self._values["builder_optimization_level"] = min(5, expect(level, int, "builder_optimization_level"))

    @property
    def hardware_compatibility_level(self: Any) -> Any:
        return self._values.get("hardware_compatibility_level", self._trt.HardwareCompatibilityLevel.NONE)

    @hardware_compatibility_level.setter
    def hardware_compatibility_level(self: Any, level: Any) -> None:
        kind = self._trt.HardwareCompatibilityLevel
        self._values["hardware_compatibility_level"] = expect(level, kind, "hardware_compatibility_level")


class MonitoredConfig:
    """Mixed into BuilderConfig from TensorRT 9 on."""

    __slots__ = ()

    @property
    def progress_monitor(self: Any) -> Any:
        return self._values.get("progress_monitor")

    @progress_monitor.setter
    def progress_monitor(self: Any, monitor: Any) -> None:
        if monitor is not None:
            expect(monitor, self._trt.IProgressMonitor, "progress_monitor")
        self._values["progress_monitor"] = monitor


def _tactics_by_default(trt: Any) -> int:
    """All of them; from TensorRT 10 on without the libraries of others."""
    foreign = ("CUBLAS", "CUBLAS_LT", "CUDNN") if trt._version >= (10,) else ()
    members = trt.TacticSource.__members__
    return sum(1 << int(source) for name, source in members.items() if name not in foreign)
