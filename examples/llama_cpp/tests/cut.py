#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Cuts a state that llama.cpp saved (slot version 4, session version 11) down to a few layers and cells, for fuzz seeds.

    cut.py SLOT OUT --layers 2 --cells 6     OUT gets a first byte that says "a state" to slot_fuzz
"""
import argparse
import struct


def cut(b, layers, cells):
    at, out = 0, bytearray()

    def take(form):
        nonlocal at
        x = struct.unpack_from("<" + form, b, at)
        at += struct.calcsize("<" + form)
        return x if len(x) > 1 else x[0]

    magic, version, n = take("III")
    tokens = b[at:at + 4 * n]
    at += 4 * n
    out += struct.pack("<III", magic, version, min(n, cells)) + tokens[:4 * min(n, cells)]
    if magic == 0x6767736e:
        n = take("I")
        out += struct.pack("<I", n) + b[at:at + n]
        at += n
    while at < len(b):
        streams = take("I")
        out += struct.pack("<I", streams)
        for _ in range(streams):
            n = take("I")
            m = min(n, cells)
            out += struct.pack("<I", m)
            if not n:
                continue
            for i in range(n):
                begin = at
                _, k = take("iI")
                at += 4 * k
                if i < m:
                    out += b[begin:at]
            trans, count, *turns = take("IIII")
            out += struct.pack("<IIII", trans, min(count, layers), *turns)
            for value in (False, True):
                for i in range(count):
                    head = at
                    if value and trans:
                        _, element, width = take("iII")
                        rows = [b[at + e * n * element:at + (e * n + m) * element] for e in range(width)]
                        size = element * width * n
                    else:
                        _, row = take("iQ")
                        rows, size = [b[at:at + row * m]], row * n
                    if i < layers:
                        out += b[head:at] + b"".join(rows)
                    at += size
    return bytes(out)


a = argparse.ArgumentParser()
a.add_argument("slot"), a.add_argument("out")
a.add_argument("--layers", type=int, default=2), a.add_argument("--cells", type=int, default=6)
a.add_argument("--plain", action="store_true", help="without the first byte")
a = a.parse_args()
small = cut(open(a.slot, "rb").read(), a.layers, a.cells)
open(a.out, "wb").write(small if a.plain else b"\0" + small)
