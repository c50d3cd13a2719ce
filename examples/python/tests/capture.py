# SPDX-License-Identifier: Apache-2.0
"""Captures of real caches (safetensors) as NumPy arrays, without any package but NumPy."""
import json
import os
import struct

import numpy as np

DATA = os.environ["SLUICE_TEST_DATA"]
PROFILE = os.path.join(DATA, "smollm2.profile")
SAMPLE = os.path.join(DATA, "smollm2_sample.safetensors")
# A profile that predicts, of two layers; a frame of `smallest`, and the ids of its 40 tokens, as golden_test.cpp has them.
PREDICTED = os.path.join(DATA, "..", "golden", "predicted.profile")
SMALLEST = os.path.join(DATA, "..", "golden", "smallest.slc")
IDS = [(7 * i + 3) % 14 for i in range(40)]


def tensors(path):
    with open(path, "rb") as f:
        (size,) = struct.unpack("<Q", f.read(8))
        head = json.loads(f.read(size))
        body = f.read()
    types = {"F16": "<f2", "F32": "<f4", "I32": "<i4"}
    out = {}
    for name, t in head.items():
        if name != "__metadata__" and t["dtype"] in types:
            begin, end = t["data_offsets"]
            out[name] = np.frombuffer(body[begin:end], types[t["dtype"]]).reshape(t["shape"])
    return out


def cache(path=SAMPLE):
    """K and V, [layers, tokens, heads, dim], f16."""
    t = tensors(path)
    layers = sum(name.startswith("k.") for name in t)
    return tuple(np.stack([t[f"{which}.{l}"] for l in range(layers)]) for which in "kv")


def queries(path=SAMPLE):
    t = tensors(path)
    return [t[f"q.{l}"] for l in range(sum(name.startswith("q.") for name in t))]


def error(a, b):
    """Squared error of a, in units of the energy of b."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.square(a - b).sum() / np.square(b).sum())
