"""Every setting of a run, where settings come from, and how they are checked."""

from mamlrl.config.schema import (
    AdamConfig,
    AdaptationConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    EnvironmentConfig,
    EvalConfig,
    PolicyConfig,
    SamplingConfig,
    SgdConfig,
    TrustRegionConfig,
    VideoConfig,
)

__all__ = [
    "AdamConfig",
    "AdaptationConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EnvironmentConfig",
    "EvalConfig",
    "PolicyConfig",
    "SamplingConfig",
    "SgdConfig",
    "TrustRegionConfig",
    "VideoConfig",
]
