#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the engine with the NumPy reference laboratory on real models: token ids, logits, perplexity, captures.

    against_kvlab.py --engine build/bin/engine --lab ../shared/lab --models ../models --text PROSE [--tokens 768] [--out R.json]

Token ids: 100 KB each of prose (PROSE), code (this repository) and many scripts with every kind of white space (made here, seeded).
Logits: relative L2 error over the first tokens of PROSE, per page type and arithmetic; perplexity: within 0.1 %, 0.5 % with
8-bit arithmetic. Exits 1 where a bound is broken.
Needs: numpy gguf tokenizers, and kvlab.py.
"""
import argparse
import json
import math
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy as np

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--engine', required=True)
parser.add_argument('--lab', required=True)
parser.add_argument('--models', required=True)
parser.add_argument('--text', required=True)
parser.add_argument('--tokens', type=int, default=768)  # perplexity of fewer is mostly noise
parser.add_argument('--bytes', type=int, default=100_000)
parser.add_argument('--only', nargs='*', default=['smol', 'qwen', 'gemma'])
parser.add_argument('--out')
args = parser.parse_args()
sys.path.insert(0, args.lab)
import kvlab  # noqa: E402

# Keys of Qwen reach 200 in a few channels: rounding them to bf16 moves NumPy's own logits by 6.5e-3.
BOUND = {'f32': 1e-4, 'f16': 1e-3, 'bf16': 4e-3, 'qwen bf16': 8e-3}


def many_scripts(size):
    rng = random.Random(1)
    blocks = [(0x20, 0x7f), (0xa0, 0x180), (0x370, 0x400), (0x400, 0x460), (0x5d0, 0x5eb), (0x600, 0x700), (0x900, 0x980), (0xe00, 0xe5c),
              (0x2000, 0x2070), (0x3040, 0x3100), (0x4e00, 0x4f00), (0xac00, 0xad00), (0x1f600, 0x1f640), (0x10d40, 0x10d4a)]
    letters = [chr(c) for a, b in blocks for c in range(a, b)]
    odd = [' ', '  ', '   ', '\n', '\n\n', ' \n', ' \n ', '\t', '\r\n', '\u3000', '\x85', '\xa0', "'s", "'S", "'\u017f", "'RE", "'ll", "'Ve", '1', '12', '\u0663',
           '\xb2', '\xbd', '\u2167', 'a', '\xe9', '\u4e2d', '!', '...', "'", '_', '\u2581', '<0x41>', '<|im_start|>', '<bos>', '\U00016ff4', '\u0301']
    words = []
    while sum(map(len, words)) < size // 2:
        words.append(rng.choice(odd) if rng.random() < 0.4 else ''.join(rng.choices(letters[(at := rng.randrange(len(letters) - 20)):at + 20], k=rng.randint(1, 8))))
    return ''.join(words).encode()[:size].decode(errors='ignore')


def corpora():
    root = pathlib.Path(__file__).resolve().parents[3]
    code = ''.join(p.read_text(encoding='utf-8') for p in sorted(root.glob('include/**/*.hpp')) + sorted(root.glob('examples/**/*.py')))
    prose = pathlib.Path(args.text).read_text(encoding='utf-8')
    cut = lambda s: s.encode()[:args.bytes].decode(errors='ignore')
    return {'prose': cut(prose), 'code': cut(code), 'many scripts': many_scripts(args.bytes)}


def engine(*words):
    return json.loads(subprocess.run([args.engine, *map(str, words), '--json'], check=True, capture_output=True, text=True).stdout)


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


report, good = {}, True
with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    for name in args.only:
        path = pathlib.Path(args.models) / f'{name}.gguf'
        if not path.exists():
            print(f'{name}: no {path}, left out')
            continue
        entry = report[name] = {'tokens': {}, 'logits': {}}
        for title, text in corpora().items():
            (scratch / 'text').write_text(text, encoding='utf-8', newline='')
            equal = engine('tokenize', path, scratch / 'text')['ids'] == kvlab.tokenize(str(path), text)
            entry['tokens'][title] = {'bytes': len(text.encode()), 'equal': equal}
            good &= equal
            print(f'{name}: token ids of {title} {"equal" if equal else "DIFFER"}', flush=True)

        text = pathlib.Path(args.text).read_text(encoding='utf-8')[:20 * args.tokens]
        (scratch / 'text').write_text(text, encoding='utf-8')
        ids = np.array(kvlab.tokenize(str(path), text))
        model = kvlab.Model(str(path))
        bos = int(model.arch == 'gemma3')
        ids = ids[:args.tokens + bos]
        expected = model.forward(ids, logits=slice(bos, None))[2]
        logp, at, targets = log_softmax(expected), np.arange(args.tokens - 1), ids[bos + 1:]
        nll = -logp[at, targets].mean()
        for pages, arithmetic in [('f32', 'exact'), ('f16', 'exact'), ('bf16', 'exact'), ('f16', 'fast')]:
            words = ['perplexity', path, scratch / 'text', '--tokens', args.tokens, '--context', args.tokens, '--kv', pages, '--logits', scratch / 'out']
            engine(*words, *(['--exact'] if arithmetic == 'exact' else []))
            raw = (scratch / 'out').read_bytes()
            head = json.loads(raw[8:8 + int.from_bytes(raw[:8], 'little')])
            begin, end = head['logits']['data_offsets']
            start = 8 + int.from_bytes(raw[:8], 'little')
            got = np.frombuffer(raw[start + begin:start + end], np.float32).reshape(head['logits']['shape'])
            error = float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
            other = log_softmax(got)
            change = math.exp(-other[at, targets].mean() - nll) - 1
            entry['logits'][f'{arithmetic} {pages}'] = {'tokens': args.tokens, 'relative_l2': error, 'kl': float((np.exp(logp) * (logp - other)).sum(-1).mean()),
                                                        'top1': float((got.argmax(-1) == expected.argmax(-1)).mean()), 'perplexity_change': change}
            bound = BOUND.get(f'{name} {pages}', BOUND[pages])
            kept = abs(change) < 5e-3 if arithmetic == 'fast' else error < bound and (abs(change) < 1e-3 or pages == 'bf16')
            good &= kept
            print(f'{name}: {arithmetic} {pages}: logits {error:.2e}, perplexity {100 * change:+.3f} %{"" if kept else "  OUT OF BOUNDS"}', flush=True)
if args.out:
    pathlib.Path(args.out).write_text(json.dumps(report, indent=1) + '\n')
sys.exit(0 if good else 1)
