# SPDX-License-Identifier: Apache-2.0
"""Compresses KV caches of large language models, and puts them back.

codec = sluice.load("my.profile")           # or sluice.uncalibrated(config)
frame = codec.encode(k, v)                  # arrays of any strides: one [layers, tokens, heads, dim], or a list of layers
codec.decode(frame, k, v, level=1)          # into your own arrays

sluice.transformers, .lmcache, .vllm and .sglang are what these engines load.
"""

from ._core import (
    Codec,
    FrameLayer,
    Info,
    LayerShape,
    Rope,
    Shape,
    __version__,
    calibrate,
    codecs,
    info,
    load,
    truncate,
    verify,
)
from ._error import Error
from ._shape import shape_of, uncalibrated

__all__ = [
    "Codec",
    "Error",
    "FrameLayer",
    "Info",
    "LayerShape",
    "Rope",
    "Shape",
    "calibrate",
    "codecs",
    "info",
    "load",
    "shape_of",
    "truncate",
    "uncalibrated",
    "verify",
]
