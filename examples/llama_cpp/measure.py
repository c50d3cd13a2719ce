#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What packing a state of llama.cpp costs and saves: sizes, quality and times, with a real llama.cpp (PyPI's xllamacpp).

    measure.py MODEL.gguf PROFILE TEXT [--tool build/bin/sluice] [--tokens 1024] [--suffix 256] [-o bench/results/llama_cpp.json]

A context of --tokens is computed once and saved. Quality is that of the tokens which follow it, computed on the restored
state and compared with those computed on the original one. The floor is what llama.cpp itself loses when the exact bytes
are restored into other cells, where its sums are taken in another order.
"""
import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent / "tests"))
import llama  # noqa: E402


def seconds(work, times=1):
    best = None
    for _ in range(times):
        start = time.perf_counter()
        result = work()
        best = min(best or 1e9, time.perf_counter() - start)
    return best, result


def main():
    a = argparse.ArgumentParser()
    a.add_argument("model"), a.add_argument("profile"), a.add_argument("text")
    a.add_argument("--tool", default="build/bin/sluice")
    a.add_argument("--tokens", type=int, default=1024), a.add_argument("--suffix", type=int, default=256)
    a.add_argument("--offset", type=int, default=5000), a.add_argument("--only", default="f16,q8_0")
    a.add_argument("--slot-profile", help="a profile of `sluice slot calibrate`, measured at level 1 too")
    a.add_argument("-o", "--output", default="bench/results/llama_cpp.json")
    a.add_argument("--table", action="store_true", help="only write the table in README.md anew, from the output of before")
    a = a.parse_args()
    readme = pathlib.Path(__file__).parent / "README.md"
    if a.table:
        return table(json.loads(pathlib.Path(a.output).read_text()), readme)
    model = llama.Model(a.model)
    text = pathlib.Path(a.text).read_text()[a.offset:]
    ids = model.tokenize(text[:(a.tokens + a.suffix) * 8])
    prompt, rest = ids[:a.tokens], ids[a.tokens:a.tokens + a.suffix]
    assert len(rest) == a.suffix, "the text is too short"
    folder = pathlib.Path(tempfile.mkdtemp())
    threads = os.cpu_count()

    def tool(*words):
        out = subprocess.run([a.tool, *map(str, words), "--json"], check=True, capture_output=True, text=True)
        return json.loads(out.stdout)

    def restored(data, exact, **how):
        """Quality of a state in a fresh context of another history, and the time it takes to load."""
        c = model.context(n_ctx=a.tokens + a.suffix + 512, threads=threads, **how)
        took, n = seconds(lambda: c.set(data))
        assert n == len(data), "llama.cpp refused the state"
        got = c.feed(rest, a.tokens, logits=True)
        c.close()
        return dict(llama.compare(exact, got, rest), load_seconds=took)

    def floor(data, exact, **how):
        c = model.context(n_ctx=2 * (a.tokens + a.suffix), sequences=2, threads=threads, **how)
        c.feed(ids[100:177], 0, 0)  # the cells that the state came from are taken
        assert c.set(data, 1)
        got = c.feed(rest, a.tokens, 1, logits=True)
        c.close()
        return llama.compare(exact, got, rest)

    report = {"model": pathlib.Path(a.model).name, "tokens": a.tokens, "suffix_tokens": a.suffix, "machine": machine(), "threads": threads,
              "llama_cpp": version(), "caches": {}}
    for kind in a.only.split(","):
        how = dict(k=kind, v=kind)
        c = model.context(n_ctx=a.tokens + a.suffix + 512, threads=threads, **how)
        c.feed(prompt[:32], 0)  # pages in the weights
        c.remove(0, 0)
        prefill, _ = seconds(lambda: c.feed(prompt, 0))
        saved = folder / f"{kind}.slot"
        save, _ = seconds(lambda: c.save(saved, prompt))
        data = c.get()
        exact = c.feed(rest, a.tokens, logits=True)
        c.close()
        head = saved.stat().st_size - (len(data) - 8)  # of a file before the state; the bytes have 8 of their own
        read, _ = seconds(saved.read_bytes, 3)
        rows = {}
        report["caches"][kind] = {"slot_bytes": saved.stat().st_size, "prefill_seconds": prefill, "save_seconds": save,
                                  "read_seconds": read, "exact": restored(data, exact, **how),
                                  "other_cells": floor(data, exact, **how), "packed": rows}
        zstd(saved, report["caches"][kind])
        runs = [(f"level {n}", ["-p", a.profile, "--level", n], ["-p", a.profile]) for n in range(4)]
        runs.append(("lossless", ["--lossless"], []))
        runs.append(("no calibration, level 1", ["--level", 1], []))
        if a.slot_profile:
            runs.append(("slot calibrate, level 1", ["-p", a.slot_profile, "--level", 1], ["-p", a.slot_profile]))
        for name, pack, unpack in runs:
            if "no calibration" in name:  # from a name that has no profile beside it
                bare = folder / "bare.gguf"
                if not bare.exists():
                    bare.symlink_to(pathlib.Path(a.model).resolve())
                pack = pack + ["-m", bare]
            packed, back = folder / "packed", folder / "back.slot"
            facts = [tool("slot", "pack", saved, "-o", packed, *pack) for _ in range(2)]
            out = [tool("slot", "unpack", packed, "-o", back, *unpack) for _ in range(3)]
            restored_bytes = data[:8] + back.read_bytes()[head:]
            row = {"bytes": packed.stat().st_size, "ratio": saved.stat().st_size / packed.stat().st_size,
                   "pack_seconds": min(f["seconds"] for f in facts), "unpack_seconds": min(f["seconds"] for f in out)}
            if back.read_bytes() == saved.read_bytes():
                row["same_bytes"] = True
            else:
                row.update(restored(restored_bytes, exact, **how))
            rows[name] = row
            print(kind, name, json.dumps(row), flush=True)
    pathlib.Path(a.output).write_text(json.dumps(report, indent=1) + "\n")
    table(report, readme)


def table(report, path):
    """Puts the figures between the marks in README.md."""
    lines = ["| cache | packed | bytes | times smaller | KL | top-1 | pack | unpack + load |", "|---|---|---|---|---|---|---|---|"]
    for kind, c in report["caches"].items():
        n, floor = report["tokens"], c["other_cells"]
        lines.append(f"| {kind} | as saved, {c['slot_bytes']:,} bytes | | 1 | {floor['kl']:.4f} (floor) | {100 * floor['top1']:.1f} % | | "
                     f"{c['read_seconds'] + c['exact']['load_seconds']:.3f} s |")
        if "zstd_3" in c:
            lines.append(f"| {kind} | zstd -3 | {c['zstd_3']['bytes']:,} | {c['zstd_3']['ratio']:.2f} | same bytes | | | "
                         f"{c['zstd_3']['unpack_seconds'] + c['exact']['load_seconds']:.2f} s |")
        for name, x in c["packed"].items():
            same = x.get("same_bytes")
            load = c["exact"]["load_seconds"] if same else x["load_seconds"]
            lines.append(f"| {kind} | {name} | {x['bytes']:,} | {x['ratio']:.2f} | {'same bytes' if same else format(x['kl'], '.4f')} | "
                         f"{'' if same else format(100 * x['top1'], '.1f') + ' %'} | {x['pack_seconds']:.2f} s | {x['unpack_seconds'] + load:.2f} s |")
    first = next(iter(report["caches"].values()))
    lines += ["", f"{report['model']}, a context of {report['tokens']:,} tokens, judged by the {report['suffix_tokens']} that follow; "
              f"{report['machine']}, {report['llama_cpp']}. Computing the context takes {first['prefill_seconds']:.0f} s there. "
              "KL is in nats, against the exact state; times are the best of two or three."]
    text = path.read_text()
    begin, end = text.index("<!-- table -->"), text.index("<!-- /table -->")
    path.write_text(text[:begin] + "<!-- table -->\n" + "\n".join(lines) + "\n" + text[end:])


def zstd(path, to):
    packed = path.with_suffix(".zst")
    try:
        subprocess.run(["zstd", "-3", "-q", "-f", str(path), "-o", str(packed)], check=True)
        took, _ = seconds(lambda: subprocess.run(["zstd", "-d", "-q", "-f", str(packed), "-o", str(path) + ".z"], check=True), 3)
        to["zstd_3"] = {"bytes": packed.stat().st_size, "ratio": path.stat().st_size / packed.stat().st_size, "unpack_seconds": took}
    except (OSError, subprocess.CalledProcessError):
        pass


def machine():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return platform.machine()


def version():
    import importlib.metadata
    return "xllamacpp " + importlib.metadata.version("xllamacpp")


if __name__ == "__main__":
    main()
