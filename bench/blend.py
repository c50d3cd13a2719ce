#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Documents cached one by one and used together (CacheBlend, EPIC): what predictions lose, by the share of tokens that is computed anew.

    bench/blend.py --engine build/bin/engine --model build/models/smol.gguf --profile test/data/smollm2.profile

Each prompt is four documents, the first tokens of as many texts of bench/judging, each saved as if it stood alone, and a question; prompts take the texts in turn. KL and top-1 against computing everything, over the question and the
likeliest answer of so many tokens. Writes bench/results/blend.json.
"""
import argparse, json, os, pathlib, statistics, tempfile

from quality import ROOT, cpu, run

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--engine', required=True)
parser.add_argument('--model', required=True)
parser.add_argument('--profile', required=True)
parser.add_argument('--prompts', type=int, default=3)
parser.add_argument('--documents', type=int, default=4, help='of a prompt')
parser.add_argument('--document-tokens', type=int, default=256)
parser.add_argument('--tokens', type=int, default=64, help='of an answer')
parser.add_argument('--fractions', type=float, nargs='+', default=[0, .05, .15, .3, 1])
parser.add_argument('--firsts', type=int, nargs='+', default=[8, 32])
args = parser.parse_args()
TEXTS = sorted((ROOT / 'bench/judging').glob('*.txt'))
QUESTIONS = ['What are these texts about?', 'Which of these texts is about a program?', 'Continue the last text.', 'Tell me something about the first text.']
ways = [('fraction', f) for f in args.fractions] + [('first', k) for k in args.firsts]
runs = {w: [] for w in ways}
with tempfile.TemporaryDirectory() as folder:
    for prompt in range(args.prompts):
        documents = [TEXTS[(prompt + i * args.prompts) % len(TEXTS)] for i in range(args.documents)]
        common = ['blend', args.model, '--profile', args.profile, '--store', f'{folder}/store', '--max-tokens', args.document_tokens, '--tokens', args.tokens, '--question', QUESTIONS[prompt % len(QUESTIONS)], '--compare']
        for d in documents: common += ['--document', d]
        for way, n in ways:
            r = run(args, *common, f'--{way}', n)
            assert not r['faults'], r
            runs[way, n].append(r)
        print(f'prompt {prompt}: ' + ', '.join(f"{w} {n}: {runs[w, n][-1]['compare']['kl']:.4f}" for w, n in ways), flush=True)
mean = lambda rs, *at: statistics.mean(r[at[0]] if len(at) == 1 else r[at[0]][at[1]] for r in rs)
rows = [{way: n, 'computed_share': mean(rs, 'computed_share'), 'checked_share': sum(r['checked_tokens'] for r in rs) / sum(r['document_tokens'] for r in rs), 'kl': mean(rs, 'compare', 'kl'), 'worst_kl': max(r['compare']['kl'] for r in rs),
         'top1': mean(rs, 'compare', 'top1'), 'answer_kl': mean(rs, 'compare', 'answer_kl'), 'answer_top1': mean(rs, 'compare', 'answer_top1'), 'blend_seconds': statistics.median(r['blend_seconds'] for r in rs),
         'compute_seconds': statistics.median(r['compare']['compute_seconds'] for r in rs)} for (way, n), rs in runs.items()]
report = {'script': 'bench/blend.py', 'machine': {'cpu': cpu(), 'cores': os.cpu_count()}, 'model': pathlib.Path(args.model).name, 'prompts': args.prompts, 'documents': args.documents, 'document_tokens': args.document_tokens,
          'tokens': args.tokens, 'rows': rows}
(ROOT / 'bench/results/blend.json').write_text(json.dumps(report, indent=1) + '\n')
