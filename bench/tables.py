#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of README.md and bench/README.md from bench/results/*.json, between the markers <!-- name --> and <!-- /name -->.

    bench/tables.py [--check]      --check writes nothing and exits with 1 where a table differs

bench/README.md says which command makes which file of bench/results.
"""
import json, os, re, sys

from quality import at_kl

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
read = lambda n: open(os.path.join(ROOT, 'bench/results', n), encoding='utf-8').read()


def table(head, rows): return '\n'.join(['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)] + ['| ' + ' | '.join(r) + ' |' for r in rows])


def result():
    q = json.loads(read('quality.json'))['results']
    models = list(dict.fromkeys(r['model'] for r in q))
    of = {(r['model'], r['variant']): r for r in q}
    rows = []
    for preset in ('standard', 'balanced', 'smallest'):
        for i in range(len(of[models[0], preset]['levels'])):
            l = [of[m, preset]['levels'][i] for m in models]
            rows.append([f'`{preset}`, level {i}'] + [f"{x['bits_per_value']:.2f}, {x['kl']:.4f} ({x['worst_kl']:.4f}), {100 * x['top1']:.1f} %" for x in l])
    for preset, i in (('balanced', 1), ('smallest', 0)):
        l = [of[m, 'measured ' + preset]['levels'][i] for m in models]
        rows.append([f'`{preset}`, level {i}, steps measured on the document'] + [f"{x['bits_per_value']:.2f}, {x['kl']:.4f} ({x['worst_kl']:.4f}), {100 * x['top1']:.1f} %" for x in l])
    for preset in ('standard', 'balanced'):
        rows.append([f'`{preset}` at KL 0.010, interpolated'] + [f"**{of[m, preset]['bits_per_value_at_kl_0.010']:.2f}**" for m in models])
    for preset in ('balanced', 'smallest'):
        share = [of[m, preset]['bytes_of_standard'] for m in models]
        rows.append([f'`{preset}`: bytes of `standard` at equal KL (worst text)'] + [f"**{100 * x['mean']:.0f} %** ({100 * x['worst']:.0f} %)" for x in share])
    return table(['bits per value, KL (worst text), top-1'] + models, rows)


def speed_line():
    d = json.loads(read('demo.json'))
    c = {c['name']: c for c in d['codecs']}
    return (f"One thread of an {d['machine']['cpu']} ({d['machine']['instructions']}) decodes level 1 of `balanced` into pages at {c['level 1']['decode_gb_per_s']:.2f} GB of f16 cache a second "
            f"and encodes all levels at {c['level 3']['encode_gb_per_s']:.2f}.")


NAMED = {
    'plain8': '8 bits, range per channel and tile', 'plain4': '4 bits, the same', 'fixed4': '4 bits in the calibrated basis', 'fp8': 'a cast to e4m3', 'int8': '8 bits, a scale for each token and head', 'int4': '4 bits, the same',
    'kivi4': 'KIVI, 4 bits', 'kivi2': 'KIVI, 2 bits', 'turboquant4': 'TurboQuant, 4 bits', 'turboquant3': 'TurboQuant, 3 bits', 'kvquant4': 'KVQuant, 4 bits', 'kvquant3': 'KVQuant, 3 bits',
    'cachegen_released_fine': "CacheGen's code, level 3", 'cachegen_released': 'level 2', 'cachegen_released_coarse': 'level 1', 'cachegen_released_1024': 'level 2, tables of 1,024 tokens',
    'cachegen_paper_fine': "CacheGen's paper, bins of half the width", 'cachegen_paper': "CacheGen's paper", 'cachegen_paper_coarse': "CacheGen's paper, bins of twice the width",
    'kvtc8': 'KVTC, 8 times', 'kvtc16': 'KVTC, 16 times', 'kvtc32': 'KVTC, 32 times', 'aatc4': 'AATC, 4 bits', 'aatc3': 'AATC, 3 bits', 'aatc2': 'AATC, 2 bits'}


# Bits per value that levels need to lose no more than kl: between two of them log KL is linear; where the coarsest loses less,
# it takes all there is to take. None where the finest loses more.
def enough(levels, kl):
    if kl >= levels[0]['kl']: return levels[0]['bits_per_value']
    return at_kl(levels, kl) if kl >= levels[-1]['kl'] else None


def rivals():
    q = json.loads(read('quality.json'))['results']
    models = list(dict.fromkeys(r['model'] for r in q))
    of = {(r['model'], r['variant']): r for r in q}

    def cell(m, name):
        if (m, name) not in of: return ''
        l = of[m, name]['levels'][0]
        times = [f'{l["bits_per_value"] / n:.1f}' if (n := enough(of[m, c]['levels'], l['kl'])) else '-' for c in ('standard', 'balanced', 'smallest')]
        return f"{l['bits_per_value']:.2f} @ {l['kl']:.4f} ({l['worst_kl']:.4f}): {' / '.join(times)}"

    rows = [[f'`{n}`: {what}'] + [cell(m, n) for m in models] for n, what in NAMED.items() if any((m, n) in of for m in models)]
    return table(['bits per value @ KL (worst text): times the bytes of `standard` / `balanced` / `smallest`'] + models, rows)


# What rivals take of the bytes that ours take at the same loss: the least and the most over models.
def rivals_line():
    q = json.loads(read('quality.json'))['results']
    of = {(r['model'], r['variant']): r for r in q}
    models = list(dict.fromkeys(r['model'] for r in q))
    def times(names, codec):
        found = []
        for m in models:
            levels = of[m, codec]['levels']
            points = [of[m, n]['levels'][0] for n in names if (m, n) in of]
            found += [min(l['bits_per_value'] / n for l in points if (n := enough(levels, l['kl'])))] if points else []
        low, high = f'{min(found):.1f}', f'{max(found):.1f}'
        return low if low == high else f'{low} to {high}'
    released = ('cachegen_released_fine', 'cachegen_released', 'cachegen_released_coarse')
    fixed = ('int8', 'int4', 'fp8', 'kivi4', 'kivi2', 'turboquant4', 'turboquant3', 'plain8', 'plain4')
    calibrated = ('cachegen_paper_fine', 'cachegen_paper', 'cachegen_paper_coarse', 'kvtc8', 'kvtc16', 'kvtc32', 'kvquant4', 'kvquant3', 'aatc4', 'aatc3', 'aatc2')
    on = sorted({r['model'] for r in q if r['variant'] in released})
    return (f"On {', '.join(on)}, at the same KL, the best level of CacheGen's released code takes {times(released, 'standard')} times the bytes of `standard` and {times(released, 'balanced')} times those of `balanced`; "
            f"the best method of a fixed rate that needs no calibration {times(fixed, 'standard')} and {times(fixed, 'balanced')} times; "
            f"the best of those that are calibrated {times(calibrated, 'standard')} and {times(calibrated, 'balanced')} times.")


def rival_speeds():
    q = [r for r in json.loads(read('quality.json'))['results'] if r['model'] == 'SmolLM2-135M' and 'encode_gb_per_second' in r and r['variant'] in NAMED]
    return f"{', '.join(dict.fromkeys(r['machine'] for r in q))}.\n\n" + table(['SmolLM2-135M, one thread', 'encode, GB/s', 'decode, GB/s', 'error of attention', 'top-1'],
                 [[f"`{r['variant']}`", f"{r['encode_gb_per_second']:.2f}", f"{l['decode_gb_per_second']:.2f}", f"{100 * l['attention_error']:.2f} %", f"{100 * l['top1']:.1f} %"] for r in q for l in r['levels'][:1]])


def variants():
    q = json.loads(read('quality.json'))['results']
    names = {p: f'`{p}`' for p in ('standard', 'balanced', 'smallest')} | {
                 'no_sensitivities standard': '`standard`, no sensitivities given (estimated from queries)', 'uncalibrated standard': '`standard`, no calibration',
                 'measured balanced': '`balanced`, steps measured on the document', 'measured smallest': '`smallest`, steps measured on the document'} | {
                 f'{domain}_only {preset}': f'`{preset}`, calibrated on 10 windows of {domain} alone' for domain in ('prose', 'code') for preset in ('balanced', 'smallest')}
    rows = []
    for r in q:
        same = [l['equal_tokens'] for l in r['levels'] if 'equal_tokens' in l]
        if r['model'] != 'SmolLM2-135M' or r['variant'] not in names and not same: continue
        k = f"{r['bits_per_value_at_kl_0.010']:.2f}" if 'bits_per_value_at_kl_0.010' in r else '-'
        name = names.get(r['variant']) or f"`{r['variant']}`: {NAMED[r['variant']]}"
        rows.append([name, ' · '.join(f"{l['bits_per_value']:.2f} @ {l['kl']:.4f}" for l in r['levels']), k, ' · '.join(f'{100 * x:.0f} %' for x in same)])
    return table(['SmolLM2-135M', 'bits per value @ KL by level', 'bits per value at KL 0.010', 'tokens of continuations that stay'], rows)


def speed():
    d = json.loads(read('demo.json'))
    m = d['machine']
    rows = [[f"`{c['name']}`" if not c['name'].startswith(('level', 'zstd')) else c['name'], f"{c['bits_per_value']:.2f}", f"{c['ratio']:.2f}", f"{c['encode_gb_per_s']:.2f}", f"{c['decode_gb_per_s']:.2f}"] for c in d['codecs']]
    return (f"From `cmake -P cmake/demo.cmake` (demo.json). GB/s of f16; {d['speeds']}. {m['cpu']}, {m['instructions']}, {m['compiler']}.\n\n"
            + table(['', 'bits per value', 'times smaller', 'encode', 'decode'], rows) + '\n\n' + instruction_sets())


def instruction_sets():
    b = {x['name']: x.get('bytes_per_second', 0) / 1e9 for x in json.loads(read('codec.json'))['benchmarks']}
    rows = [[f'{width} channels', isa] + [f"{b[f'decode/standard/basis_{width}/level_{l}/{isa}']:.2f}" for l in range(4)] + ([f"{b[f'encode/standard/basis_192/levels_{n}/{isa}']:.2f}" for n in (2, 4)] if width == 192 else ['', ''])
            for width in (64, 192) for isa in ('avx512', 'avx2')]
    presets = [[f'`{p}`', f"{b[f'encode/{p}']:.3f}"] + [f"{b[f'decode/{p}/level_{l}']:.3f}" if f'decode/{p}/level_{l}' in b else '' for l in range(4)] for p in ('balanced', 'smallest')]
    best = next(i for i in ('avx512', 'avx2') if f'encode/standard/basis_192/levels_4/{i}' in b)
    presets.insert(0, ['`standard`', f"{b[f'encode/standard/basis_192/levels_4/{best}']:.3f}"] + [f"{b[f'decode/standard/basis_192/level_{l}/{best}']:.3f}" for l in range(4)])
    return (f"From `sluice-bench` (codec.json): `standard` by width of the basis and instruction set. {json.loads(read('codec.json'))['context']['cpu']}. "
            f"In the same run zstd -1 decodes {b['decode/zstd/1']:.2f} GB/s and memcpy copies {b['memcpy']:.1f}.\n\n"
            + table(['basis over', 'instructions', 'decode level 0', 'level 1', 'level 2', 'level 3', 'encode to level 1', 'to level 3'], rows)
            + '\n\nThe three presets with levels, in the same run, all heads in one basis; the profile is one that `engine calibrate --predict` made.\n\n'
            + table(['preset', 'encode all levels', 'decode level 0', 'level 1', 'level 2', 'level 3'], presets))


# Of the first codec that `engine quality` judged; older files know of one.
def levels_in(judged): return judged['levels'] if 'levels' in judged else judged['codecs'][0]['levels']


def resume():
    d = json.loads(read('resume.json'))
    levels = [l['level'] for l in d['documents'][0]['levels']]
    cell = lambda l: f"{1e3 * l['first_token_seconds']:.0f} ms ({l['times_sooner']:.1f}×)"
    rows = [[str(r['tokens']), f"{1e3 * r['prefill_seconds']:.0f} ms"] + [cell(l) for l in r['levels']] for r in d['documents']]
    q = {l['level']: l for l in levels_in(d['quality']['suffix'])}
    rows.append(['bits per value', '16'] + [f"{q[l]['bits_per_value']:.2f}" for l in levels])
    rows.append(['KL, top-1 (2,048 tokens)', '0, 100 %'] + [f"{q[l]['kl']:.4f}, {100 * q[l]['top1']:.1f} %" for l in levels])
    m = d['machine']
    return (f"SmolLM2-135M; {m['cpu']}, {m['cores']} cores; medians of {d['runs']} runs.\n\n"
            + table(['tokens of the document', 'computed'] + [f'level {l}' for l in levels], rows) + '\n\n![Time to first token against document length](results/resume.svg)')


def needles():
    d = json.loads(read('needles.json'))
    rows = []
    for m in d['models']:
        n = m["needles"]
        for c in n['codecs']:
            scores = [f"{100 * l['score']:.0f} %" for l in c['levels']]
            rows.append([f"{m['name']}, `{c['codec']}`, {n['needles']} needles", f"{100 * n['exact_score']:.0f} %"] + scores + [''] * (4 - len(scores)))
    return table(['needles found', 'exact cache'] + [f'level {i}' for i in range(4)], rows)


def long_context():
    d = json.loads(read('long_context.json'))
    both = lambda s, key, digits: f"{s[f'{key}_1024']:.{digits}f} → {s[f'{key}_8192']:.{digits}f}"
    return table(['the last 1,024 → all 8,192 tokens of a context', 'bits per value', 'KL', 'times', 'top-1'],
                 [[f"`{s['codec']}`, level {s['level']}", both(s, 'bits_per_value', 2), both(s, 'kl', 4), f"{s['kl_8192'] / s['kl_1024']:.2f}", f"{100 * s['top1_1024']:.1f} → {100 * s['top1_8192']:.1f} %"] for s in d['summary']])


# Policies as the tables call them.
def policy_name(p): return {'bound': 'lower bound', 'cachegen_own_codec': '`cachegen`, its own codec', 'cake_level_0': '`cake` at level 0', 'cake_level_1': '`cake` at level 1'}.get(p, f'`{p}`')


def streaming():
    d = json.loads(read('streaming.json'))
    share = d['main_kv_share']
    rows = []
    for p in ['always_raw', 'always_recompute', 'cachegen', 'cachegen_own_codec', 'cachegen_released', 'cake', 'cake_level_0', 'cake_level_1', 'cake_levels', 'kvserve', 'robust_mpc', 'bola', 'progressive', 'progressive_cake', 'oracle']:
        r = [x for x in d['results'] if (x['policy'], x['group'], x['kv_share']) == (p, 'all', share)]
        n = sum(x['requests'] for x in r)
        mean = lambda key: sum(x[key] * x['requests'] for x in r) / n
        rows.append([policy_name(p)] + [f"{100 * sum(x['misses'] for x in r if x['deadline_s'] == t) / sum(x['requests'] for x in r if x['deadline_s'] == t):.1f} %" for t in (0.25, 0.5, 1, 2)]
                    + [f"{mean('mean_loss_nats'):.4f}", f"{100 * mean('slower_than_raw_and_recompute'):.1f} %"])
    a = [x for x in d['acceptance'] if x['kv_share'] == share]
    bound = lambda t: 100 * sum(x['misses']['bound'] for x in a if x['deadline_s'] == t) / sum(x['requests'] for x in a if x['deadline_s'] == t)
    rows.append(['lower bound'] + [f'{bound(t):.1f} %' for t in (0.25, 0.5, 1, 2)] + [f"{sum(x['mean_loss_nats']['bound'] for x in a) / len(a):.4f}", ''])
    assumed = [s['name'] for s in d['shapes'] if not s['decoder_measured']]
    return (f"{d['links']} link traces ({', '.join(f'{n} {g}' for g, n in d['groups'].items())}), {d['requests_per_link']} requests on each, {len(d['shapes'])} model shapes ({', '.join(s['name'] for s in d['shapes'])}). "
            f"The rates of each group of traces are scaled so that its mean is {share:g} of the rate at which the engine computes cache. "
            f"**{len(assumed)} of the {len(d['shapes'])} shapes ({', '.join(assumed)}) have an assumed GPU decoder that was never measured.**\n\n"
            + table(['', '0.25 s', '0.5 s', '1 s', '2 s', 'loss', 'slower'], rows))


# The README's first mention.
def streaming_line():
    d = json.loads(read('streaming.json'))
    def missed(p, deadline=1):
        r = [x for x in d['results'] if (x['policy'], x['group'], x['kv_share'], x['deadline_s']) == (p, 'all', d['main_kv_share'], deadline)]
        return f"{100 * sum(x['misses'] for x in r) / sum(x['requests'] for x in r):.1f} %"
    def loss(p):
        r = [x for x in d['results'] if (x['policy'], x['group'], x['kv_share']) == (p, 'all', d['main_kv_share'])]
        return f"{sum(x['mean_loss_nats'] for x in r) / len(r):.3f}"
    assumed = sum(not s['decoder_measured'] for s in d['shapes'])
    return (f"Simulated over {d['links']} link traces, a deadline of a second is missed by {missed('progressive_cake')} of the requests with `progressive_cake`, which lose {loss('progressive_cake')} nats over all deadlines; by {missed('cake_level_0')} with Cake at level 0 ({loss('cake_level_0')} nats); "
            f"by {missed('cachegen')} with CacheGen's policy on our levels ({loss('cachegen')}) and {missed('cachegen_own_codec')} with its own codec ({loss('cachegen_own_codec')}). {assumed} of the {len(d['shapes'])} model shapes have an assumed GPU decoder that was never measured.")


def shapes():
    d = json.loads(read('streaming.json'))
    def cell(s, p):
        r = [x for x in d['results'] if (x['shape'], x['policy'], x['group'], x['kv_share']) == (s['name'], p, 'all', d['main_kv_share'])]
        n = sum(x['requests'] for x in r)
        return f"{100 * sum(x['misses'] for x in r) / n:.1f} %, {sum(x['mean_loss_nats'] * x['requests'] for x in r) / n:.4f}"
    policies = ['cachegen', 'cachegen_own_codec', 'cake_level_0', 'cake_levels', 'progressive_cake']
    return table(['all deadlines', 'decoder, values a second'] + [policy_name(p) for p in policies],
                 [[s['name'], f"{s['decode_values_per_s'] / 1e9:g} x 10^9, {'measured, one thread of a CPU' if s['decoder_measured'] else 'assumed GPU, never measured'}"] + [cell(s, p) for p in policies] for s in d['shapes']])


def hostile():
    d = json.loads(read('streaming.json'))['hostile_links']
    of = {(r['family'], r['policy']): r for r in d['rows']}
    families = list(dict.fromkeys(r['family'] for r in d['rows']))
    rows = [[policy_name(p)] + [f"{100 * of[f, p]['misses'] / of[f, p]['requests']:.1f} %, {of[f, p]['mean_loss_nats']:.4f}" for f in families] + [f"{100 * d['misses'][p] / d['requests']:.1f} %"]
            for p in ('fixed_level_0', 'cachegen', 'cachegen_own_codec', 'cake_level_0', 'cake_levels', 'robust_mpc', 'progressive', 'progressive_cake', 'bound')]
    return (table([''] + families + ['all'], rows)
            + f"\n\nIn {d['cells_where_another_misses_two_fewer']} of {d['cells']} cells of ten links another policy (the oracle aside) misses two or more fewer than `progressive_cake`.")


def objectives():
    d = json.loads(read('streaming.json'))['objectives']
    rows = [[f"`{r['policy']}`", r['objective'] + (f" {r['value']:g}" if r['value'] else ''), f"{r['median_s']:.3f} s", f"{r['mean_loss_nats']:.4f}", f"{100 * r['misses'] / r['requests']:.1f} %"] for r in d['rows']]
    return table([f"{d['shape']}, {d['deadline_s']} s, share {d['kv_share']}", 'objective', 'median time', 'loss', 'missed'], rows)


def layerwise():
    d = json.loads(read('layerwise.json'))
    ways = [w['way'] for w in d['rows'][0]['ways'] if w['way'] != 'chunks']
    rows = []
    for r in d['rows']:
        of = {w['way']: w for w in r['ways']}
        rows.append([f"{r['megabits_per_second']} Mbit/s", str(r['question_tokens']), f"{1e3 * r['stream_seconds']:.0f} ms", f"{1e3 * r['question_seconds']:.0f} ms", f"{1e3 * of['chunks']['first_token_seconds']:.0f} ms"] + [f"{of[w]['of_chunks']:.2f}" for w in ways])
    m = d['machine']
    return (f"{d['tokens']} tokens of SmolLM2-135M at level {d['level']}; {m['cpu']}, {m['cores']} cores; {d['runs']} pairs.\n\n"
            + table(['link', 'tokens asked', 'document fetched in', 'question computed in', 'chunk by chunk'] + ways, rows))


def verify():
    d = json.loads(read('verify.json'))
    s = lambda x: f'{x:.2f} s'
    rows = []
    for r in d['rows']:
        draft = r['draft_level'] is not None
        rows.append([f"{r['megabits_per_second']} Mbit/s", f"drafted on level {r['draft_level']}" if draft else 'waits for the exact copy', s(r['first_drafted_seconds']) if draft else ''] +
                    [s(r[k]) for k in ('first_token_seconds', 'token_32_seconds', 'last_token_seconds')] + [f"{r['tokens_per_second']:.1f}"] +
                    ([f"{r['drafted']:.0f}, {r['accepted']:.0f}", f"{100 * r['acceptance']:.0f} %"] if draft else ['', '']) + [f"{r['same_answers']} of {r['answers']}"])
    m = d['machine']
    return (f"Documents of {d['document_tokens']} tokens, {d['tokens']} tokens answered; SmolLM2-135M; {m['cpu']}, {m['cores']} cores; medians.\n\n"
            + table(['link', 'answer', 'first drafted', 'first token', '32nd', 'last', 'tokens a second', 'drafted, accepted', 'accepted of all', 'same answer'], rows))


def hidden():
    d = json.loads(read('hidden.json'))
    of = {(c['payload'], c['codec']): c['levels'] for c in d['judged']['codecs']}
    cell = lambda levels: ' · '.join(f"{l['bits_per_value']:.2f} @ {l['kl']:.5f}" for l in levels)
    names = dict.fromkeys(c['codec'] for c in d['judged']['codecs'])
    codecs = table([d['judged']['model'], 'keys and values', 'hidden states'], [[f'`{n}`', cell(of['kv', n]), cell(of['hidden', n])] for n in names])
    rows = []
    for m in d['models']:
        kv, h = m['kv'], m['hidden']
        each = lambda b: f"{b / kv['tokens'] / 1000:.1f} kB"
        rows.append([m['model'], each(kv['exact_bytes']), each(h['exact_bytes']), f"{h['exact_bytes'] / kv['exact_bytes']:.2f}", f"{h['prefill_seconds']:.2f} s", f"{h['project_seconds']:.3f} s",
                     f"{100 * h['project_seconds'] / h['prefill_seconds']:.1f} %"])
    m = d['machine']
    return (codecs + f"\n\nA document of {d['models'][0]['kv']['tokens']} tokens, one thread, the fastest of several runs; {m['cpu']}, {m['cores']} cores, others at work:\n\n"
            + table(['', 'a token, keys and values, exact', 'hidden states', 'ratio', 'computing', 'projecting', 'of computing'], rows))


def layer_masks():
    d = json.loads(read('layer_masks.json'))
    of = {(r['other'], r['layers']): r for r in d['rows']}
    cell = lambda r: f"{r['kl']:.4f}, {100 * r['top1']:.1f} %"
    own = {n for o, n in of if not o}
    return (f"SmolLM2-135M, {len(d['texts'])} {'document' if len(d['texts']) == 1 else 'documents'} of {d['document_tokens']} tokens; the other model is {d['of']}.\n\n"
            + table(['layers computed', 'bytes fetched', 'the other\'s caches: KL, top-1', 'its own'], [[str(n), f"{of[True, n]['bytes'] / 1e6:.2f} MB", cell(of[True, n]), cell(of[False, n])] for n in sorted(own)]))


def blend():
    d = json.loads(read('blend.json'))
    rows = []
    for r in d['rows']:
        name = f"the first {r['first']} of each (EPIC)" if 'first' in r else {0: 'nothing', 1: 'everything'}.get(r['fraction'], f"{100 * r['fraction']:.0f} % by deviation (CacheBlend)")
        rows.append([name, f"{100 * r['computed_share']:.1f} %", f"{r['kl']:.4f} ({r['worst_kl']:.4f})", f"{100 * r['top1']:.1f} %", f"{r['answer_kl']:.4f}", f"{100 * r['answer_top1']:.1f} %", f"{r['blend_seconds']:.2f} s", f"{r['compute_seconds']:.2f} s"])
    m = d['machine']
    return (f"{d['prompts']} prompts of {d['documents']} documents of {d['document_tokens']} tokens, {d['tokens']} tokens answered; SmolLM2-135M; {m['cpu']}, {m['cores']} cores, others at work; seconds are medians.\n\n"
            + table(['computed anew', 'of all tokens', 'KL (worst prompt)', 'top-1', 'KL of the answer', 'top-1', 'fetched and blended', 'everything computed'], rows))


def prefill():
    d = json.loads(read('prefill.json'))
    return table(['tokens', 'engine, tokens a second', f"llama.cpp (llama-cpp-python {d['llama_cpp_python']})", 'ratio'],
                 [[str(r['tokens']), f"{r['engine']:.0f}", f"{r['llama_cpp']:.0f}", f"{r['ratio']:.1f}"] for r in d['prefill']])


def exactness():
    names = dict(smol='SmolLM2-135M', qwen='Qwen2.5-0.5B', gemma='Gemma-3-270m')
    rows = [[names[m], kind, f"{l['relative_l2']:.1e}", f"{l['kl']:.1e}", f"{100 * l['top1']:.1f} %", f"{100 * l['perplexity_change']:+.3f} %"]
            for m, r in json.loads(read('engine_exactness.json')).items() for kind, l in r['logits'].items()]
    return table(['model', 'arithmetic and pages', 'logits, relative L2 error', 'KL, nats', 'top-1', 'perplexity'], rows)


def shared():
    q = json.loads(read('streaming.json'))['shared_link']
    rows = {}
    for r in q['rows']:
        if r['policy'] not in ('fixed_level_0', 'cachegen', 'cake', 'cake_levels', 'progressive_cake'): continue
        name = f"`{r['policy']}`" + (', scheduled' if r['scheduled'] else '')
        rows.setdefault(name, {})[r['one_engine'], r['kv_share']] = f"{100 * r['misses'] / r['requests']:.1f} %, {r['mean_loss_nats']:.4f}"
    columns = [(one, share) for one in (False, True) for share in (0.25, 1, 4)]
    return table([''] + [f"{'one engine' if one else 'an engine each'}, {share:g}" for one, share in columns], [[name] + [r[c] for c in columns] for name, r in rows.items()])


def sources():
    mb = lambda x: f'{x / 1e6:.0f}'
    return table(['bytes of an object', 'redis-benchmark', 'fetched', 'decoded', 'fetched and decoded', 'bounded by'],
                 [[str(r['object_bytes']), f"{mb(r['redis_benchmark_bytes_per_second'])} ({r['redis_benchmark_shape']})", mb(r['fetch_bytes_per_second']), mb(r['decode_bytes_per_second']),
                   mb(r['fetch_and_decode_bytes_per_second']), r['bottleneck']] for r in json.loads(read('streaming_sources.json'))['medians']])


def sockets():
    d = json.loads(read('streaming_sockets.json'))
    def part(runs):
        ratio = lambda link, store: sorted(r[store]['ratio'] for r in runs if r['link'] == link)
        cell = lambda x: f'{x[0]:.3f} to {x[-1]:.3f}, median {x[len(x) // 2]:.3f}'
        return [[link, cell(ratio(link, 'redis')), cell(ratio(link, 'http'))] for link in dict.fromkeys(r['link'] for r in runs)]
    head = ['link', 'Redis, seconds / simulated seconds', 'HTTP']
    said = lambda x: f"{x['cells_within_bound']} of {x['cells']} requests are within {100 * d['bound']:.0f} % of the simulator; the farthest is {100 * x['worst_apart']:.1f} % apart."
    text = f"Bytes slowed down to traces: {said(d)}\n\n{table(head, part(d['runs']))}\n\n"
    w = d['wire']
    if 'left_out' in w: return text + f"Packets: left out ({w['left_out']})."
    rows = []
    for round_trip in ('20 ms', '150 ms'):
        for r in part([x for x in w['runs'] if x['trace'].endswith(f', {round_trip}')]): rows.append([f'{round_trip}, {r[0]}'] + r[1:])
    met = lambda what: sum(x[what]['met'] for x in w['runs'] if x['policy'] == 'progressive_cake' and x['simulated_met'])
    n = sum(x['simulated_met'] for x in w['runs'] if x['policy'] == 'progressive_cake')
    return (text + f"Packets of TCP between two network namespaces, 10, 40 and 160 Mbit/s: {said(w)} Of {n} requests of `progressive_cake` that the simulator has within {w['deadline_seconds']} s, {met('redis')} are in time from Redis and {met('http')} over HTTP.\n\n"
            + table(['round trip, link'] + head[1:], rows))


# Rows of several tables: what was lost once, what it is now, and the best rival of the same run.
def situations():
    d, w = json.loads(read('streaming.json')), json.loads(read('streaming_sockets.json'))['wire']
    ours, not_rivals = 'progressive_cake', ('progressive', 'progressive_cake', 'oracle', 'bound', 'layerwise')
    result = lambda r: f"{r['misses']} of {r['requests']} missed, {r['mean_loss_nats']:.2g} nats"
    def best(rows):
        r = min((r for r in rows if r['policy'] not in not_rivals), key=lambda r: (r['misses'], r['mean_loss_nats']))
        return f"{policy_name(r['policy'])}: {result(r)}"
    def simulated(name, hard, where, rows):
        of = {r['policy']: r for r in rows}
        return [name, hard, f'{result(of[ours])}', best(rows), result(of['cachegen_own_codec']), where]
    named = lambda n: [r for r in d['situations'] if r['situation'] == n]
    def packets(name, hard, runs):
        of = [r for r in w['runs'] if runs(r)]
        n = lambda p: f"{sum(not r['redis']['met'] for r in of if r['policy'] == p)} of {sum(r['policy'] == p for r in of)} missed"
        loss = lambda p: sum(r['redis']['loss_nats'] for r in of if r['policy'] == p) / sum(r['policy'] == p for r in of)
        return [name, hard, n(ours), f"`fixed_level_1`: {n('fixed_level_1')}", '', 'packets, Redis']
    total = lambda p: [r for r in d['results'] if (r['policy'], r['group'], r['kv_share'], r['deadline_s']) == (p, 'all', d['main_kv_share'], 1)]
    everything = [dict(policy=p, requests=sum(r['requests'] for r in total(p)), misses=sum(r['misses'] for r in total(p)), mean_loss_nats=sum(r['mean_loss_nats'] for r in total(p)) / len(total(p))) for p in dict.fromkeys(r['policy'] for r in d['results'])]
    o = {(r['policy'], r['objective'], r['value']): r for r in d['objectives']['rows']}
    at = lambda r: f"{r['median_s']:.3f} s, {r['mean_loss_nats']:.2g} nats"
    rows = [simulated('first byte after 150 ms, 1 s', 'silence is no loss: chunks used to be given up and computed', 'simulated', named('first byte after 150 ms'))]
    if 'runs' in w: rows.append(packets('the same', '', lambda r: r['trace'].endswith('150 ms') and r['link'] == 'as it is'))
    rows.append(simulated('outage of 0.4 s, 1 s', 'the same', 'simulated', named('outage of 0.4 s')))
    if 'runs' in w:
        rows.append(packets('the same, 20 ms', '', lambda r: r['trace'].endswith(', 20 ms') and r['link'] == '0.4 s pause'))
        for round_trip in ('20 ms', '150 ms'):
            rows.append(packets(f'the same, packets lost, {round_trip}', 'TCP waits for its timer', lambda r: r['trace'].endswith(f', {round_trip}') and r['link'] == '0.4 s outage'))
        trips = [x[s] for x in w['lookup_round_trips'] for s in ('redis', 'http') if x['trace'].endswith('150 ms')]
        rows.append(['lookup before the plan', 'one question after the other', f'{min(trips):.1f} to {max(trips):.1f} round trips', '', '', 'packets, 150 ms'])
    rows += [simulated('a link that halves soon', 'what came first tells too much', 'simulated, 2 of 3 GPU decoders assumed', [r for r in d['hostile_links']['rows'] if r['family'] == 'fast start']),
             simulated('10 Gbit/s, 0.1 s', 'the engine ends its chunk after the deadline', 'simulated, assumed GPU decoder', named('10 Gbit/s, 0.1 s')),
             simulated('25 Gbit/s, 50 ms, 0.5 s', 'a round trip is 150 MB: whoever asks late leaves the link idle', 'simulated, assumed GPU decoder', named('25 Gbit/s, 50 ms')),
             simulated('10 Gbit/s, decoder of a CPU, 0.25 s', 'decoding takes longer than the raw copy', 'simulated', named('10 Gbit/s, decoder of a CPU')),
             ['time that need not be spent', 'the deadline was always used up', at(o[ours, 'least time at a loss of', 0.01]) + '; a price of 0.03: ' + at(o[ours, 'nats a second', 0.03]), 'to the deadline: ' + at(o[ours, 'least loss by the deadline', 0]), '', 'simulated, assumed GPU decoder'],
             simulated('all traces, 1 s', 'CacheGen was given our levels', 'simulated, 4 of 5 GPU decoders assumed', everything)]
    return table(['situation', 'what is hard', '`progressive_cake`', 'best rival', '`cachegen`, its own codec', 'how'], rows)


def hedge():
    d = json.loads(read('streaming_hedge.json'))
    ms = lambda r: f"{1e3 * r['p50_seconds']:.1f} · {1e3 * r['p99_seconds']:.1f} · {1e3 * r['max_seconds']:.1f}"
    return (f"{d['reads']} reads of {d['bytes']} bytes a row, pauses of {d['pause_seconds']:g} s and up to a tenth more, a deadline of {d['deadline_seconds']:g} s; {d['cpu']}, {d['cores']} cores.\n\n"
            + table(['reads that the primary pauses in', 'one server: p50 · p99 · max, ms', 'missed', 'hedged: p50 · p99 · max, ms', 'missed', 'asked twice', 'bytes not needed'],
                    [[f"{100 * r['stalled_share']:g} %", ms(r['one']), f"{100 * r['one']['missed_share']:.1f} %", ms(r['hedged']), f"{100 * r['hedged']['missed_share']:.1f} %", f"{100 * r['hedged']['asked_twice_share']:.1f} %",
                      f"{100 * r['hedged']['unused_bytes_share']:.1f} %"] for r in d['rows']]))


def tiers():
    d = json.loads(read('streaming_tiers.json'))
    mb = lambda x: f'{x / 1e6:.0f}'
    return (f"{d['requests']} requests of {d['trace']}, {d['rows'][0]['accesses']} blocks asked for, {d['blocks']} different ones, objects of {d['object_bytes']} bytes; {d['cpu']}, {d['cores']} cores.\n\n"
            + table(['Redis + files, MB', 'policy', 'hits', 'of these at the finest level', 'ms a read', 'KB a read', 'read and computed, s a request', 'loss, nats a request', 'moved, MB'],
                    [[f"{mb(r['redis_bytes'])} + {mb(r['file_bytes'])}", f"`{r['policy']}`", f"{100 * r['hit_share']:.1f} %", f"{100 * r['finest_share_of_hits']:.0f} %", f"{1e3 * r['seconds_per_read']:.2f}", f"{r['bytes_per_read'] / 1e3:.0f}",
                      f"{r['read_and_compute_seconds_per_request']:.3f}", f"{r['loss_nats_per_request']:.5f}", mb(r['moved_bytes'])] for r in d['rows']]))


def projection():
    d = json.loads(read('cuda_projection.json'))
    r = {(x['what'], x['width']): x for x in d['projected']}
    widths, names = sorted({w for _, w in r}), list(dict.fromkeys(n for n, _ in r))
    def cell(x):
        bound = [f"{kernel}: {roof}" for kernel, roof in x['bound_at_65'].items() if roof != 'issue' and kernel != 'open']
        return f"{x['gb_per_s_at_50']} to {x['gb_per_s_at_65']}" + (f" ({', '.join(bound)})" if bound else '')
    def slots(x): return ' + '.join(f"{n:.0f} {k}" for k, n in x['slots_per_value'].items() if k not in ('all', 'open')) + f" = {x['slots_per_value']['all']:.0f}"
    return (f"GB/s of bf16, projected, nothing measured; {d['arch']}, nvcc {d['nvcc']}; at 50 to 65 % of issue slots. In brackets what else is the lowest roof at 65 %.\n\n"
            + table(['columns of a tile'] + [str(w) for w in widths] + ['target at 128', 'slots a value at 128'],
                    [[n] + [cell(r[n, w]) for w in widths] + [str(d['targets_gb_per_s'].get(n, '')), slots(r[n, 128])] for n in names]))


makers = dict(projection=projection, result=result, speed_line=speed_line, variants=variants, rivals=rivals, rival_speeds=rival_speeds, rivals_line=rivals_line, speed=speed, resume=resume, needles=needles, long_context=long_context, prefill=prefill, exactness=exactness, streaming=streaming, shapes=shapes, streaming_line=streaming_line, shared=shared, hostile=hostile, objectives=objectives, layerwise=layerwise, sources=sources, sockets=sockets, situations=situations, hedge=hedge, tiers=tiers, verify=verify, hidden=hidden, layer_masks=layer_masks, blend=blend)
used, stale = set(), []
for page in ('README.md', 'bench/README.md'):
    path = os.path.join(ROOT, page)
    old = text = open(path, encoding='utf-8').read()
    for name, make in makers.items():
        if f'<!-- {name} -->' not in text: continue
        used.add(name)
        edge = '' if name.endswith('_line') else '\n'  # a sentence, or a table
        body = make()
        text = re.sub(f'<!-- {name} -->.*?<!-- /{name} -->', lambda _: f'<!-- {name} -->{edge}{body}{edge}<!-- /{name} -->', text, flags=re.S)
    if text == old: continue
    if '--check' in sys.argv: stale.append(page)
    else: open(path, 'w', encoding='utf-8').write(text)
if lost := makers.keys() - used: sys.exit(f'no page has the tables {", ".join(sorted(lost))}')
if stale: sys.exit(f'{", ".join(stale)}: tables are not those of bench/results; run bench/tables.py')
