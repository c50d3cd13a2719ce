#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Long contexts: bytes a token and loss where the same tokens are judged behind 8,192 tokens and behind the last 1,024 of these.

    bench/long_context.py --models DIR --texts TEXTS --work DIR [--engine build/bin/engine] [--out FILE]

SmolLM2-135M, profile as in bench/quality.py. Contexts: bench/judging joined, from its first text and from its middle, the
documentation of this repository, and its sources.
"""
import json, pathlib
from quality import ROOT, arguments, cpu, profile, run

LONG, SHORT, SUFFIX = 8192, 1024, 256


def texts(work):
    """Files that are long enough, and tokens to leave out of each."""
    judging = sorted((ROOT / 'bench/judging').glob('*.txt'))
    of = dict(judging=judging, judging_middle=judging[len(judging) // 2:] + judging[:len(judging) // 2],
              documentation=[ROOT / p for p in ('include/sluice/format/FORMAT.md', 'examples/engine/README.md')],
              sources=sorted((ROOT / 'include/sluice/stream/run').glob('*.hpp')))
    work.mkdir(parents=True, exist_ok=True)
    for name, files in of.items():
        (work / f'{name}.txt').write_text('\n'.join(f.read_text() for f in files))
        yield work / f'{name}.txt'


def figures(judged):
    return {c['codec']: [dict(level=l['level'], bits_per_value=l['bits_per_value'], kl=l['kl'], top1=l['top1']) for l in c['levels']] for c in judged['suffix']['codecs']}


if __name__ == '__main__':
    p = arguments(__doc__, 'smol')
    p.add_argument('--profile', type=pathlib.Path, help='instead of one made here')
    p.add_argument('--codec', default='standard,balanced,smallest')
    p.add_argument('--out', default='bench/results/long_context.json')
    a = p.parse_args()
    made = a.profile or profile(a, 'smol', '--predict')[0]
    rows = []
    for text in texts(a.work / 'long'):
        row = dict(text=text.stem)
        for context, offset in ((LONG, 0), (SHORT, LONG - SHORT)):
            row[str(context)] = figures(run(a, 'quality', f'{a.models}/smol.gguf', text, '--profile', made, '--codec', a.codec, '--keep', a.work / 'contexts',
                                            '--windows', 1, '--offset', offset, '--context', context, '--suffix', SUFFIX))
        rows.append(row)
    mean = lambda codec, i, key, context: sum(r[str(context)][codec][i][key] for r in rows) / len(rows)
    summary = [dict(codec=codec, level=l['level'], **{f'{key}_{context}': mean(codec, i, key, context) for key in ('bits_per_value', 'kl', 'top1') for context in (SHORT, LONG)})
               for codec, levels in rows[0][str(LONG)].items() for i, l in enumerate(levels)]
    for s in summary:
        print(f"{s['codec']:9} {s['level']}  {s['bits_per_value_1024']:.3f} -> {s['bits_per_value_8192']:.3f} bits a value, KL {s['kl_1024']:.4f} -> {s['kl_8192']:.4f} "
              f"({s['kl_8192'] / s['kl_1024']:.2f} times), top-1 {s['top1_1024']:.3f} -> {s['top1_8192']:.3f}")
    json.dump(dict(script='bench/long_context.py', cpu=cpu(), model='SmolLM2-135M', long_tokens=LONG, short_tokens=SHORT, judged_tokens=SUFFIX * len(rows), summary=summary, texts=rows),
              open(a.out, 'w'), indent=1)
