#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Exact answers from a document that is still on its way: drafted on a coarse level and verified (VeriCache), against waiting for the exact copy.

    bench/verify.py --engine build/bin/engine --model build/models/smol.gguf --profile test/data/smollm2.profile

Documents are pieces of the texts of bench/judging; each is answered with 256 tokens, on behind the end of an answer. Both ways fetch over the same link (a trace of a constant rate in front of a
folder), turn by turn; the answer that counts is that of who waits for the exact copy. Medians over the prompts. Writes bench/results/verify.json. Run it on a quiet machine.
"""
import argparse, json, os, pathlib, statistics, tempfile

from quality import ROOT, cpu, run

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--engine', required=True)
parser.add_argument('--model', required=True)
parser.add_argument('--profile', required=True)
parser.add_argument('--prompts', type=int, nargs='+', default=[20, 5, 5], help='on each link')
parser.add_argument('--document-tokens', type=int, default=512)
parser.add_argument('--tokens', type=int, default=256)
parser.add_argument('--levels', type=int, nargs='+', default=[0, 1])
parser.add_argument('--megabits', type=int, nargs='+', default=[10, 40, 160])
args = parser.parse_args()
median = statistics.median
TEXTS = sorted((ROOT / 'bench/judging').glob('*.txt'))

def figures(runs):
    at = lambda r, i: r['token_seconds'][i]
    row = {'first_token_seconds': median(at(r, 0) for r in runs), 'token_32_seconds': median(at(r, 31) for r in runs), 'last_token_seconds': median(at(r, -1) for r in runs),
           'tokens_per_second': median(len(r['token_seconds']) / at(r, -1) for r in runs), 'bytes': median(r['bytes'] for r in runs)}
    if 'draft' in runs[0]:
        drafts = [r['draft'] for r in runs]
        row |= {'first_drafted_seconds': median(d.get('first_token_seconds', at(r, 0)) for d, r in zip(drafts, runs)), 'drafted': median(d['tokens'] for d in drafts),
                'accepted': median(d['accepted'] for d in drafts), 'acceptance': sum(d['accepted'] for d in drafts) / max(1, sum(d['tokens'] for d in drafts))}
    return row

runs, same = {}, {}
with tempfile.TemporaryDirectory() as folder:
    for megabits in args.megabits:
        pathlib.Path(f'{folder}/{megabits}.csv').write_text(f'duration_s,bandwidth_bps,latency_s\n1000,{megabits * 1000000},0.002\n')
    for prompt in range(max(args.prompts)):
        links = [m for m, n in zip(args.megabits, args.prompts) if prompt < n]
        text = TEXTS[prompt % len(TEXTS)].read_text(encoding='utf-8')
        piece = pathlib.Path(f'{folder}/{prompt}.txt')
        piece.write_text(text[len(text) // 2 * (prompt // len(TEXTS)):], encoding='utf-8')
        common = [args.model, '--prompt-file', piece, '--max-tokens', args.document_tokens, '--store', f'{folder}/{prompt}', '--profile', args.profile]
        run(args, 'save', *common, '--exact-copies')
        answer = None
        for megabits in links:
            resume = ['resume', *common, '--question', 'Tell in detail what this is about.', '--tokens', args.tokens, '--ignore-end', '--link', f'{folder}/{megabits}.csv']
            for way in ['wait', *args.levels]:
                r = run(args, *resume, *(['--policy', 'always_raw', '--deadline', 1000] if way == 'wait' else ['--draft-level', way]))
                assert not r['faults'] and set(r['chunk_levels']) == {'exact'} and len(r['token_seconds']) == args.tokens, r
                answer = answer or r['answer']
                runs.setdefault((megabits, way), []).append(r)
                same.setdefault((megabits, way), []).append(r['answer'] == answer)
        print(f"prompt {prompt}: " + '; '.join(f"{m} Mbit/s " + ', '.join(f"{w} {runs[m, w][-1]['token_seconds'][-1]:.2f} s{'' if same[m, w][-1] else ' ANOTHER ANSWER'}" for w in ['wait', *args.levels]) for m in links), flush=True)
rows = [{'megabits_per_second': m, 'draft_level': None if w == 'wait' else w, 'same_answers': sum(same[m, w]), 'answers': len(rs), **figures(rs)} for (m, w), rs in runs.items()]
report = {'machine': {'cpu': cpu(), 'cores': os.cpu_count()}, 'model': pathlib.Path(args.model).name, 'document_tokens': args.document_tokens, 'tokens': args.tokens, 'rows': rows}
(ROOT / 'bench/results/verify.json').write_text(json.dumps(report, indent=1) + '\n')
