#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Quality per byte on real models: calibrate, encode, decode every level, run the model on what came back.

    bench/quality.py --lab KVLAB.py --models DIR --text TEXT --code DIR --work DIR [--sluice build/bin/sluice] [--out FILE]

KVLAB.py is the NumPy reference that captures caches and evaluates them (capture, evaluate, sensitivity); DIR holds
{smol,qwen,gemma}.gguf. Contexts: 1,024 tokens of TEXT from token 5,000 on, judged on the 256 tokens that follow.
Calibration: eight windows of 1,024 tokens of TEXT behind its first fifth and four of Python sources, disjoint from the
context; sensitivities from the first window. Captures in --work are reused. All bytes of the .slc file count.
"""
import argparse, json, math, os, subprocess, sys, types

NAMES = {'smol': 'SmolLM2-135M', 'qwen': 'Qwen2.5-0.5B', 'gemma': 'Gemma-3-270m'}
SOURCES = ('argparse.py', 'zipfile.py', 'statistics.py', 'heapq.py')
ORDER = ('p0', 'c0', 'p1', 'p2', 'c1', 'p3', 'p4', 'c2', 'p5', 'p6', 'c3', 'p7')


def windows(a):
    text = open(a.text, encoding='utf-8').read()
    out = {f'p{i}': text[int(len(text) * (0.2 + 0.095 * i)):][:12000] for i in range(8)}
    for i, name in enumerate(SOURCES):
        out[f'c{i}'] = open(os.path.join(a.code, name), encoding='utf-8').read()[4000:20000]
    return out


def prepare(a, lab, model):
    """Captures that are not there yet."""
    gguf = f'{a.models}/{model}.gguf'
    jobs = {f'{a.work}/{model}_{tag}.safetensors': (text, 0) for tag, text in windows(a).items()}
    jobs[f'{a.work}/{model}_eval.safetensors'] = (open(a.text, encoding='utf-8').read(), 5000)
    for out, (text, offset) in jobs.items():
        if os.path.exists(out): continue
        open(f'{a.work}/window.txt', 'w', encoding='utf-8').write(text)
        lab.capture(types.SimpleNamespace(model=gguf, text=f'{a.work}/window.txt', out=out, context=1024, suffix=256, offset=offset, stats=True))
    sens = f'{a.work}/{model}_sens.json'
    if not os.path.exists(sens): lab.sensitivity(types.SimpleNamespace(model=gguf, capture=f'{a.work}/{model}_p0.safetensors', out=sens))
    return gguf, sens


def run(a, *args): return json.loads(subprocess.run([a.sluice, *args, '--json'], check=True, capture_output=True, text=True).stdout)


def at_kl(points, kl):
    """b/el where log KL, linear between levels, reaches kl."""
    p = sorted(points)
    i = next((i for i in range(1, len(p)) if p[i][1] <= kl), len(p) - 1)
    (b0, k0), (b1, k1) = p[i - 1], p[i]
    return b0 + (b1 - b0) * (math.log(k0) - math.log(kl)) / (math.log(k0) - math.log(k1))


def judge(a, lab, model, variant, options, codec='standard', sensitivity=True):
    gguf, sens = prepare(a, lab, model)
    w, eval_ = a.work, f'{a.work}/{model}_eval.safetensors'
    profile, slc, back = (f'{w}/{model}_{variant}.{x}' for x in ('profile', 'slc', 'safetensors'))
    calibration = ['calibrate', *options, '-o', profile, '--threads', '2']
    if '--shape-only' in options: calibration += [eval_]
    else: calibration += (['--sensitivity', sens] if sensitivity else []) + [f'{w}/{model}_{t}.safetensors' for t in ORDER]
    c = run(a, *calibration)
    run(a, 'encode', '-p', profile, '--codec', codec, '--chunk-tokens', '256', eval_, '-o', slc)
    info = run(a, 'info', slc)
    levels = []
    for l in info['levels']:
        run(a, 'truncate', '--level', str(l['level']), slc, '-o', slc + '.cut')
        run(a, 'decode', '-p', profile, slc + '.cut', '-o', back)
        q = json.loads(subprocess.run([sys.executable, a.lab, 'evaluate', gguf, eval_, back], check=True, capture_output=True, text=True).stdout)
        levels.append(dict(level=l['level'], bytes=os.path.getsize(slc + '.cut'), bits_per_value=8 * os.path.getsize(slc + '.cut') / (info['raw_bytes'] / 2), ratio=info['raw_bytes'] / os.path.getsize(slc + '.cut'), **q))
        print(model, variant, levels[-1], flush=True)
    points = [(l['bits_per_value'], l['kl']) for l in levels]
    r = dict(model=NAMES[model], variant=variant, codec=codec, levels=levels, expected_loss=c['expected_loss'], profile_bytes=c['bytes'])
    if len(points) > 1: r['bits_per_value_at_kl_0.010'] = at_kl(points, 0.010)
    return r


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for n in ('lab', 'models', 'text', 'code', 'work'): p.add_argument('--' + n, required=True)
    p.add_argument('--sluice', default='build/bin/sluice'); p.add_argument('--out', default='bench/results/quality.json')
    p.add_argument('--only', default='smol,qwen,gemma')
    a = p.parse_args()
    sys.path.insert(0, os.path.dirname(os.path.abspath(a.lab)))
    import kvlab
    results = []
    for m in a.only.split(','):
        results.append(judge(a, kvlab, m, 'standard', []))
        if m == 'smol':
            results.append(judge(a, kvlab, m, 'per_head', ['--heads-per-basis', '1']))
            results.append(judge(a, kvlab, m, 'no_sensitivities', [], sensitivity=False))
            results.append(judge(a, kvlab, m, 'uncalibrated', ['--shape-only']))
            for c in ('plain8', 'plain4', 'fixed4'): results.append(judge(a, kvlab, m, c, [], codec=c))
        json.dump(dict(context_tokens=1024, suffix_tokens=256, chunk_tokens=256, calibration_tokens=12288, results=results), open(a.out, 'w'), indent=1)
