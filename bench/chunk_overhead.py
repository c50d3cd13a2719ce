#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What cutting a context into frames of few tokens costs: bytes by what they are for, at every chunk size.

    bench/chunk_overhead.py [--sluice build/bin/sluice] [--out bench/results/chunk_overhead.json]

The context is the committed sample (256 tokens of SmolLM2-135M) under its committed profile, codec `standard`. Frames are
made with all passes and cut after level 1; `more` is the growth over one frame of all 256 tokens at the same level.
"""
import argparse, json, os, platform, subprocess, tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CHUNKS = (16, 32, 64, 128, 256)


def run(*command):
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(sluice, folder, chunk):
    data, whole, cut = f'{ROOT}/test/data', f'{folder}/whole.slc', f'{folder}/cut.slc'
    run(sluice, 'encode', f'{data}/smollm2_sample.safetensors', '-p', f'{data}/smollm2.profile', '-o', whole,
        '--chunk-tokens', str(chunk), '--json')
    run(sluice, 'truncate', whole, '-o', cut, '--level', '1', '--json')
    rows = []
    for level, path in (('1', cut), ('all', whole)):
        i = run(sluice, 'info', path, '--json')
        rows.append({'chunk_tokens': chunk, 'level': level, 'bytes': i['bytes'], 'bits_per_value': i['bits_per_value'],
                     'overhead': i['overhead'], 'payload': i['payload']})
    return rows


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--sluice', default=f'{ROOT}/build/bin/sluice')
    p.add_argument('--out')
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder: rows = [r for c in CHUNKS for r in measure(a.sluice, folder, c)]
    whole = {r['level']: r['bytes'] for r in rows if r['chunk_tokens'] == CHUNKS[-1]}
    parts = ('headers_and_index', 'tile_heads', 'coder_states')
    print('level  tokens    bytes    more     index    heads   states    codes    other')
    for r in sorted(rows, key=lambda r: r['level']):
        r['more'] = r['bytes'] / whole[r['level']] - 1
        part = [r['overhead'][k] for k in parts] + [r['payload']['class_rans']['codes']]
        print(f"{r['level']:>5} {r['chunk_tokens']:7} {r['bytes']:8} {100 * r['more']:+6.2f} %",
              *(f'{n:8}' for n in part + [r['bytes'] - sum(part)]))
    cpu = next((l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')), platform.machine())
    if a.out:
        with open(a.out, 'w') as out:
            json.dump({'script': 'bench/chunk_overhead.py', 'machine': {'cpu': cpu, 'cores': os.cpu_count()},
                       'results': rows}, out, indent=1)
            out.write('\n')
