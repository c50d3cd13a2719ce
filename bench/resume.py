#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Time to first token: resuming a stored prefix against computing it, at every level, for documents of several lengths.

    bench/resume.py --engine build/bin/engine --model build/models/smol.gguf --profile test/data/smollm2.profile --text PROSE [--tokens 512 ... 8192] [--runs 3]

Each run is a process that restores, answers, then computes the same from nothing; both with the model loaded, all cores. Medians of the runs; top-1 agreement and KL
are those of `engine quality --exact` at 2,048 tokens. Writes bench/results/resume.json and bench/results/resume.svg. Run it on a quiet machine.
"""
import argparse, json, math, os, pathlib, statistics, tempfile

from quality import ROOT, cpu, run

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--engine', required=True)
parser.add_argument('--model', required=True)
parser.add_argument('--profile', required=True)
parser.add_argument('--text', required=True)
parser.add_argument('--tokens', type=int, nargs='+', default=[512, 1024, 2048, 4096, 8192])
parser.add_argument('--levels', type=int, nargs='+', default=[0, 1, 2, 3])
parser.add_argument('--runs', type=int, default=3)
parser.add_argument('--question', default='What is this text about?')
args = parser.parse_args()


def engine(*words): return run(args, *words)


def plot(rows):
    w, h, left, right, top, bottom = 760, 400, 80, 640, 40, 340
    n, ys = [r['tokens'] for r in rows], [v for r in rows for v in [r['prefill_seconds']] + [l['first_token_seconds'] for l in r['levels']]]
    low, high = min(ys) / 1.3, max(ys) * 1.3
    x = lambda t: left + (right - left) * math.log(t / n[0]) / math.log(n[-1] / n[0])
    y = lambda s: bottom - (bottom - top) * math.log(s / low) / math.log(high / low)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" font-family="sans-serif" font-size="13" role="img" aria-label="Time to first token against document length">',
           f'<rect width="{w}" height="{h}" fill="#fff"/>', f'<text x="{left}" y="20" font-weight="600">time to first token, seconds</text>']
    for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for m in (1, 2, 5):
            s = m * 10 ** e
            if low <= s <= high: out.append(f'<line x1="{left}" x2="{right}" y1="{y(s):.1f}" y2="{y(s):.1f}" stroke="#e3e6e9"/><text x="{left - 8}" y="{y(s) + 4:.1f}" text-anchor="end" fill="#56616d">{s:g}</text>')
    for t in n: out.append(f'<text x="{x(t):.1f}" y="{bottom + 20}" text-anchor="middle" fill="#56616d">{t}</text>')
    out.append(f'<text x="{right}" y="{bottom + 42}" text-anchor="end">tokens of the document</text>')
    lines = [('full prefill', '#6a727b', [r['prefill_seconds'] for r in rows])]
    for i, colour in zip(range(len(rows[0]['levels'])), ['#5a9bd8', '#2c74b8', '#1b5590', '#113a68']):
        lines.append((f"level {rows[0]['levels'][i]['level']}", colour, [r['levels'][i]['first_token_seconds'] for r in rows]))
    ends = sorted(range(len(lines)), key=lambda i: y(lines[i][2][-1]))
    place, last = {}, -100
    for i in ends: last = place[i] = max(y(lines[i][2][-1]) + 4, last + 16)
    for i, (name, colour, values) in enumerate(lines):
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2.2" points="' + ' '.join(f'{x(t):.1f},{y(v):.1f}' for t, v in zip(n, values)) + '"/>')
        out += [f'<circle cx="{x(t):.1f}" cy="{y(v):.1f}" r="3.5" fill="{colour}"/>' for t, v in zip(n, values)]
        out.append(f'<text x="{right + 10}" y="{place[i]:.1f}" fill="{colour}" font-weight="600">{name}</text>')
    return '\n'.join(out + ['</svg>']) + '\n'


median = statistics.median
rows = []
with tempfile.TemporaryDirectory() as store:
    for n in args.tokens:
        common = [args.model, '--prompt-file', args.text, '--max-tokens', n, '--store', store, '--profile', args.profile]
        saved = engine('save', *common)
        row = {'tokens': saved['tokens'], 'raw_bytes': saved['raw_bytes'], 'encode_seconds': saved['encode_seconds'], 'levels': []}
        prefills = []
        for level in args.levels:
            runs = [engine('resume', *common, '--question', args.question, '--level', level, '--tokens', 2, '--compare') for _ in range(args.runs)]
            assert all(not r['faults'] and r['restored_tokens'] == n for r in runs)
            prefills += [r['compare']['first_token_seconds'] for r in runs]
            row['levels'].append({'level': level, 'bytes': runs[0]['bytes'], 'ratio': runs[0]['ratio'], 'question_tokens': runs[0]['question_tokens'],
                                  'first_token_seconds': median(r['first_token_seconds'] for r in runs), 'decode_seconds': median(r['seconds']['decode'] for r in runs),
                                  'question_seconds': median(r['seconds']['question'] for r in runs)})
        row['prefill_seconds'] = median(prefills)
        for l in row['levels']: l['times_sooner'] = row['prefill_seconds'] / l['first_token_seconds']
        rows.append(row)
        print(f"{n} tokens: prefill {row['prefill_seconds']:.3f} s; " + ', '.join(f"level {l['level']} {l['first_token_seconds']:.3f} s ({l['times_sooner']:.1f} times sooner)" for l in row['levels']), flush=True)

quality = engine('quality', args.model, args.text, '--profile', args.profile, '--context', 2048, '--suffix', 256, '--windows', 2, '--exact')
report = {'machine': {'cpu': cpu(), 'cores': os.cpu_count()}, 'model': pathlib.Path(args.model).name, 'runs': args.runs, 'documents': rows, 'quality': quality}
(ROOT / 'bench/results/resume.json').write_text(json.dumps(report, indent=1) + '\n')
(ROOT / 'bench/results/resume.svg').write_text(plot(rows))
