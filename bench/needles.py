#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Calibrates models with the engine and asks them for needles at every level; writes bench/results/needles.json.

    bench/needles.py --models DIR --text TEXT --code DIR --work DIR [--engine build/bin/engine] [--only qwen,smol]

DIR holds {smol,qwen,gemma}.gguf. Calibration: twelve windows of 1,024 tokens, eight pieces of TEXT behind its first fifth
and four of Python sources (--code: a folder of the standard library). Judged on the first fifth of TEXT: KL, perplexity
and bits per value on four windows, and needles of 1,024 to 4,096 tokens at depths from 0 to 100 %. A needle counts as
found where the greedy answer has the secret number in it. Profiles in --work are reused.
"""
import argparse, json, os, pathlib, subprocess

NAMES = {'smol': 'SmolLM2-135M-Instruct', 'qwen': 'Qwen2.5-0.5B-Instruct', 'gemma': 'Gemma-3-270m-it'}
SOURCES = ('argparse.py', 'zipfile.py', 'statistics.py', 'heapq.py')

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for n in ('models', 'text', 'code', 'work'): p.add_argument('--' + n, required=True)
p.add_argument('--engine', default='build/bin/engine')
p.add_argument('--out', default='bench/results/needles.json')
p.add_argument('--only', default='qwen,smol')
p.add_argument('--needles', type=int, default=40)
p.add_argument('--windows', type=int, default=4)
a = p.parse_args()

work = pathlib.Path(a.work)
text = pathlib.Path(a.text).read_text(encoding='utf-8')
prose = [text[int(len(text) * (0.2 + 0.095 * i)):][:7000] for i in range(8)]
code = [(pathlib.Path(a.code) / name).read_text(encoding='utf-8')[4000:9500] for name in SOURCES]
order = [prose[0], code[0], prose[1], prose[2], code[1], prose[3], prose[4], code[2], prose[5], prose[6], code[3], prose[7]]
(work / 'calibration.txt').write_text('\n'.join(order), encoding='utf-8')
(work / 'judged.txt').write_text(text[:int(len(text) * 0.19)], encoding='utf-8')


def run(*words):
    shown = ' '.join(str(w) if str(w).startswith('-') else pathlib.Path(str(w)).name for w in words)
    return shown, json.loads(subprocess.run([*map(str, words), '--json'], check=True, capture_output=True, text=True).stdout)


def cpu():
    with open('/proc/cpuinfo') as f: return next((l.split(':', 1)[1].strip() for l in f if l.startswith('model name')), 'unknown')


results = []
for m in a.only.split(','):
    model, profile, report = f'{a.models}/{m}.gguf', work / f'{m}.profile', work / f'{m}_calibration.json'
    if not (profile.exists() and report.exists()):
        command, made = run(a.engine, 'calibrate', model, work / 'calibration.txt', '-o', profile)
        report.write_text(json.dumps(dict(command=command, **made)))
    calibration = json.loads(report.read_text())
    command, judged = run(a.engine, 'quality', model, work / 'judged.txt', '--profile', profile, '--windows', a.windows, '--needles', a.needles)
    keep = ('command', 'fingerprint', 'tokens', 'expected_loss', 'seconds')
    results.append(dict(name=NAMES[m], command=command, calibration={k: calibration[k] for k in keep}, **judged))
    n = judged['needles']
    print(f"{NAMES[m]}: {100 * n['exact_score']:.0f} % with the exact cache,", ', '.join(f"{100 * l['score']:.0f} % at level {l['level']}" for l in n['codecs'][0]['levels']), flush=True)
    json.dump(dict(script='bench/needles.py', machine=dict(cpu=cpu(), cores=os.cpu_count()), text=os.path.basename(a.text), models=results), open(a.out, 'w'), indent=1)
