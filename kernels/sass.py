#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the inner loops of compiled kernels cost, against the budget in sass_budget.json.

usage: sass.py [--budget FILE] [--loops] [--show KERNEL LOOP] OBJECT...

OBJECT is a cubin, or an object file or program with cubins in it. A loop is a branch back and what lies on the shortest
way from its target to it: what is rare, such as a refill, is jumped over, and a loop inside another one counts once.
Loops need no marks in the source: the budget names them by how often some instructions occur on that way. Every
instruction on it is one issue slot of a warp, by the unit that takes it:

  alu   integer and logic, comparisons, votes     lds  loads of shared memory   st   stores
  fma   multiply-adds, integer ones too           ldg  other loads              ctl  branches, barriers, uniform registers
  xu    counts of bits, conversions               sreg special registers        tc   tensor cores

The budget is a list; each entry has
  kernel     a regular expression for the (demangled or plain) name; every kernel of the objects that it finds is checked
  registers  most registers of a thread
  stack      most bytes of stack, which is where spilled registers go; 0 where not given
  loops      a list: what (a name), has ({opcode prefix: how often}, "IDP.2A": 8), innermost (true = no loop inside),
             steps (by which slots are divided), slots (most of a step), branches, sreg (most on the way; 0 sreg where not
             given), arch (only these, ["sm_90"]). Every loop that fits is checked, and one must fit.
--loops lists all innermost loops of all kernels instead, --show prints one loop of it. Exits 77 where there is no
cuobjdump, which the CUDA toolkit and the wheel nvidia-cuda-cuobjdump have."""

import argparse
import heapq
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

UNITS = [  # the first that fits
    ("sreg", r"S2R|S2UR|CS2R\S* \S+ SR_(?!CLOCK)"),
    ("tc", r"[HIDBQ]?MMA|HGMMA|UTC"),
    ("lds", r"LDS"),
    ("ldg", r"LD"),
    ("st", r"ST|RED|ATOM"),
    ("ctl", r"BRA|BRX|BSSY|BSYNC|BREAK|WARPSYNC|NOP|EXIT|CALL|RET|BAR|DEPBAR|ERRBAR|MEMBAR|CCTL|YIELD|ENDCOLL|U[A-Z]|R2UR|VOTEU|REDUX"),
    ("fma", r"IMAD|FFMA|FMUL|FADD|IDP|HFMA2|HADD2|HMUL2"),
    ("xu", r"POPC|FLO|BREV|MUFU|I2F|F2I|F2F|I2I|SHFL"),
    ("alu", r""),
]


class Kernel:
    """One kernel: (address, instruction) in order, and which go where."""

    def __init__(self, name, arch):
        self.name, self.arch, self.code = name, arch, []
        self.registers = self.stack = 0

    def finish(self):
        self.place = {address: i for i, (address, _) in enumerate(self.code)}

    def operation(self, i):
        return re.sub(r"^@!?U?P\w+ ", "", self.code[i][1])

    def target(self, i):
        found = re.match(r"BRA\S* (?:!?U?P\w+, ?)?(?:UR\d+, ?)?`?\(?(0x[0-9a-f]+)", self.operation(i))
        return self.place.get(int(found[1], 16)) if found else None

    def after(self, i):
        """Where to from an instruction; lanes that do not meet (BRA.DIV) are nobody's ordinary way."""
        text, operation, to = self.code[i][1], self.operation(i), self.target(i)
        further = [i + 1] if i + 1 < len(self.code) else []
        if to is not None and not operation.startswith("BRA.DIV"):
            conditional = text.startswith("@") or re.match(r"BRA\S* !?U?P\d", operation)
            return [to] + further if conditional else [to]
        if re.match(r"EXIT|RET|BRX", operation) and not text.startswith("@"):
            return []
        return further

    def loops(self):
        """(first, last, shortest way, whether no other loop lies inside of it)"""
        found = []
        for last in range(len(self.code)):
            for first in self.after(last):
                if first <= last and self.target(last) == first:
                    way = self.shortest(first, last)
                    if way:
                        found.append((first, last, way))
        return [(f, l, w, not any((a, b) != (f, l) and f <= a and b <= l for a, b, _ in found)) for f, l, w in found]

    def shortest(self, first, last):
        length, back, queue = {first: 0}, {}, [(0, first)]
        while queue:
            n, i = heapq.heappop(queue)
            if i == last:
                way = [i]
                while way[-1] != first:
                    way.append(back[way[-1]])
                return way[::-1]
            for to in self.after(i):
                if to >= first and n + 1 < length.get(to, 1 << 30):
                    length[to], back[to] = n + 1, i
                    heapq.heappush(queue, (n + 1, to))
        return None

    def count(self, way):
        units = {}
        for i in way:
            unit = next(u for u, pattern in UNITS if re.match(pattern, self.operation(i)))
            units[unit] = units.get(unit, 0) + 1
        return units

    def occurs(self, way, opcode):
        return sum(self.operation(i).startswith(opcode) for i in way)


def find_cuobjdump():
    for folder in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if folder and os.access(f"{folder}/bin/cuobjdump", os.X_OK):
            return f"{folder}/bin/cuobjdump"
    return os.environ.get("CUOBJDUMP") or shutil.which("cuobjdump")


def read(tool, path):
    def run(what):
        done = subprocess.run([tool, what, path], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"sass: {tool} {what} {path}: {done.stderr.strip()}")
        return done.stdout

    kernels, arch, kernel = {}, "", None
    for line in run("-sass").splitlines():
        if found := re.match(r"\s*arch = (\w+)", line):
            arch = found[1]
        elif found := re.match(r"\s*code for (\w+)", line):
            arch = found[1]
        elif found := re.match(r"\s*Function : (\S+)", line):
            kernel = kernels.setdefault((found[1], arch), Kernel(found[1], arch))
        elif kernel and (found := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line)):
            kernel.code.append((int(found[1], 16), re.sub(r"\s+", " ", found[2])))
    for line in run("-res-usage").splitlines():
        if found := re.match(r"\s*arch = (\w+)", line):
            arch = found[1]
        elif found := re.match(r"\s*Function (\S+):", line):
            kernel = kernels.get((found[1], arch))
        elif kernel and (found := re.search(r"REG:(\d+) STACK:(\d+)", line)):
            kernel.registers, kernel.stack = int(found[1]), int(found[2])
    for kernel in kernels.values():
        kernel.finish()
    return list(kernels.values())


def demangled(name):
    tool = shutil.which("c++filt")
    return subprocess.run([tool, name], capture_output=True, text=True).stdout.strip() if tool else name


def describe(kernel, loop, steps=1):
    first, last, way, inner = loop
    units = ", ".join(f"{n / steps:.1f} {u}" for u, n in sorted(kernel.count(way).items(), key=lambda x: -x[1]))
    branches = kernel.occurs(way, "BRA") - kernel.occurs(way, "BRA.DIV")
    return f"{kernel.code[first][0]:#07x}-{kernel.code[last][0]:#07x}: {len(way) / steps:.2f} slots ({units}), {branches} branches"


def check(entry, kernel):
    """Prints what it finds; how much of it is beyond the budget."""
    wrong = 0

    def judge(fine, text):
        nonlocal wrong
        wrong += not fine
        print(f"  {'' if fine else 'OVER: '}{text}")

    judge(kernel.registers <= entry["registers"], f"{kernel.registers} registers of {entry['registers']}")
    judge(kernel.stack <= entry.get("stack", 0), f"{kernel.stack} bytes of stack of {entry.get('stack', 0)}")
    all_loops = kernel.loops()
    for wanted in entry.get("loops", []):
        if kernel.arch not in wanted.get("arch", [kernel.arch]):
            continue
        fitting = [l for l in all_loops
                   if all(kernel.occurs(l[2], opcode) == n for opcode, n in wanted["has"].items())
                   and (l[3] or not wanted.get("innermost"))]
        judge(bool(fitting), f"{wanted['what']}: {len(fitting)} loops" + (", the longest:" if len(fitting) > 1 else ""))
        if not fitting:
            continue
        longest = max(fitting, key=lambda l: len(l[2]))
        most = {what: max(count(l[2]) for l in fitting) for what, count in (
            ("slots", len), ("branches", lambda way: kernel.occurs(way, "BRA") - kernel.occurs(way, "BRA.DIV")),
            ("sreg", lambda way: kernel.count(way).get("sreg", 0)))}
        judge(most["slots"] <= wanted["slots"] * wanted["steps"] and most["branches"] <= wanted["branches"]
              and most["sreg"] <= wanted.get("sreg", 0),
              f"    {describe(kernel, longest, wanted['steps'])}; budget {wanted['slots']} slots, "
              f"{wanted['branches']} branches")
    return wrong


def main():
    here = pathlib.Path(__file__).resolve().parent
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--budget", default=here / "sass_budget.json")
    options.add_argument("--loops", action="store_true")
    options.add_argument("--show", nargs=2, metavar=("KERNEL", "LOOP"))
    options.add_argument("objects", nargs="+")
    given = options.parse_args()
    tool = find_cuobjdump()
    if not tool:
        print("sass: skipped: no cuobjdump (CUDA toolkit, or the wheel nvidia-cuda-cuobjdump)")
        return 77
    kernels = [k for path in given.objects for k in read(tool, path)]
    if given.loops or given.show:
        for k in kernels:
            if given.show and not re.search(given.show[0], k.name):
                continue
            print(f"{k.arch} {demangled(k.name)}")
            for loop in k.loops():
                if not given.show and loop[3]:
                    print("  " + describe(k, loop))
                elif given.show and k.code[loop[0]][0] == int(given.show[1], 16):
                    print("\n".join(f"  {k.code[i][0]:05x}  {k.code[i][1]}" for i in loop[2]))
        return 0
    wrong = checked = 0
    for entry in json.loads(pathlib.Path(given.budget).read_text()):
        found = [k for k in kernels if re.search(entry["kernel"], k.name) or re.search(entry["kernel"], demangled(k.name))]
        if not found:
            print(f"MISSING: no kernel {entry['kernel']}")
            wrong += 1
        for k in found:
            print(f"{k.arch} {demangled(k.name)}")
            wrong += check(entry, k)
        checked += len(found)
    print(f"{checked} kernels, {wrong} things beyond the budget")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
