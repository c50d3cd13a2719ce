#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the built kernels may do on an H100 or H200, projected from their instructions; nothing here ran on a GPU.

usage: project.py [-o FILE] [--also PROFILE CAPTURE]... [--cubin FILE] [--statistics PROGRAM]

The kernels are compiled for sm_90 (nvcc) unless --cubin has them, and read by sass.py. A kernel's slots are those on the
shortest way through its loops, by way of the instructions that a real decode passes; how often each loop runs comes from
real data: the capture and the profile in test/data, and --also others, coded by project_statistics.cpp (c++, built here).

Every warp instruction is an issue slot; an SM has four schedulers, each issues one a cycle. That is 28.7e12 lanes a second,
of which kernels of this kind reach 50 to 65 %. Beside it stand the other roofs, each at all that the machine has. A kernel
takes as long as its lowest roof lets it, and kernels run one after the other. Left out: launches, waiting for memory, the
last wave of blocks, tokens that are kept exact.

Exits 77 without nvcc, cuobjdump (wheel nvidia-cuda-cuobjdump) or nvdisasm (wheel nvidia-cuda-nvdisasm)."""

import argparse
import heapq
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import sass

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLOCK, SMS = 1.7e9, 132
SCHEDULERS = 4 * SMS * CLOCK  # warp instructions a second; times 32 lanes = 28.7e12
# Cycles of a scheduler that a warp instruction takes up in its unit (CUDA programming guide, throughput of instructions for
# compute capability 9.0: 64 integer, 16 count or convert, a lane and cycle of an SM). Tensor cores at the rate of an A100,
# which mma.sync does not go far beyond.
CYCLES = {"alu": 2, "xu": 8, "tc": 8}
L2, DRAM = 5.5e12, 3.35e12  # bytes a second of an H100; an H200 has 4.8e12 of DRAM
WIDTHS = (64, 128, 192, 256)
TARGETS = {"level 0": 800, "level 1": 500, "lossless": 600, "encode, level 1": 150, "encode, all levels": 150}

PROBE = """#include <sluice/codec/presets.hpp>
#include <sluice/cuda/encode.cuh>
#include <sluice/cuda/presets.cuh>
using namespace sluice;
#define DECODE(C) template status cuda::decode_async<C>(const cuda::device_model<C>&, std::span<const cuda::request>, \\
  std::byte*, std::size_t, cudaStream_t);
DECODE(codec::standard) DECODE(codec::exact)
template status cuda::encode_async<codec::standard>(const cuda::device_encoder<codec::standard>&,
  std::span<const cuda::encode_request>, std::byte*, std::size_t, cudaStream_t, const cuda::encode_overflow&);
"""


class Cost:
    """Warp instructions by unit, wavefronts of shared memory, bytes of L2 and DRAM."""

    def __init__(self, units=None, wavefronts=0.0, l2=0.0, dram=0.0):
        self.units, self.wavefronts, self.l2, self.dram = units or {}, wavefronts, l2, dram

    def slots(self):
        return sum(self.units.values())

    def __add__(self, other):
        units = {u: self.units.get(u, 0) + other.units.get(u, 0) for u in self.units | other.units}
        return Cost(units, self.wavefronts + other.wavefronts, self.l2 + other.l2, self.dram + other.dram)

    def __mul__(self, n):
        return Cost({u: n * x for u, x in self.units.items()}, n * self.wavefronts, n * self.l2, n * self.dram)

    def __sub__(self, other):
        return self + other * -1

    def seconds(self, issue):
        """By roof, of all of a device."""
        roofs = {"issue": self.slots() / (issue * SCHEDULERS), "shared memory": self.wavefronts / (SMS * CLOCK),
                 "L2": self.l2 / L2, "DRAM": self.dram / DRAM}
        for unit, name in (("alu", "integer units"), ("xu", "counts and conversions"), ("tc", "tensor cores")):
            roofs[name] = self.units.get(unit, 0) * CYCLES[unit] / SCHEDULERS
        return roofs


def throw(lanes, banks):
    """Expected most of `lanes` in one of `banks`, at random: what a warp's look-ups of different words wait for."""
    total, runs, x = 0, 4000, 12345
    for _ in range(runs):
        hit = [0] * banks
        for _ in range(lanes):
            x = (1103515245 * x + 12345) % (1 << 31)
            hit[(x >> 12) % banks] += 1
        total += max(hit)
    return total / runs


LOOK_UP = throw(32, 32)


def wavefronts(operation, word):
    """Of shared memory; `word`: of a load of 4 bytes, for some are look-ups in tables, at random banks. Pairs of words are
    two halves of a warp, whose rows of tables lie in other banks; bytes are neighbours."""
    if re.match(r"LDS\.(U8|S16|U16|S8)|STS\.(U8|U16)", operation):
        return 1
    if re.match(r"LDSM|LDS\.128|STS\.128|LDGSTS", operation):
        return 4
    if re.match(r"LDS\.64|STS\.64", operation):
        return 2
    if re.match(r"LDS(?!M)", operation):
        return word
    return 1 if re.match(r"STS|ATOMS", operation) else 0


class Walk:
    """Ways through a kernel."""

    def __init__(self, kernels, name, word=1):
        self.word = word
        self.kernel = next(k for k in kernels if re.search(name, k.name))
        self.loops = self.kernel.loops()

    def cost(self, way):
        cost = Cost(self.kernel.count(way))
        cost.wavefronts = sum(wavefronts(self.kernel.operation(i), self.word) for i in way if "[RZ]" not in self.kernel.operation(i))
        return cost

    def loop(self, innermost=None, pick=0, **has):
        """The loops in which these opcodes (dots written as _) occur so often, the shortest first."""
        found = [l for l in self.loops
                 if all(self.kernel.occurs(l[2], opcode.replace("_", ".")) == n for opcode, n in has.items())
                 and (innermost is None or l[3] == innermost)]
        if not found:
            raise SystemExit(f"project: {self.kernel.name}: no loop has {has}")
        return sorted(found, key=lambda l: len(l[2]))[pick]

    def around(self, *inside):
        """The smallest loop around instructions and loops."""
        fits = lambda l: all(any(re.search(x, self.kernel.code[i][1]) for i in range(l[0], l[1] + 1)) if isinstance(x, str)
                             else (l[0] <= x[0] and x[1] <= l[1] and (l[0], l[1]) != (x[0], x[1])) for x in inside)
        return min((l for l in self.loops if fits(l)), key=lambda l: l[1] - l[0])

    def tour(self, start, *points, avoid=()):
        """The shortest way from an instruction through others in this order: numbers, or what they look like."""
        points = [p if isinstance(p, int) else re.compile(p) for p in points]
        fits = lambda k, i: i == points[k] if isinstance(points[k], int) else points[k].search(self.kernel.code[i][1])
        shortest, back, queue = {(start, 0): 0}, {}, [(0, start, 0)]
        while queue:
            n, i, k = heapq.heappop(queue)
            if k == len(points):
                way, at = [], (i, k)
                while at != (start, 0):
                    way.append(at[0])
                    at = back[at]
                return self.cost([start] + way[::-1])
            for to in self.kernel.after(i):
                if any(a <= to <= b for a, b, *_ in avoid):
                    continue
                at = (to, k + 1 if fits(k, to) else k)
                if n + 1 < shortest.get(at, 1 << 30):
                    shortest[at], back[at] = n + 1, (i, k)
                    heapq.heappush(queue, (n + 1, *at))
        raise SystemExit(f"project: {self.kernel.name}: no way through {[getattr(p, 'pattern', p) for p in points]}")

    def body(self, loop):
        return self.cost(loop[2])


def between(costs, n):
    """costs[i] is of i + 1 blocks; of any number of them, in parts of up to 8."""
    if n <= 0:
        return Cost()
    if n > len(costs):
        return costs[-1] + between(costs, n - len(costs))
    low = max(1, math.floor(n))
    high = min(len(costs), low + 1)
    return costs[low - 1] * (1 - (n - low)) + costs[high - 1] * (n - low) if n >= 1 else costs[0] * n


class Entropy:
    def __init__(self, kernels):
        w = Walk(kernels, "class_rans_kernel", LOOK_UP)
        span = range(1, 9)
        self.base = [w.body(w.loop(True, IDP_2A=b, LDG=0, STG=b)) for b in span]
        self.few = [w.body(w.loop(False, IDP_2A=b, LDG=0, STG=b)) for b in span]
        self.refine = [w.body(w.loop(True, IDP_2A=b, LDG=b, STG=b)) for b in span]
        self.digit = w.body(w.loop(True, IDP_2A=1, STG=0, LDG=0, LDS_64=2))
        single = [l for l in w.loops if w.kernel.occurs(l[2], "IDP.2A") == 1 and w.kernel.occurs(l[2], "STG") == 1
                  and w.kernel.occurs(l[2], "LDG") == 1 and len(l[2]) > 60]
        self.single = w.body(max(single, key=lambda l: len(l[2])))
        six = w.loop(True, IDP_2A=6, LDG=6, STG=6)
        self.refill = w.tour(six[0], r"LDGSTS", six[1]) - w.body(six)
        every_pass = max(w.loops, key=lambda l: l[1] - l[0])
        self.open_pass = w.tour(every_pass[0], six[0], six[1], every_pass[1]) - w.body(six)
        classes = min((l for l in w.loops if any("LDGSTS" in w.kernel.code[i][1] for i in range(l[0], l[1] + 1))
                       and any("POPC" in w.kernel.code[i][1] for i in range(l[0], l[1] + 1))), key=lambda l: l[0])
        self.open_tile = w.tour(0, classes[1], every_pass[0]) + w.body(classes) * 15

    def decode(self, tile, width, level):
        """A tile of so many columns, whose blocks of each pass are the share of the tile that was measured."""
        wider, rows = width / tile["width"], tile["rows"]
        cost = Cost()
        for p, q in enumerate(tile["passes"][:level + 1]):
            blocks, fresh = q["blocks"] * wider, min(1, q["blocks"])
            if p == 0:
                digits = sum(tile["digits"]) * wider
                cost += between(self.few if digits else self.base, blocks) * rows + self.digit * (digits * rows)
            else:
                cost += between(self.refine, blocks) * rows
            parts = math.ceil(blocks / 8)
            cost += self.single * (q["tail"] * parts) + self.open_pass * parts
            size = q["bytes"] * wider
            cost += self.refill * (size / 256)
            touched = 64 * rows * blocks
            cost += Cost(l2=size + touched * (1 if p == 0 else 2), dram=size + touched * (1 if p == 0 else 2))
        return cost + self.open_tile * math.ceil(width / 256)


class Store:
    def __init__(self, kernels):
        w = Walk(kernels, "store_products")
        self.eight = w.loop(True, HMMA=64, LDSM=40)
        self.stage = w.around(r"LDGSTS", self.eight)
        chunk = w.around(self.stage, r"F2FP.SATFINITE.BF16")
        rows = w.around(chunk)
        slab = w.loop(True, STS_128=2)
        self.slab = w.body(slab)
        start, end = self.stage[0], self.stage[1]
        full = r"LDGSTS.*\+0x3600\]"
        self.full_stage = w.tour(start, full, self.eight[1], end)
        self.load = w.tour(start, full, slab[1], self.eight[1], end) - self.full_stage - self.slab
        copies = w.loop(True, LDGSTS=1, pick=0)
        self.copies = w.body(copies)
        steps = [r"LDSM.16.M88.4"] * 7
        self.part_stage = [w.tour(start, r"LDGSTS", *steps[:n], end, avoid=[self.eight]) for n in range(1, 8)]
        four, eight = [r"LDG.E.128"] * 4, [r"LDG.E.128"] * 8
        out = [r"F2FP.SATFINITE.BF16"] * 8 + [r"STG.E.128"] * 2
        head = w.tour(chunk[0], start)
        self.epilogue = {"k": head + w.tour(end, four[0], *eight, *out, *eight, *out, chunk[1]),
                         "v": head + w.tour(end, four[0], *four, *out, *four, *out, chunk[1])}
        self.find = w.tour(rows[0], r"MUFU.RCP", r"LD.E R\d+, desc", r"STS.64", r"STS.64", r"STS.U8", chunk[0])

    def store(self, plane, width, live, rows):
        """`live` coefficients of a row are not all zero; rows of a strand."""
        live = min(max(16, math.ceil(live / 16) * 16), width)
        chunks, cost = math.ceil(width / 64), self.find
        for part in range(math.ceil(live / 128)):
            n = min(128, live - 128 * part)
            stage = self.full_stage if n == 128 else self.part_stage[n // 16 - 1] + self.copies * (math.ceil(n / 32) - 1)
            cost += stage * chunks
        cost += self.load + self.slab * (live / 32) + self.epilogue[plane] * chunks
        cost *= rows / 16  # a warp each
        basis = 2 * live * 64 * chunks * math.ceil(rows / 128)
        return cost + Cost(l2=basis + 2 * live * rows + 2 * width * rows, dram=2 * live * rows + 2 * width * rows)


class Lossless:
    def __init__(self, kernels):
        w = Walk(kernels, "split_exponent_kernel")
        row = w.loop(False, IDP_2A=4, ST_E_U16=4)
        self.row = {4: w.body(row)}
        for blocks in (6, 8):
            self.row[blocks] = w.tour(row[0], *[r"IDP.2A"] * blocks, row[1])
        for blocks, cost in self.row.items():  # fields of neighbours are neighbours; only tables are looked up at random
            cost.wavefronts = blocks * (LOOK_UP + 3) + 8
        escapes = [l for l in w.loops if l[3] and row[0] <= l[0] and l[1] <= row[1] and w.kernel.occurs(l[2], "POPC")]
        self.escape = w.body(escapes[0]) if escapes else Cost()
        s = Walk(kernels, "store_element_rows")
        copy = s.loop(True, LDG_E_128=1, ST_E_128=1)
        rows = max((l for l in s.loops if l[0] <= copy[0] and copy[1] <= l[1]), key=lambda l: l[1] - l[0])
        each = s.around(copy, r"SHFL")  # places of 32 rows are found at once
        self.each = s.tour(each[0], r"SHFL", copy[1], each[1])
        self.find = s.tour(rows[0], r"MUFU.RCP", each[0], each[1], rows[1])

    def decode(self, strip):
        rows, columns = strip["rows"], strip["columns"]
        blocks = next(b for b in (4, 6, 8) if 32 * b >= columns)
        hit = 1 - math.exp(-strip["escapes"] / rows)  # rows with one, where they fall anywhere
        cost = self.row[blocks] * rows + self.escape * (hit * rows * blocks)
        cost += self.each * rows + self.find * (rows / 32)
        size = 2 * rows * columns
        return cost + Cost(l2=strip["bytes"] + 3 * size, dram=strip["bytes"] + 3 * size)


class Encode:
    def __init__(self, kernels):
        w = Walk(kernels, r"(?<!measured_)forward_kernel")
        panel = w.loop(True, HMMA=24)
        outer = w.around(panel)
        self.panel = w.body(panel)
        self.round = w.tour(outer[0], panel[1], *[r"STG.E.128"] * 4, outer[1]) - self.panel
        # F2F to two halves of 8 channels, the rotation off: 2 channels a step
        self.split = w.body(w.loop(True, F2F=8, pick=-1))
        gathers = [l for l in w.loops if l[3] and w.kernel.occurs(l[2], "LDS") == 2 and w.kernel.occurs(l[2], "STS") == 2
                   and w.kernel.occurs(l[2], "LDG") == 2]
        self.gather = w.body(min(gathers, key=lambda l: len(l[2]))) if gathers else Cost()
        c = Walk(kernels, "choose_classes_kernel")
        self.energy = c.body(c.loop(True, LDG=16, I2F=16)) * (1 / 16)
        counts = c.loop(False, LDG_E_S16=1, LDS_U16=1, STS_U16=1)
        digits = next(l for l in c.loops if l[3] and counts[0] <= l[0] and l[1] <= counts[1])
        self.count, self.count_pass = c.body(counts), c.body(digits)
        e = Walk(kernels, "encode_codes_kernel")
        steps = [l for l in e.loops if l[3] and e.kernel.occurs(l[2], "STS.U8") == 4 and e.kernel.occurs(l[2], "POPC") == 8]
        steps.sort(key=lambda l: len(l[2]))
        self.base, self.refine = e.body(steps[0]) * 0.25, e.body(steps[-1]) * 0.25
        self.digit = e.body(e.loop(True, pick=0, STS_U8=2, POPC=4)) * 0.5
        row = e.around(steps[-1])
        self.row = e.body(row)

    def encode(self, tile, width, level):
        wider, rows, values = width / tile["width"], tile["rows"], width * tile["rows"]
        panels = rows / 32 * width / 32
        cost = (self.panel * (width / 16) + self.round) * panels + self.split * (values / 32 / 8)
        cost += self.gather * (values / 32 / 4) + self.energy * (values / 32)
        if tile["deltas"]:  # a third of the blocks of such a tile is counted to choose other classes
            cost += (self.count + self.count_pass * (len(tile["passes"]) - 1)) * (values / 32 / 3)
        cost += Cost(l2=2 * values * 3, dram=2 * values * 2)
        for p, q in enumerate(tile["passes"][:level + 1]):
            blocks = q["blocks"] * wider
            cost += (self.base if p == 0 else self.refine) * (blocks * rows) + self.row * (rows * math.ceil(blocks / 8))
            if p == 0:
                cost += self.digit * (sum(tile["digits"]) * wider * rows)
            cost += Cost(l2=64 * blocks * rows + 3 * q["bytes"] * wider, dram=64 * blocks * rows + 3 * q["bytes"] * wider)
        return cost


def checksum(kernels, size):
    """Of so many bytes of frames, on their way in: four of a lane and stripe, which lie across two words."""
    w = Walk(kernels, "open_strands.*basic_codec")
    return w.body(w.loop(True, LD=8)) * (size / (4 * 4 * 32)) + Cost(l2=size, dram=size)


def judged(parts, values):
    """Gigabytes of bf16 a second, of kernels that run one after the other, and which roofs are the lowest."""
    out = {"slots_per_value": {name: round(32 * c.slots() / values, 1) for name, c in parts.items()}}
    out["slots_per_value"]["all"] = round(32 * sum(c.slots() for c in parts.values()) / values, 1)
    for issue in (0.5, 0.65, 1.0):
        roofs = {name: c.seconds(issue) for name, c in parts.items()}
        out[f"gb_per_s_at_{round(100 * issue)}"] = round(2 * values / sum(max(r.values()) for r in roofs.values()) / 1e9)
        out[f"bound_at_{round(100 * issue)}"] = {name: max(r, key=r.get) for name, r in roofs.items()}
    total = {}
    for c in parts.values():
        for roof, t in c.seconds(1).items():
            total[roof] = total.get(roof, 0) + t
    out["roofs_gb_per_s"] = {roof: round(2 * values / t / 1e9) for roof, t in total.items() if t > 0}
    return out


def project(kernels, data, widths):
    entropy, store, lossless, encode = Entropy(kernels), Store(kernels), Lossless(kernels), Encode(kernels)
    tiles, rows = data["tiles"], []
    for width in widths:
        values = sum(width * t["rows"] for t in tiles)
        add = lambda what, parts, n: rows.append({"what": what, "width": width, **judged(parts, n)})
        for level in range(len(tiles[0]["passes"])):
            code = sum((entropy.decode(t, width, level) for t in tiles), Cost())
            size = sum(q["bytes"] for t in tiles for q in t["passes"][:level + 1]) * width / tiles[0]["width"]
            put = sum((store.store(t["plane"], width, 32 * t["passes"][level]["blocks"] * width / t["width"], t["rows"])
                       for t in tiles), Cost())
            add(f"level {level}", {"open": checksum(kernels, size), "entropy": code, "store": put}, values)
        strips = [s for s in data["strips"] if s["columns"] == width]
        add("lossless", {"open": checksum(kernels, sum(s["bytes"] for s in strips)),
                         "entropy and store": sum((lossless.decode(s) for s in strips), Cost())},
            sum(s["rows"] * width for s in strips))
        for name, level in (("encode, level 1", 1), ("encode, all levels", len(tiles[0]["passes"]) - 1)):
            add(name, {"encode": sum((encode.encode(t, width, level) for t in tiles), Cost())}, values)
    return rows


def summary(data):
    tiles = data["tiles"]
    out = {"tokens": data["tokens"], "tiles": len(tiles), "width": tiles[0]["width"], "planes": {}}
    for plane in "kv":
        t = [x for x in tiles if x["plane"] == plane]
        blocks = sum(x["width"] / 32 for x in t)
        out["planes"][plane] = {
            "steps_per_value": [round(sum(x["passes"][p]["blocks"] for x in t) / blocks, 3) for p in range(len(t[0]["passes"]))],
            "digits_per_value": round(sum(sum(x["digits"]) for x in t) / blocks, 3),
            "tail_steps": [round(sum(x["passes"][p]["tail"] for x in t) / len(t), 1) for p in range(len(t[0]["passes"]))],
            "bits_per_value": [round(8 * sum(x["passes"][p]["bytes"] for x in t) / sum(x["width"] * x["rows"] for x in t), 3)
                               for p in range(len(t[0]["passes"]))]}
    return out


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("-o", "--output")
    options.add_argument("--also", nargs=2, action="append", default=[], metavar=("PROFILE", "CAPTURE"))
    options.add_argument("--cubin")
    options.add_argument("--statistics")
    given = options.parse_args()
    nvcc = next((p for p in (os.environ.get("CUDACXX"), shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc") if p and os.access(p, os.X_OK)), None)
    tool = sass.find_cuobjdump()
    beside = os.pathsep.join([os.path.dirname(tool or "") or ".", os.environ.get("PATH", "")])
    for name, found in (("nvcc", nvcc), ("cuobjdump (wheel nvidia-cuda-cuobjdump)", tool),
                        ("nvdisasm (wheel nvidia-cuda-nvdisasm)", shutil.which("nvdisasm", path=beside))):
        if not found:
            print(f"project: skipped: no {name}")
            return 77
    os.environ["PATH"] = beside
    with tempfile.TemporaryDirectory() as folder:
        cubin, statistics = given.cubin or f"{folder}/probe.cubin", given.statistics or f"{folder}/statistics"
        if not given.cubin:
            pathlib.Path(f"{folder}/probe.cu").write_text(PROBE)
            subprocess.run([nvcc, "-std=c++20", "-arch=sm_90", "-cubin", f"-I{ROOT}/include", f"{folder}/probe.cu", "-o", cubin], check=True)
        if not given.statistics:
            subprocess.run([os.environ.get("CXX", "c++"), "-std=c++20", "-O1", f"-I{ROOT}/include", f"-I{ROOT}/examples/tool", "-pthread",
                            f"{ROOT}/kernels/project_statistics.cpp", "-o", statistics], check=True)
        kernels = [k for k in sass.read(tool, cubin) if k.arch in ("sm_90", "")]
        measure = lambda profile, capture: json.loads(subprocess.run([statistics, profile, capture], check=True, capture_output=True, text=True).stdout)
        data = measure(ROOT / "test/data/smollm2.profile", ROOT / "test/data/smollm2_sample.safetensors")
        others = [(os.path.basename(c), measure(p, c)) for p, c in given.also]
    version = re.search(r"release [\d.]+, V([\d.]+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout)[1]
    out = {"machine": "none, projected for an H100 or H200 (132 SMs, 1.7 GHz)", "nvcc": version, "arch": "sm_90",
           "issue_lanes_per_s": 32 * SCHEDULERS, "l2_bytes_per_s": L2, "dram_bytes_per_s": DRAM,
           "data": {"capture": "smollm2_sample.safetensors", **summary(data)}, "targets_gb_per_s": TARGETS,
           "projected": project(kernels, data, WIDTHS),
           "also": [{"capture": name, **summary(d), "projected": project(kernels, d, [d["tiles"][0]["width"]])} for name, d in others]}
    text = json.dumps(out, indent=1) + "\n"
    if given.output:
        pathlib.Path(given.output).write_text(text)
    for row in out["projected"]:
        print(f"{row['what']:18} {row['width']:4}  {row['gb_per_s_at_50']:5} to {row['gb_per_s_at_65']:5} GB/s  {row['slots_per_value']}  {row['bound_at_65']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
