#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Caches of another model of the same shape, some of whose layers are computed anew (DroidSpeak): what predictions lose, by the number of first layers that are computed.

    pip install gguf
    bench/layer_masks.py --engine build/bin/engine --model build/models/smol.gguf --profile test/data/smollm2.profile

The other model is the same with its 4-bit weights rounded to 3 bits, which this script makes: no fine-tune of so small a model with the same tokenizer was at hand. Its caches are those that are fetched. KL and top-1 against computing everything, over a question and the likeliest answer to it; also with the model's own caches. Writes
bench/results/layer_masks.json.
"""
import argparse, json, pathlib, shutil, statistics, tempfile

import gguf
import numpy

from quality import ROOT, run

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for n in ('engine', 'model', 'profile'): parser.add_argument('--' + n, required=True)
parser.add_argument('--layers', type=int, nargs='+', default=[0, 1, 5, 15])
parser.add_argument('--document-tokens', type=int, default=384)
parser.add_argument('--level', type=int, default=3)
parser.add_argument('--texts', nargs='+', default=['prose_encyclopedia'], help='of bench/judging')
args = parser.parse_args()


def rounded(model, to):
    """A copy whose Q4_1 weights have even codes: 3 bits. A block is f16 scale, f16 offset and 16 bytes of codes."""
    shutil.copyfile(model, to)
    file, tensors = numpy.memmap(to, dtype=numpy.uint8, mode='r+'), gguf.GGUFReader(model).tensors
    for t in tensors:
        if t.tensor_type.name != 'Q4_1': continue
        codes = file[t.data_offset:t.data_offset + t.n_bytes].reshape(-1, 20)[:, 4:]
        low, high = (codes & 15).astype(int), (codes >> 4).astype(int)
        even = lambda q: numpy.minimum(2 * numpy.rint(q / 2).astype(int), 14)  # halves to even: no bias
        codes[:] = (even(low) | even(high) << 4).astype(numpy.uint8)
    file.flush()


runs = {}
with tempfile.TemporaryDirectory() as folder:
    other = f'{folder}/other.gguf'
    rounded(args.model, other)
    for text in args.texts:
        common = ['--prompt-file', ROOT / f'bench/judging/{text}.txt', '--max-tokens', args.document_tokens, '--store', f'{folder}/store', '--profile', args.profile]
        for maker in (args.model, other):
            run(args, 'save', maker, *common)
            for n in args.layers:
                r = run(args, 'resume', args.model, *common, '--cache-of', maker, '--level', args.level, '--question', 'Tell in detail what this is about.', '--tokens', 64, '--ignore-end', '--compare', *(['--compute-layers', n] if n else []))
                assert not r['faults'], r
                runs.setdefault((maker == other, n), []).append(r)
        print(text, ', '.join(f"{'other' if o else 'own'} {n}: {rs[-1]['compare']['kl']:.4f}" for (o, n), rs in runs.items()), flush=True)
rows = [{'other': o, 'layers': n, 'bytes': sum(r['bytes'] for r in rs), 'kl': statistics.mean(r['compare']['kl'] for r in rs), 'top1': statistics.mean(r['compare']['top1'] for r in rs)} for (o, n), rs in runs.items()]
report = {'script': 'bench/layer_masks.py', 'model': pathlib.Path(args.model).name, 'of': 'the same with its weights rounded from 4 bits to 3', 'level': args.level, 'document_tokens': args.document_tokens, 'texts': args.texts, 'rows': rows}
(ROOT / 'bench/results/layer_masks.json').write_text(json.dumps(report, indent=1) + '\n')
