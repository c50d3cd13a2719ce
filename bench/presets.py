#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Published codecs as presets, on real models: whole frames, judged by what the model makes of the cache that comes back.

    bench/presets.py --lab KVLAB.py --models DIR --text TEXT --code DIR --work DIR [--sluice build/bin/sluice] [--out FILE]

KVLAB.py is the NumPy reference that captures caches and evaluates them; DIR holds {smol,qwen,gemma}.gguf. Contexts: 1,024
tokens of TEXT from token 50,000 on and of the Python sources DIR/multiprocessing/*.py from token 2,000 on, each judged on
the 256 tokens that follow. Every context is one frame, so that a codec with a window at the end pays for one; all bytes
of the frame count. Captures in --work are reused.
What each preset gives back is also computed here, in NumPy float32, from the definition of the method; `unlike` counts
the elements that differ in any bit.
"""
import argparse, glob, json, os, subprocess, sys, types
import numpy as np

from quality import cpu

NAMES = {'smol': 'SmolLM2-135M', 'qwen': 'Qwen2.5-0.5B', 'gemma': 'Gemma-3-270m'}
TILE = 256  # tokens; groups begin anew in each
f32 = np.float32


def half_up(x):
    """The f16 at or above x >= 0."""
    h = x.astype(np.float16)
    return np.where(h.astype(f32) < x, np.nextafter(h, np.float16(np.inf)), h).astype(f32)


def symmetric(x, bits):
    """One step over the last axis, codes around zero."""
    half = f32(2 ** (bits - 1))
    step = (np.abs(x).max(-1, keepdims=True) / (half - 1)).astype(np.float16).astype(f32)
    inverse = np.where(step > 0, 1 / np.where(step > 0, step, 1), 0).astype(f32)
    return (np.clip(np.floor(x * inverse + (half + f32(.5))), 1, 2 * half - 1) - half) * step


def by_range(x, bits, axis):
    """Step and zero over one axis, codes from the lowest value; elements are f16, so that the lowest is its own zero."""
    levels, low = f32(2 ** bits - 1), x.min(axis, keepdims=True)
    step = half_up((x.max(axis, keepdims=True) - low) / levels)
    inverse = np.where(step > 0, 1 / np.where(step > 0, step, 1), 0).astype(f32)
    return np.minimum(np.floor((x - low) * inverse + f32(.5)), levels) * step + low


def kivi(k, v, bits, group=32, residual=128):
    coded, (heads, dim) = len(k) - residual, k.shape[1:]
    k, v = k.copy(), v.copy()
    for start in range(0, coded, TILE):
        n = min(TILE, coded - start)
        k[start:start + n] = by_range(k[start:start + n].reshape(n // group, group, heads, dim), bits, 1).reshape(n, heads, dim)
    v[:coded] = by_range(v[:coded].reshape(coded, heads, dim // group, group), bits, 3).reshape(coded, heads, dim)
    return k, v


def e4m3(x):
    """The nearest of the numbers that fp8 has, ties to even."""
    x = x.astype(f32)
    unit = np.ldexp(f32(1), np.maximum(np.frexp(x)[1] - 1, -6) - 3).astype(f32)
    return np.clip(np.rint(x / unit) * unit, -448, 448)


def hadamard(x):
    n, half = x.shape[-1], 1
    while half < n:
        pairs = x.reshape(*x.shape[:-1], n // (2 * half), 2, half)
        x = np.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], -2).reshape(x.shape)
        half *= 2
    return x * f32(.70710678 if n.bit_length() % 2 == 0 else 1) / f32(2 ** ((n.bit_length() - 1) // 2))


LEVELS = {3: (.245094179, .756005281, 1.34390928, 2.1519457),
          4: (.12839503, .388048299, .656759119, .942340456, 1.2562312, 1.61804639, 2.06901723, 2.73258957)}


def turboquant(x, bits):
    """Heads of a power of two only."""
    state, dim = 1, x.shape[-1]
    signs = np.empty(dim, f32)
    for i in range(dim):
        state = (state * 1664525 + 1013904223) % 2 ** 32
        signs[i] = -1 if state >> 31 else 1
    y = hadamard(x * signs)
    squares = (y.astype(float) ** 2).sum(-1, keepdims=True)
    rms = np.sqrt(squares / dim).astype(f32)
    z = y * np.where(rms > 0, 1 / np.where(rms > 0, rms, 1), 0).astype(f32)
    levels = np.array(LEVELS[bits], f32)
    level = levels[np.searchsorted(f32(.5) * (levels[1:] + levels[:-1]), np.abs(z), side='right')]
    scale = np.sqrt(squares / (level.astype(float) ** 2).sum(-1, keepdims=True)).astype(f32).astype(np.float16).astype(f32)
    return hadamard(np.where(z < 0, -level, level) * scale) * signs


def cachegen_released(x, level, layer, layers, key):
    """31, 15 or 11 integers around zero, in units of the token's largest magnitude over all heads."""
    first = layer < (10 if key else 2)
    bins = 32 if level == 3 or level == 2 and (first or layers < 10) else 16 if level == 2 or first or key and layer < 20 else 12
    half, flat = f32(bins // 2 - 1), x.reshape(len(x), -1)
    most = np.abs(flat).max(1, keepdims=True)
    by = np.where(most > 0, half / np.where(most > 0, most, 1), 0).astype(f32)
    return ((np.rint(flat * by) + f32(0)) / half * most).reshape(x.shape)  # no integer is -0


def released(level):
    return lambda k, v, layer, layers: (cachegen_released(k, level, layer, layers, True), cachegen_released(v, level, layer, layers, False))


PRESETS = {  # of K and V of a layer, of so many
    'fp8': lambda k, v, *_: (e4m3(k), e4m3(v)),
    'int8': lambda k, v, *_: (symmetric(k, 8), symmetric(v, 8)),
    'int4': lambda k, v, *_: (symmetric(k, 4), symmetric(v, 4)),
    'kivi4': lambda k, v, *_: kivi(k, v, 4),
    'kivi2': lambda k, v, *_: kivi(k, v, 2),
    'turboquant4': lambda k, v, *_: (turboquant(k, 4), turboquant(v, 4)),
    'turboquant3': lambda k, v, *_: (turboquant(k, 3), turboquant(v, 3)),
    'cachegen_released_fine': released(3),
    'cachegen_released': released(2),
    'cachegen_released_coarse': released(1),
    'cachegen_released_1024': released(2),
}


def contexts(a):
    read = lambda f: open(f, encoding='utf-8', errors='ignore').read()
    code = ''.join(read(f) for f in sorted(glob.glob(os.path.join(a.code, 'multiprocessing', '*.py'))))
    return {'prose': (read(a.text)[:400000], 50000), 'code': (code[:100000], 2000)}


def unlike(t, back, layers, preset):
    """Elements that are not what the method's definition says."""
    wrong = 0
    for l in range(layers):
        expected = PRESETS[preset](t[f'k.{l}'].astype(f32), t[f'v.{l}'].astype(f32), l, layers)
        wrong += sum(int((e.astype(np.float16).view(np.uint16) != back[f'{n}.{l}'].view(np.uint16)).sum()) for n, e in zip('kv', expected))
    return wrong


def judge(a, lab, model):
    gguf, results = f'{a.models}/{model}.gguf', {p: [] for p in a.presets.split(',')}
    m = lab.Model(gguf)
    for name, (text, offset) in contexts(a).items():
        capture = f'{a.work}/{model}_{name}.safetensors'
        if not os.path.exists(capture):
            open(f'{a.work}/window.txt', 'w', encoding='utf-8').write(text)
            lab.capture(types.SimpleNamespace(model=gguf, text=f'{a.work}/window.txt', out=capture, context=1024, suffix=256, offset=offset, stats=False))
        t, _ = lab.load(capture)
        ids, n = t['ids'], t['k.0'].shape[0]
        ref = lab.suffix_logp(m, *lab.unrotated(m, t, n), ids, n)
        profile, frame, decoded = (f'{a.work}/{model}.{x}' for x in ('profile', 'slc', 'decoded.safetensors'))
        run = lambda *args: subprocess.run([a.sluice, *args], check=True, stdout=subprocess.DEVNULL)
        run('calibrate', '--shape-only', '-o', profile, capture)
        for preset, rows in results.items():
            run('encode', '-p', profile, '--codec', preset, '--chunk-tokens', '1024', capture, '-o', frame)
            run('decode', '-p', profile, frame, '-o', decoded)
            back, _ = lab.load(decoded)
            values = sum(t[f'{p}.{l}'].size for p in 'kv' for l in range(m.layers))
            q = lab.quality(ref, lab.suffix_logp(m, *lab.unrotated(m, back, n), ids, n), ids[n + 1:])
            rows.append(dict(context=name, bytes=os.path.getsize(frame), bits_per_value=8 * os.path.getsize(frame) / values, **q, unlike=unlike(t, back, m.layers, preset)))
            print(model, preset, rows[-1], flush=True)
    mean = lambda rows, key: float(np.mean([r[key] for r in rows]))
    return [dict(model=NAMES[model], preset=p, **{k: mean(rows, k) for k in ('bits_per_value', 'kl', 'delta_nll', 'top1')}, contexts=rows) for p, rows in results.items()]


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for n in ('lab', 'models', 'text', 'code', 'work'): p.add_argument('--' + n, required=True)
    p.add_argument('--sluice', default='build/bin/sluice'); p.add_argument('--out', default='bench/results/presets.json')
    p.add_argument('--only', default='smol,qwen,gemma'); p.add_argument('--presets', default=','.join(PRESETS))
    a = p.parse_args()
    sys.path.insert(0, os.path.dirname(os.path.abspath(a.lab)))
    import kvlab
    results = []
    for m in a.only.split(','):
        results += judge(a, kvlab, m)
        json.dump(dict(script='bench/presets.py', machine=dict(cpu=cpu(), cores=os.cpu_count(), numpy=np.__version__, python=sys.version.split()[0]), context_tokens=1024, suffix_tokens=256, results=results), open(a.out, 'w'), indent=1)
