#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes quants_golden.inl: one random block of every quantised type and what gguf-py makes of it. Needs: numpy gguf."""
import pathlib

import numpy as np
from gguf import GGMLQuantizationType as T, dequantize

halves = {'Q4_0': [0], 'Q4_1': [0, 2], 'Q5_0': [0], 'Q5_1': [0, 2], 'Q8_0': [0], 'Q4_K': [0, 2], 'Q5_K': [0, 2], 'Q6_K': [208]}
sizes = {'Q4_0': 18, 'Q4_1': 20, 'Q5_0': 22, 'Q5_1': 24, 'Q8_0': 34, 'Q4_K': 144, 'Q5_K': 176, 'Q6_K': 210}
random = np.random.default_rng(4)
out = '// Made by make_quants_golden.py: type, bytes of a block, its elements.\n// clang-format off\n'
for name, size in sizes.items():
    block = random.integers(0, 256, size, dtype=np.uint8)
    for at in halves[name]:  # scales of a reasonable size
        block[at:at + 2] = np.frombuffer(np.float16(random.uniform(-0.05, 0.05)).tobytes(), np.uint8)
    values = dequantize(block[None], T[name]).ravel()
    lines = [', '.join(f'{x:.9g}{"" if "." in f"{x:.9g}" or "e" in f"{x:.9g}" else ".0"}f' for x in values[i:i + 8]) for i in range(0, len(values), 8)]
    out += f'{{tensor_type::{name.lower()},\n "' + block.tobytes().hex() + '",\n {' + ',\n  '.join(lines) + '}},\n'
pathlib.Path(__file__).with_name('quants_golden.inl').write_text(out)
