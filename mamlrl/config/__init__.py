"""Every setting of a run, where settings come from, and how they are checked."""

from mamlrl.config.schema import (
    AdaptationConfig,
    CheckpointConfig,
    Config,
    EnvironmentConfig,
    EvalConfig,
    PolicyConfig,
    SamplingConfig,
    TrustRegionConfig,
    VideoConfig,
)

__all__ = [
    "AdaptationConfig",
    "CheckpointConfig",
    "Config",
    "EnvironmentConfig",
    "EvalConfig",
    "PolicyConfig",
    "SamplingConfig",
    "TrustRegionConfig",
    "VideoConfig",
]
