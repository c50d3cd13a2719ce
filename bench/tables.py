#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the README's tables from bench/results/*.json, between the markers <!-- name --> and <!-- /name -->.

    bench/tables.py            quality.json: bench/quality.py; codec.json: build/bin/sluice-bench --benchmark_filter='^(encode|decode|memcpy)'
                               --benchmark_out=bench/results/codec.json --benchmark_out_format=json; machine.txt: lscpu's model name
"""
import json, os, re

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
read = lambda n: open(os.path.join(ROOT, 'bench/results', n), encoding='utf-8').read()


def table(head, rows): return '\n'.join(['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)] + ['| ' + ' | '.join(r) + ' |' for r in rows])


def quality():
    q = json.loads(read('quality.json'))['results']
    main = [r for r in q if r['variant'] == 'standard']
    cell = lambda l: f"{l['bits_per_value']:.2f} @ {l['kl']:.4f}, top-1 {100 * l['top1']:.1f} %"
    a = table(['bits per value @ KL', 'level 0', 'level 1', 'level 2', 'level 3', 'at KL 0.010 (interpolated)'],
              [[r['model']] + [cell(l) for l in r['levels']] + [f"**{r['bits_per_value_at_kl_0.010']:.2f}** ({16 / r['bits_per_value_at_kl_0.010']:.1f} times smaller)"] for r in main])
    names = dict(standard='standard: one basis for all heads, measured sensitivities', per_head='one basis per head', no_sensitivities='no sensitivities given (estimated from queries)',
                 uncalibrated='no calibration', plain8='`plain8`: 8 bits, range per channel and tile', plain4='`plain4`: 4 bits', fixed4='`fixed4`: 4 bits in the calibrated basis')
    rows = []
    for r in q:
        if r['model'] != 'SmolLM2-135M': continue
        k = f"{r['bits_per_value_at_kl_0.010']:.2f}" if 'bits_per_value_at_kl_0.010' in r else '-'
        rows.append([names[r['variant']], ' · '.join(f"{l['bits_per_value']:.2f} @ {l['kl']:.4f}" for l in r['levels']), k])
    return a, table(['', 'bits per value @ KL, levels 0-3', 'at KL 0.010'], rows)


def speed():
    b = {x['name']: x for x in json.loads(read('codec.json'))['benchmarks'] if x.get('run_type') != 'aggregate' or x.get('aggregate_name') == 'median'}
    rate = lambda n: next((f"{b[k]['bytes_per_second'] / 1e9:.2f}" for k in (n, n + '_median') if k in b), '-')
    rows = []
    for label, path in (('decode, level 0', 'decode/standard/{}/level_0/{}'), ('decode, level 1', 'decode/standard/{}/level_1/{}'), ('decode, level 3', 'decode/standard/{}/level_3/{}')):
        for basis in ('basis_64', 'basis_192'):
            rows.append([f"{label}, {basis[6:]} channels a basis"] + [rate(path.format(basis, i)) for i in ('avx512', 'avx2', 'portable')])
    for levels, name in ((2, 'encode to level 1'), (4, 'encode, all levels')):
        rows.append([f"{name}, 192 channels a basis"] + [rate(f'encode/standard/basis_192/levels_{levels}/{i}') for i in ('avx512', 'avx2', 'portable')])
    rivals = [[n, rate(f'encode/{k}'), rate(f'decode/{k}')] for n, k in (('`exact` (lossless)', 'exact'), ('`raw`', 'raw'), ('`plain4`', 'plain4'), ('`fixed4`', 'fixed4'), ('zstd level 1', 'zstd/1'), ('zstd level 3', 'zstd/3'))]
    machine = read('machine.txt').strip()
    return (f"GB/s of f16 cache, one thread, {machine}; into vLLM pages of 16 tokens through a shuffled block table.\n\n"
            + table(['`standard`', 'AVX-512', 'AVX2', 'portable'], rows) + '\n\n'
            + table(['in the same run', 'encode', 'decode'], rivals + [['memcpy', rate('memcpy'), rate('memcpy')]]))


readme = os.path.join(ROOT, 'README.md')
text = open(readme, encoding='utf-8').read()
a, v = quality()
for name, body in dict(quality=a, variants=v, speed=speed()).items():
    text = re.sub(f'<!-- {name} -->.*?<!-- /{name} -->', lambda _: f'<!-- {name} -->\n{body}\n<!-- /{name} -->', text, flags=re.S)
open(readme, 'w', encoding='utf-8').write(text)
