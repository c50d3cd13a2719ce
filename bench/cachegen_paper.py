#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Bytes and quality of codec::cachegen_paper on real models, from real frames.

    c++ -std=c++20 -O2 -Iinclude bench/cachegen_paper/measure.cpp -o build/bin/cachegen-paper     (needs nlohmann-json)
    bench/cachegen_paper.py --lab KVLAB.py --models DIR --text TEXT --code DIR --work DIR [--readings] [--out FILE]

KVLAB.py is the NumPy reference that captures caches and evaluates them; DIR of --models holds {smol,qwen,gemma}.gguf, DIR
of --code the standard library of Python. The context that is judged: 1,024 tokens of TEXT from token 5,000 on. The tables
are made from four windows of 1,024 tokens, three of prose and one of code, disjoint from the context; they belong to the
profile and are not counted.
Every byte of every frame is counted, in chunks of 256 tokens and in one of 1,024. --readings: what the paper leaves open, the
unit of a bin's width, decided by ideal code lengths (each channel's own entropy): `cache` = widths in the units of the cache,
as the codec has it; `row` = a difference row's absolute maximum is 8, so that widths 0.5, 1, 1.5 are 32, 16 and 11 bins.
"""
import argparse, json, os, platform, subprocess, sys, types
import numpy as np

NAMES = {'smol': 'SmolLM2-135M', 'qwen': 'Qwen2.5-0.5B', 'gemma': 'Gemma-3-270m'}
CALIBRATION = ('p0', 'c0', 'p1', 'p2')


def windows(a):
    text = open(a.text, encoding='utf-8').read()
    prose = {f'p{i}': text[int(len(text) * (0.2 + 0.095 * i)):][:12000] for i in range(3)}
    return {**prose, 'c0': open(os.path.join(a.code, 'argparse.py'), encoding='utf-8').read()[4000:20000]}


def prepare(a, lab, model):
    """Captures that are not there yet."""
    text = windows(a)
    jobs = {f'{a.work}/{model}_{t}.safetensors': (text[t], 0) for t in CALIBRATION}
    jobs[f'{a.work}/{model}_eval.safetensors'] = (open(a.text, encoding='utf-8').read(), 5000)
    for out, (words, offset) in jobs.items():
        if os.path.exists(out): continue
        open(f'{a.work}/window.txt', 'w', encoding='utf-8').write(words)
        lab.capture(types.SimpleNamespace(model=f'{a.models}/{model}.gguf', text=f'{a.work}/window.txt', out=out, context=1024, suffix=256, offset=offset, stats=False))


def entropy(q):
    """Bits that the rows of q take if every column is coded with its own histogram."""
    bits = 0.0
    for column in q.T:
        n = np.unique(column, return_counts=True)[1]
        bits -= (n * np.log2(n / n.sum())).sum()
    return bits


def reading(x, width, unit):
    """x [tokens, channels] after anchors and differences, and the bits it took."""
    t = np.arange(len(x)); anchor = t % 10 == 0
    scale = np.abs(x).max(1, keepdims=True) / 127 + 1e-9
    qa = np.round(x / scale); xa = (qa * scale)[t // 10 * 10]
    d = x - xa
    step = np.abs(d).max(1, keepdims=True) * width / 8 + 1e-9 if unit == 'row' else width
    q = np.round(d / step)
    bits = entropy(qa[anchor]) + entropy(q[~anchor]) + 16 * anchor.sum() + (16 * (~anchor).sum() if unit == 'row' else 0)
    return np.where(anchor[:, None], xa, xa + q * step), bits


def judge(a, lab, model, name):
    m, (t, _) = lab.Model(f'{a.models}/{model}.gguf'), lab.load(f'{a.work}/{model}_eval.safetensors')
    ids = t['ids']; n = t['k.0'].shape[0]
    ref = lab.suffix_logp(m, *lab.unrotated(m, t, n), ids, n)
    quality = lambda d: lab.quality(ref, lab.suffix_logp(m, *lab.unrotated(m, d, n), ids, n), ids[n + 1:])
    calibration = [f'{a.work}/{model}_{w}.safetensors' for w in CALIBRATION]
    run = lambda chunk: json.loads(subprocess.run([a.measure, str(chunk), f'{a.work}/{model}_eval.safetensors', f'{a.work}/{model}_{chunk}', *calibration], check=True, capture_output=True, text=True).stdout)
    chunks, whole = run(256), run(1024)
    r = dict(model=name, table_bytes=whole['table_bytes'], levels=[])
    for c, w in zip(chunks['levels'], whole['levels']):
        d, _ = lab.load(f"{a.work}/{model}_1024.{w['percent']}.safetensors")
        q = quality(d)
        r['levels'].append(dict(percent=w['percent'], bytes_chunks_of_256=c['bytes'], bits_per_value_chunks_of_256=c['bits_per_value'], bytes=w['bytes'], bits_per_value=w['bits_per_value'],
                                encode_mb_per_cpu_s=w['encode_mb_per_s'], decode_mb_per_cpu_s=w['decode_mb_per_s'], **q))
        print(name, r['levels'][-1], flush=True)
    if a.readings:
        r['readings'] = []
        for unit in ('cache', 'row'):
            d, bits, values = {}, 0.0, 0
            for key in (f'{p}.{l}' for l in range(m.layers) for p in 'kv'):
                x = t[key].astype(np.float32)
                y, b = reading(x.reshape(n, -1), 0.5 * (1 + int(key[2:]) * 3 // m.layers), unit)
                d[key] = y.reshape(x.shape).astype(np.float16); bits += b; values += x.size
            r['readings'].append(dict(unit=unit, ideal_bits_per_value=bits / values, **quality(d)))
            print(name, r['readings'][-1], flush=True)
    return r


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for n in ('lab', 'models', 'text', 'code', 'work'): p.add_argument('--' + n, required=True)
    p.add_argument('--measure', default='build/bin/cachegen-paper'); p.add_argument('--out', default='bench/results/cachegen_paper.json')
    p.add_argument('--only', default='smol,qwen,gemma'); p.add_argument('--readings', action='store_true')
    a = p.parse_args()
    sys.path[:0] = [os.path.dirname(os.path.abspath(a.lab)), os.path.dirname(os.path.abspath(__file__))]
    import kvlab
    cpu = next((l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')), platform.machine())
    compiler = subprocess.run(['c++', '--version'], capture_output=True, text=True).stdout.split('\n')[0]
    results = json.load(open(a.out))['results'] if os.path.exists(a.out) else []
    for model in a.only.split(','):
        name = NAMES[model]
        prepare(a, kvlab, model)
        results = [r for r in results if r['model'] != name] + [judge(a, kvlab, model, name)]
        json.dump(dict(machine=dict(cpu=cpu, compiler=compiler), context_tokens=1024, suffix_tokens=256, calibration_tokens=1024 * len(CALIBRATION), results=results), open(a.out, 'w'), indent=1)
