#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""States of a real llama.cpp through `sluice slot`: saved, packed, unpacked, taken up again, and judged by its own logits.

    real.py TEST --tool sluice --data test/data --models FOLDER... [--python PYTHON-WITH-XLLAMACPP]

Ends with 77 where llama.cpp (PyPI's xllamacpp and numpy) or a model is not to be had.
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

SKIP = 77


def skip(why):
    print("skipped:", why)
    sys.exit(SKIP)


class Bench:
    """A model, its text, and the command under test."""

    def __init__(self, a, model):
        try:
            import numpy  # noqa: F401

            import llama
        except ImportError as e:
            skip(e)
        self.llama, self.tool, self.data = llama, a.tool, pathlib.Path(a.data)
        folders = [pathlib.Path(f) for f in [os.environ.get("SLUICE_MODELS") or ""] + a.models if f]
        found = [f / model for f in folders if (f / model).exists()]
        if not found:
            skip(f"no {model}")
        self.path = found[0]
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.profile = self.data / "smollm2.profile"
        self.text = (self.data / "sample.txt").read_text()

    def open(self):
        try:
            self.model = self.llama.Model(self.path)
        except self.llama.Unavailable as e:
            skip(e)
        self.ids = self.model.tokenize(self.text)
        self.prompt, self.rest = self.ids[:512], self.ids[512:640]
        assert len(self.rest) > 60, "the text is too short"

    def slot(self, *words, code=0):
        out = subprocess.run([self.tool, "slot", *map(str, words)], capture_output=True, text=True)
        assert out.returncode == code, (words, out.returncode, out.stdout, out.stderr)
        return out.stdout + out.stderr

    def around(self, saved, *pack, profile=None):
        """A file packed and unpacked: the new one, and how many times smaller it was between."""
        packed, back = self.folder / "packed", self.folder / "back"
        given = ["-p", profile] if profile else []
        self.slot("pack", saved, "-o", packed, *given, *pack)
        self.slot("unpack", packed, "-o", back, *given)
        return back, saved.stat().st_size / packed.stat().st_size


def expect(fact, *what):
    print("ok" if fact else "FAILED", *what, flush=True)
    if not fact:
        sys.exit(1)


def quality(b, most, ratio, levels=(1,), profile=None, model=False, **how):
    """Saves one sequence, packs it, takes it up in a fresh context, and compares what the model then predicts."""
    n = how.get("sequences", 1)
    seq = n - 1
    context = lambda: b.model.context(n_ctx=2048, **how)
    c = context()
    if n > 1:
        c.feed(b.ids[50:150], 0, 0)  # other cells first
    c.feed(b.prompt, 0, seq)
    saved = b.folder / "saved"
    expect(c.save(saved, b.prompt, seq) == saved.stat().st_size, "saved")
    exact = c.feed(b.rest, len(b.prompt), seq, logits=True)
    c.close()

    def taken_up(path):
        d = context()
        if n > 1:
            d.feed(b.ids[90:120], 0, 0)  # and fewer of them now
        expect(d.load(path, seq) == b.prompt, "llama.cpp loads it")
        got = b.llama.compare(exact, d.feed(b.rest, len(b.prompt), seq, logits=True))
        d.close()
        return got

    back, _ = b.around(saved, "--lossless")
    expect(back.read_bytes() == saved.read_bytes(), "lossless: the same bytes")
    floor = taken_up(back)
    print("floor", floor)
    words = ["-m", b.path] if model else []
    for level in levels:
        back, times = b.around(saved, *words, "--level", level, profile=profile)
        got = taken_up(back)
        print("level", level, got)
        expect(times >= ratio[level], f"{times:.2f} times smaller")
        expect(got["kl"] <= floor["kl"] + most[level], f"KL {got['kl']:.4f}, floor {floor['kl']:.4f}")
    return exact


def flash(b):
    quality(b, {1: 0.03, 3: 0.008}, {1: 8.5, 3: 3.2}, (1, 3), b.profile)


def transposed(b):
    quality(b, {1: 0.03}, {1: 8.5}, (1,), b.profile, flash=False)


def unified(b):
    quality(b, {1: 0.03}, {1: 8.5}, (1,), b.profile, sequences=2, unified=True)


def split(b):
    quality(b, {1: 0.03}, {1: 8.5}, (1,), b.profile, sequences=2, unified=False)


def quantised(b):
    quality(b, {1: 0.03}, {1: 4.5}, (1,), b.profile, k="q8_0", v="q8_0")


def uncalibrated(b):
    copy = b.folder / "m.gguf"  # a name with no profile beside it
    copy.symlink_to(b.path)
    b.path = copy
    quality(b, {1: 0.1}, {1: 6.0}, (1,), None, True)


def session(b):
    """A whole context of two sequences that share a beginning."""
    context = lambda: b.model.context(n_ctx=2048, sequences=2)
    c = context()
    c.feed(b.prompt[:200], 0, 0)
    c.share(0, 1)
    c.feed(b.prompt[200:400], 200, 0)
    c.feed(b.prompt[300:512], 200, 1)
    saved = b.folder / "session"
    expect(c.save_all(saved, b.prompt), "saved")
    raw = b.folder / "raw"
    raw.write_bytes(c.get_all())
    one = b.folder / "one"
    one.write_bytes(c.get(1))
    exact = [c.feed(b.rest, at, s, logits=True) for s, at in ((0, 400), (1, 412))]
    c.close()
    for path in (saved, raw, one):
        back, _ = b.around(path, "--lossless")
        expect(back.read_bytes() == path.read_bytes(), "lossless: the same bytes")
    back, times = b.around(saved, profile=b.profile)
    expect(times > 8, f"{times:.2f} times smaller")
    d = context()
    expect(d.load_all(back) == b.prompt, "llama.cpp loads it")
    for s, at in ((0, 400), (1, 412)):
        got = b.llama.compare(exact[s], d.feed(b.rest, at, s, logits=True))
        expect(got["kl"] < 0.05, f"sequence {s}: KL {got['kl']:.4f}")
    d.close()
    back, times = b.around(raw, profile=b.profile)
    d = context()
    expect(d.set_all(back.read_bytes()) == raw.stat().st_size, "llama.cpp takes the bytes")
    d.close()


def server(b):
    """A prompt computed by one llama-server, gone on with by another."""
    try:
        import xllamacpp  # noqa: F401, of the server's process
    except ImportError as e:
        skip(e)
    from server import Server
    ask, more, n = b.text[:1500], b.text[:1500] + " The", 16
    with Server(b.path, b.folder) as s:
        s.complete(ask, 1)
        saved = s.save("a.bin")
        said = s.complete(more, n)
    path = b.folder / "a.bin"
    expect(saved["n_written"] == path.stat().st_size, "saved", path.stat().st_size, "bytes")
    back, _ = b.around(path, "--lossless")
    back.rename(b.folder / "same.bin")
    back, times = b.around(path, "--level", 1, "-m", b.path, profile=b.profile)
    back.rename(b.folder / "near.bin")
    expect(times > 8, f"{times:.2f} times smaller")
    for name in ("same.bin", "near.bin"):
        with Server(b.path, b.folder) as s:
            restored = s.restore(name)
            expect(restored["n_restored"] == saved["n_saved"], name, "restored", restored["n_restored"], "tokens")
            now = s.complete(more, n)
        expect(now["timings"]["prompt_n"] <= 8, "computed", now["timings"]["prompt_n"], "tokens of the prompt")
        expect(len(now["tokens"]) == n, "says:", now["content"])
        if name == "same.bin":
            expect(now["tokens"] == said["tokens"], "the same as before")


def family(b):
    """Another family of models, calibrated on its own slots."""
    kept, begin = [], 0
    for length in (400, 500, 600):
        c = b.model.context(n_ctx=2048)
        c.feed(b.ids[begin:begin + length], 0)
        kept.append(b.folder / f"calibrate{length}")
        c.save(kept[-1], b.ids[begin:begin + length])
        c.close()
        begin += 40
    profile = b.folder / "m.profile"
    print(b.slot("calibrate", *kept, "-m", b.path, "-o", profile))
    quality(b, {1: 0.12, 2: 0.04}, {1: 4.5, 2: 2.5}, (1, 2), profile, True)


def refused(b):
    """What a user gets wrong is said in words."""
    c = b.model.context(n_ctx=1024)
    c.feed(b.prompt[:100], 0)
    saved = b.folder / "saved"
    c.save(saved, b.prompt[:100])
    c.close()
    out = b.folder / "out"
    expect("--lossless" in b.slot("pack", saved, "-o", out, code=2), "no profile")
    cut = b.folder / "cut"
    cut.write_bytes(saved.read_bytes()[:-1000])
    expect("truncated" in b.slot("pack", cut, "-o", out, "--lossless", code=1), "a truncated slot")
    expect("no state" in b.slot("pack", b.profile, "-o", out, "--lossless", code=1), "no slot at all")
    b.slot("pack", saved, "-o", out, "-p", b.profile, "-m", b.path)
    expect("-p PROFILE" in b.slot("unpack", out, "-o", b.folder / "back", code=2), "unpacking without the profile")
    damaged = bytearray(out.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    bad = b.folder / "bad"
    bad.write_bytes(damaged)
    expect("damaged" in b.slot("unpack", bad, "-o", b.folder / "back", "-p", b.profile, code=1), "a damaged file")
    expect(not (b.folder / "back").exists(), "and nothing is left of it")
    # Of two that pack into one file, one wins, whole.
    both = [subprocess.Popen([b.tool, "slot", "pack", str(saved), "-o", str(out), *how], stdout=subprocess.DEVNULL)
            for how in (["--lossless"], ["-p", str(b.profile)])]
    expect([p.wait() for p in both] == [0, 0], "two at once")
    b.slot("unpack", out, "-o", b.folder / "back", "-p", b.profile)


TESTS = {f.__name__: (f, m) for f, m in [
    (server, "smol.gguf"), (flash, "smol.gguf"), (transposed, "smol.gguf"), (unified, "smol.gguf"), (split, "smol.gguf"),
    (quantised, "smol.gguf"), (uncalibrated, "smol.gguf"), (session, "smol.gguf"), (refused, "smol.gguf")]}
TESTS["qwen"] = (family, "qwen.gguf")
TESTS["gemma"] = (family, "gemma.gguf")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("test", choices=TESTS), p.add_argument("--tool"), p.add_argument("--data")
    p.add_argument("--models", nargs="*", default=[]), p.add_argument("--python")
    a = p.parse_args()
    if a.python and os.path.exists(a.python) and os.path.abspath(sys.executable) != os.path.abspath(a.python):
        os.execv(a.python, [a.python, *sys.argv])
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    test, model = TESTS[a.test]
    b = Bench(a, model)
    if test is not server:
        b.open()
    test(b)


if __name__ == "__main__":
    main()
