#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes one self-contained page with the figures of bench/results/streaming.json (sluice-stream-policies).

    bench/streaming/report.py [STREAMING.json [DEMO.json]] -o report.html

Break-even bandwidths come from DEMO.json (bench/results/demo.json): (1 - 1/ratio) / (1/s_encode + 1/s_decode).
"""
import html, json, math, os, sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COLOURS = dict(always_raw='#b0b0b0', always_recompute='#707070', fixed_level_0='#e3c16f', fixed_level_1='#c9a13b', fixed_level_2='#a07c1c', cachegen='#d1495b',
               layerwise='#4aa3a3', cachegen_own_codec='#a3122b', cachegen_released='#e98a97', cake='#2e86ab', cake_level_0='#2e5fab', cake_level_1='#5b7fc0', cake_levels='#7fb7d1', kvserve='#8f6bb3', robust_mpc='#5b8e55', bola='#9bc194', progressive='#f18f01',
               progressive_cake='#111111', oracle='#00a388')
W, H, L, B = 430, 230, 48, 34


def text(x, y, s, anchor='start', size=11, extra=''): return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" {extra}>{html.escape(s)}</text>'


def cdfs(rows, deadline):
    """Share of requests whose cache is there after so many seconds; the time axis is logarithmic."""
    ends = [s for r in rows for s in r['ttft_s_at_fortieths'] if s]
    low, high = math.log10(max(min(ends), 1e-3)), math.log10(min(max(ends), 30 * deadline))
    x = lambda s: L + (W - L - 10) * (math.log10(max(s, 10 ** low)) - low) / (high - low)
    y = lambda q: H - B - (H - B - 16) * q
    out = [f'<svg width="{W}" height="{H}" role="img" aria-label="time to first token, deadline {deadline} s">', text(L, 12, f'deadline {deadline:g} s', size=12)]
    for q in (0, .25, .5, .75, 1): out += [f'<line x1="{L}" x2="{W - 10}" y1="{y(q):.1f}" y2="{y(q):.1f}" class="grid"/>', text(L - 4, y(q) + 4, f'{100 * q:.0f}%', 'end')]
    for e in range(math.ceil(low), math.floor(high) + 1):
        for m in (1, 2, 5):
            s = m * 10.0 ** e
            if low <= math.log10(s) <= high: out += [f'<line y1="16" y2="{H - B}" x1="{x(s):.1f}" x2="{x(s):.1f}" class="grid"/>', text(x(s), H - B + 14, f'{s:g}', 'middle')]
    if low < math.log10(deadline) < high: out.append(f'<line y1="16" y2="{H - B}" x1="{x(deadline):.1f}" x2="{x(deadline):.1f}" stroke="#c00" stroke-dasharray="4 3"/>')
    for r in rows:
        points = [(x(min(s, 10 ** high)), y(i / 40)) for i, s in enumerate(r['ttft_s_at_fortieths']) if s]
        width = 2.4 if r['policy'] in ('progressive_cake', 'cachegen', 'cake', 'oracle') else 1.1
        out.append(f'<polyline fill="none" stroke="{COLOURS[r["policy"]]}" stroke-width="{width}" points="' + ' '.join(f'{a:.1f},{b:.1f}' for a, b in points) + f'"><title>{r["policy"]}</title></polyline>')
    return '\n'.join(out + [text((L + W) / 2, H - 4, 'seconds until the cache is handed over', 'middle'), '</svg>'])


def bars(rows, value, unit, digits):
    """One bar a policy; bars that would dwarf the rest are cut and say so by their figure."""
    rows = [(r['policy'], value(r)) for r in rows]
    known = sorted(v for _, v in rows if v is not None)
    top = max(known[-1] if known else 0, 1e-12)
    out = [f'<svg width="{W}" height="{18 * len(rows) + 6}">']
    for i, (name, v) in enumerate(rows):
        out.append(text(118, 18 * i + 13, name, 'end'))
        if v is None: out.append(text(124, 18 * i + 13, '-'))
        else:
            width = 220 * v / top
            out += [f'<rect x="122" y="{18 * i + 3}" width="{max(width, .5):.1f}" height="12" fill="{COLOURS[name]}"/>', text(126 + width, 18 * i + 13, f'{v:.{digits}f} {unit}')]
    return '\n'.join(out + ['</svg>'])


def table(head, rows): return '<table><tr>' + ''.join(f'<th>{html.escape(str(h))}</th>' for h in head) + '</tr>' + ''.join('<tr>' + ''.join(f'<td>{html.escape(str(c))}</td>' for c in r) + '</tr>' for r in rows) + '</table>'


def break_even(demo):
    rows = []
    for c in demo['codecs']:
        gain, seconds = 1 - 1 / c['ratio'], 1 / c['encode_gb_per_s'] + 1 / c['decode_gb_per_s']
        rows.append([c['name'], f"{c['ratio']:.2f}", f"{c['encode_gb_per_s']:.2f}", f"{c['decode_gb_per_s']:.2f}", f'{8 * gain / seconds:.2f}', f"{8 * gain * c['decode_gb_per_s']:.2f}"])
    return table(['codec', 'times smaller', 'encode GB/s', 'decode GB/s', 'break-even Gbit/s', 'stored already: break-even Gbit/s'], rows)


def main():
    args = [a for a in sys.argv[1:] if a != '-o']
    out = args.pop() if '-o' in sys.argv else sys.exit(__doc__)
    d = json.load(open(args[0] if args else os.path.join(ROOT, 'bench/results/streaming.json'), encoding='utf-8'))
    demo = json.load(open(args[1] if len(args) > 1 else os.path.join(ROOT, 'bench/results/demo.json'), encoding='utf-8'))
    share = d['main_kv_share']
    pages = ['<!doctype html><meta charset="utf-8"><title>Streaming a KV cache: planners compared</title>',
             '<style>body{font:14px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em}svg{margin:4px 8px 4px 0;font-family:inherit}.grid{stroke:#ddd}table{border-collapse:collapse;margin:1em 0}'
             'td,th{border-bottom:1px solid #ddd;padding:2px 10px;text-align:right}td:first-child,th:first-child{text-align:left}h3{margin-bottom:0}.k{display:inline-block;width:12px;height:12px;margin:0 4px 0 12px}</style>',
             '<h1>Streaming a KV cache: planners compared</h1>',
             f"<p>Simulated: {d['links']} links ({', '.join(f'{n} {g}' for g, n in d['groups'].items())}), {d['requests_per_link']} requests on each. Rates of a group of traces are multiplied by one factor, so that the group's mean is "
             f"{share:g} of the rate at which the engine computes cache (raw bytes); other shares are in the table of targets. The oracle knows the trace; its bound is proven, and regret is counted against it.</p>",
             '<p>' + ''.join(f'<span class="k" style="background:{c}"></span>{p}' for p, c in COLOURS.items()) + '</p>']
    for s in d['shapes']:
        pages.append(f"<h2>{html.escape(s['name'])}</h2><p>{html.escape(s['config'])}; {s['context_tokens']} tokens in chunks of {s['chunk_tokens']}, computed in {s['recompute_s']:.2f} s; KV rate {s['kv_rate_bytes_per_s'] / 1e6:.4g} MB/s; "
                     f"levels measured on {s['levels_of']}: " + ', '.join(f'{b:.2f} bits, {l:.5f} nats' for b, l in zip(s['bits_per_value'], s['loss_nats'])) + f". {html.escape(s['source'])}. Link factors: "
                     + ', '.join(f'{g} {f:.4g}' for g, f in s['link_factors'][f'{share:.2f}'].items()) + '.</p><h3>Time to first token</h3>')
        for deadline in sorted({r['deadline_s'] for r in d['cdfs']}):
            pages.append(cdfs([r for r in d['cdfs'] if r['shape'] == s['name'] and r['deadline_s'] == deadline], deadline))
        for title, value, unit, digits in [('Deadlines missed', lambda r: 100 * r['misses'] / r['requests'], '%', 1), ('Mean quality loss, all requests', lambda r: r['mean_loss_nats'], 'nats', 5),
                                           ('Mean regret to the bound, requests that met the deadline', lambda r: r['mean_regret_nats_of_met'], 'nats', 5), ('Bytes sent', lambda r: r['mean_bytes'] / 1e6, 'MB', 1),
                                           ('Tokens computed', lambda r: r['mean_recomputed_tokens'], '', 0), ('Slower than raw and recompute by more than a chunk', lambda r: 100 * r['slower_than_raw_and_recompute'], '%', 1)]:
            pages.append(f'<h3>{title}</h3>')
            for deadline in sorted({r['deadline_s'] for r in d['results']}):
                rows = [r for r in d['results'] if (r['shape'], r['group'], r['kv_share'], r['deadline_s']) == (s['name'], 'all', share, deadline)]
                pages.append(f'<figure style="display:inline-block;margin:0"><figcaption>deadline {deadline:g} s</figcaption>{bars(rows, value, unit, digits)}</figure>')
    pages.append('<h2>Targets</h2>' + table(['shape', 'share of KV rate', 'deadline', 'missed: ours', 'cachegen', 'cake', 'oracle', 'bound', 'loss: ours', 'cachegen', 'bound', 'no more misses', 'at most 0.7 of cachegen', 'within 1.15 bound + 0.001'],
        [[a['shape'], a['kv_share'], a['deadline_s']] + [a['misses'][k] for k in ('progressive_cake', 'cachegen', 'cake', 'oracle', 'bound')] + [f"{a['mean_loss_nats'][k]:.5f}" for k in ('progressive_cake', 'cachegen', 'bound')]
         + ['yes' if a[k] else 'NO' for k in ('misses_no_more', 'loss_at_most_0.7_of_cachegen', 'loss_within_1.15_of_bound_plus_0.001')] for a in d['acceptance']]))
    if 'shared_link' in d:
        q = d['shared_link']
        pages.append(f"<h2>{q['requests']} requests on one link</h2><p>{html.escape(q['shape'])}; {html.escape(q['link'])}, a deadline of a second.</p>" + table(['engines', 'link, share of the KV rate', 'policy', 'missed', 'ttft p50', 'p99', 'mean loss', 'MB', 'simulated in'],
            [['one' if r['one_engine'] else 'one each', f"{r['kv_share']:g}", r['policy'] + (', scheduled' if r['scheduled'] else ''), f"{100 * r['misses'] / r['requests']:.1f} %", r['ttft_p50_s'] and f"{r['ttft_p50_s']:.3f}", r['ttft_p99_s'] and f"{r['ttft_p99_s']:.2f}", f"{r['mean_loss_nats']:.5f}", f"{r['mean_bytes'] / 1e6:.1f}", f"{r['simulated_in_s']:.2f} s"] for r in q['rows']]))
    if 'placement' in d:
        q = d['placement']
        pages.append(f"<h2>Placement</h2><p>{q['requests']} requests, {html.escape(q['shape'])}; {html.escape(q['tiers'])}; the disk holds five times what memory holds.</p>" + table(['policy', 'memory GB', 'hits', 'seconds a request', 'nats a request', 'decoding and encoding s', 'moved GB'],
            [[r['policy'], f"{r['memory_bytes'] / 1e9:g}", f"{100 * r['hit_share']:.1f} %", f"{r['seconds_per_request']:.4f}", f"{r['loss_nats_per_request']:.5f}", f"{r['transcode_seconds']:.0f}", f"{r['moved_bytes'] / 1e9:.0f}"] for r in q['rows']]))
    pages.append('<h2>A decision over 1,000 chunks and 5 levels</h2>' + table(['policy', 'microseconds'], d['decision_us_1000_chunks_5_levels'].items()))
    pages.append(f"<h2>Break-even bandwidth of the codecs</h2><p>Below it, compressing, sending and decoding is faster than sending raw bytes: (1 - 1/ratio) / (1/encode + 1/decode); one thread, {html.escape(demo['machine']['cpu'])}. Where the cache is stored encoded already, only decoding counts.</p>" + break_even(demo))
    open(out, 'w', encoding='utf-8').write('\n'.join(pages))


main()
