#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Asks models for needles in restored caches, at every level of each preset; writes bench/results/needles.json.

    bench/needles.py --models DIR --texts TEXTS --work DIR [--engine build/bin/engine] [--only smol,qwen] [--needles 40]

DIR of --models holds {smol,qwen,gemma}.gguf. Profiles are those of bench/quality.py (--texts, --work), made where they are
not there. Haystacks are of the texts of bench/judging, 1,024 to 4,096 tokens, needles at depths from 0 to 100 %. A needle
counts as found where the greedy answer has the secret number in it. The file keeps what it says of models that --only
leaves out.
"""
import json, os, pathlib

from quality import NAMES, ROOT, SET, arguments, cpu, profile, run


if __name__ == '__main__':
    p = arguments(__doc__, 'smol,qwen')
    p.add_argument('--needles', type=int, default=40)
    p.add_argument('--out', default=ROOT / 'bench/results/needles.json', type=pathlib.Path)
    a = p.parse_args()
    models = {m['name']: m for m in (json.loads(a.out.read_text())['models'] if a.out.exists() else [])}
    for m in a.only.split(','):
        path, made = profile(a, m, '--predict')
        found = run(a, 'quality', f'{a.models}/{m}.gguf', *SET, '--profile', path, '--codec', 'standard,balanced,smallest', '--windows', 0, '--needles', a.needles)['needles']
        models[NAMES[m]] = dict(name=NAMES[m], calibration=made, needles=found)
        for c in found['codecs']:
            print(f"{NAMES[m]} {c['codec']}: {100 * found['exact_score']:.0f} % with the exact cache,", ', '.join(f"{100 * l['score']:.0f} % at level {l['level']}" for l in c['levels']), flush=True)
        in_order = [models[n] for n in NAMES.values() if n in models]
        a.out.write_text(json.dumps(dict(script='bench/needles.py', machine=dict(cpu=cpu(), cores=os.cpu_count()), set=[str(s.relative_to(ROOT)) for s in SET], models=in_order), indent=1))
