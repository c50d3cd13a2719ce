#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the README's tables from bench/results/*.json, between the markers <!-- name --> and <!-- /name -->.

    bench/tables.py            quality.json: bench/quality.py; demo.json: what cmake -P cmake/demo.cmake leaves in build/demo;
                               codec.json: sluice-bench; resume.json: bench/resume.py; needles.json: bench/needles.py; prefill.json: examples/engine/tests/against_llama_cpp.py
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
    d = json.loads(read('demo.json'))
    m = d['machine']
    rows = [[f"`{c['name']}`" if not c['name'].startswith(('level', 'zstd')) else c['name'], f"{c['bits_per_value']:.2f}", f"{c['ratio']:.2f}", f"{c['encode_gb_per_s']:.2f}", f"{c['decode_gb_per_s']:.2f}"] for c in d['codecs']]
    return (f"From the demo (its sample of 256 tokens, so four exact tokens weigh four times as much as above): GB/s of f16, {d['speeds']}; {m['cpu']}, {m['instructions']}, {m['compiler']}. "
            "Decoding goes into pages of 16 tokens through a shuffled block table; `raw` is memcpy.\n\n"
            + table(['', 'bits per value', 'times smaller', 'encode', 'decode'], rows) + '\n\n' + instruction_sets())


def instruction_sets():
    b = {x['name']: x.get('bytes_per_second', 0) / 1e9 for x in json.loads(read('codec.json'))['benchmarks']}
    rows = [[f'{width} channels', isa] + [f"{b[f'decode/standard/basis_{width}/level_{l}/{isa}']:.2f}" for l in range(4)] + ([f"{b[f'encode/standard/basis_192/levels_{n}/{isa}']:.2f}" for n in (2, 4)] if width == 192 else ['', ''])
            for width in (64, 192) for isa in ('avx512', 'avx2')]
    return ('The same codec by width of the basis and instruction set, from sluice-bench (bench/results/codec.json, same machine; zstd -1 decodes '
            f"{b['decode/zstd/1']:.2f} and memcpy {b['memcpy']:.1f} there):\n\n"
            + table(['basis over', 'instructions', 'decode level 0', 'level 1', 'level 2', 'level 3', 'encode to level 1', 'to level 3'], rows))


def resume():
    d = json.loads(read('resume.json'))
    levels = [l['level'] for l in d['documents'][0]['levels']]
    cell = lambda l: f"{1e3 * l['first_token_seconds']:.0f} ms ({l['times_sooner']:.1f}×)"
    rows = [[str(r['tokens']), f"{1e3 * r['prefill_seconds']:.0f} ms"] + [cell(l) for l in r['levels']] for r in d['documents']]
    q = {l['level']: l for l in d['quality']['suffix']['levels']}
    rows.append(['bits per value', '16'] + [f"{q[l]['bits_per_value']:.2f}" for l in levels])
    rows.append(['KL, top-1 (2,048 tokens)', '0, 100 %'] + [f"{q[l]['kl']:.4f}, {100 * q[l]['top1']:.1f} %" for l in levels])
    m = d['machine']
    return (f"SmolLM2-135M, time to the first token of the answer; {m['cpu']}, {m['cores']} cores, medians of {d['runs']} runs, the model loaded on both sides:\n\n"
            + table(['tokens of the document', 'computed'] + [f'level {l}' for l in levels], rows) + '\n\n![Time to first token against document length](bench/results/resume.svg)')


def needles():
    d = json.loads(read('needles.json'))
    rows = []
    for m in d['models']:
        n = m["needles"]
        rows.append([m['name'], f"{100 * n['exact_score']:.0f} %"] + [f"{100 * l['score']:.0f} %" for l in n['levels']])
    n = d['models'][0]['needles']
    return table(['needles found', 'exact cache'] + [f"level {l['level']}" for l in n['levels']], rows)


def streaming():
    d = json.loads(read('streaming.json'))
    share = d['main_kv_share']
    rows = []
    for p in ['always_raw', 'always_recompute', 'cachegen', 'cachegen_released', 'cake', 'kvserve', 'robust_mpc', 'bola', 'progressive', 'progressive_cake', 'oracle']:
        r = [x for x in d['results'] if (x['policy'], x['group'], x['kv_share']) == (p, 'all', share)]
        n = sum(x['requests'] for x in r)
        mean = lambda key: sum(x[key] * x['requests'] for x in r) / n
        rows.append([f'`{p}`'] + [f"{100 * sum(x['misses'] for x in r if x['deadline_s'] == t) / sum(x['requests'] for x in r if x['deadline_s'] == t):.1f} %" for t in (0.25, 0.5, 1, 2)]
                    + [f"{mean('mean_loss_nats'):.4f}", f"{100 * mean('slower_than_raw_and_recompute'):.1f} %"])
    a = [x for x in d['acceptance'] if x['kv_share'] == share]
    bound = lambda t: 100 * sum(x['misses']['bound'] for x in a if x['deadline_s'] == t) / sum(x['requests'] for x in a if x['deadline_s'] == t)
    rows.append(['what nobody can beat'] + [f'{bound(t):.1f} %' for t in (0.25, 0.5, 1, 2)] + [f"{sum(x['mean_loss_nats']['bound'] for x in a) / len(a):.4f}", ''])
    return (f"Simulated: {d['links']} link traces ({', '.join(f'{n} {g}' for g, n in d['groups'].items())}), {d['requests_per_link']} requests on each, {len(d['shapes'])} model shapes ({', '.join(s['name'] for s in d['shapes'])}); each group's rates are scaled so that its mean is "
            f"{share:g} of the rate at which the engine computes cache. Cells are shares of missed deadlines; loss is the mean over all requests, in nats, with the levels measured above; a policy that misses its deadline to compute loses none. "
            "The last column is the share of requests that came more than a chunk later than the better of raw and recompute. `bench/streaming/report.py` draws the rest.\n\n"
            + table(['', '0.25 s', '0.5 s', '1 s', '2 s', 'loss', 'slower'], rows))


def prefill():
    d = json.loads(read('prefill.json'))
    return (', '.join(f"{r['engine']:.0f} tokens a second over {r['tokens']} tokens ({r['ratio']:.1f} times llama.cpp's {r['llama_cpp']:.0f})" for r in d['prefill'])
            + f"; SmolLM2 in Q4_1, {d['threads']} threads, llama-cpp-python {d['llama_cpp_python']} built for the same machine, 8-bit products on both sides")


readme = os.path.join(ROOT, 'README.md')
text = open(readme, encoding='utf-8').read()
a, v = quality()
tables = dict(quality=a, variants=v, speed=speed())
for name, make in dict(resume=resume, needles=needles, prefill=prefill, streaming=streaming).items():
    if os.path.exists(os.path.join(ROOT, 'bench/results', name + '.json')): tables[name] = make()
for name, body in tables.items():
    text = re.sub(f'<!-- {name} -->.*?<!-- /{name} -->', lambda _: f'<!-- {name} -->\n{body}\n<!-- /{name} -->', text, flags=re.S)
open(readme, 'w', encoding='utf-8').write(text)
