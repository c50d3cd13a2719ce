#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Time to first token: a document that comes layer by layer while the question is computed, against chunk by chunk, at equal bytes.

    bench/layerwise.py --engine build/bin/engine --model build/models/smol.gguf --profile test/data/smollm2.profile --text PROSE --question-text OTHER

Both fetch the same objects at the same level over the same link (a trace of a constant rate in front of a folder), whatever the deadline; pairs of runs in turn, medians. Questions are the first
words of a text; a question of hundreds of tokens is a document's last part that was never stored. Writes bench/results/layerwise.json. Run it on a quiet machine.
"""
import argparse, json, os, pathlib, statistics, tempfile

from quality import ROOT, cpu, run

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--engine', required=True)
parser.add_argument('--model', required=True)
parser.add_argument('--profile', required=True)
parser.add_argument('--text', required=True)
parser.add_argument('--question-text', required=True)
parser.add_argument('--tokens', type=int, default=2048)
parser.add_argument('--level', type=int, default=1)
parser.add_argument('--parts', type=int, nargs='+', default=[6, 30])
parser.add_argument('--megabits', type=int, nargs='+', default=[20, 40, 80, 10000])
parser.add_argument('--question-tokens', type=int, nargs='+', default=[64, 512])
parser.add_argument('--runs', type=int, default=5)
args = parser.parse_args()
median = statistics.median

words = open(args.question_text, encoding='utf-8').read()
rows = []
with tempfile.TemporaryDirectory() as folder:
    common = [args.model, '--prompt-file', args.text, '--max-tokens', args.tokens, '--store', folder + '/store', '--profile', args.profile]
    run(args, 'save', *common)
    for megabits in args.megabits:
        trace = f'{folder}/{megabits}.csv'
        pathlib.Path(trace).write_text(f'duration_s,bandwidth_bps,latency_s\n1000,{megabits * 1000000},0.002\n')
        for question_tokens in args.question_tokens:
            question = words[:4 * question_tokens]
            resume = ['resume', *common, '--question', question, '--tokens', 1, '--link', trace, '--deadline', 1000, '--policy', f'fixed_level_{args.level}']
            ways = {'chunks': resume} | {f'{n} parts': resume + ['--layer-parts', n] for n in args.parts}
            runs = {way: [] for way in ways}
            for _ in range(args.runs):
                for way, command in ways.items():
                    r = run(args, *command)
                    assert not r['faults'] and set(r['chunk_levels']) == {args.level}, r
                    runs[way].append(r)
            row = {'megabits_per_second': megabits, 'question_tokens': runs['chunks'][0]['question_tokens'],
                   'question_seconds': median(r['seconds']['question'] for r in runs['chunks']), 'stream_seconds': median(r['seconds']['stream'] for r in runs['chunks']),
                   'ways': [{'way': w, 'bytes': rs[0]['bytes'], 'first_token_seconds': median(r['first_token_seconds'] for r in rs),
                             'of_chunks': median(r['first_token_seconds'] / c['first_token_seconds'] for r, c in zip(rs, runs['chunks']))} for w, rs in runs.items()]}
            rows.append(row)
            print(f"{megabits} Mbit/s, {row['question_tokens']} tokens asked: " + ', '.join(f"{w['way']} {w['first_token_seconds']:.3f} s ({w['of_chunks']:.2f})" for w in row['ways']), flush=True)
report = {'machine': {'cpu': cpu(), 'cores': os.cpu_count()}, 'model': pathlib.Path(args.model).name, 'tokens': args.tokens, 'level': args.level, 'runs': args.runs, 'rows': rows}
(ROOT / 'bench/results/layerwise.json').write_text(json.dumps(report, indent=1) + '\n')
