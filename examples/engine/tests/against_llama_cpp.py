#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prefill speed of the engine and of llama.cpp: same model, same tokens, same machine, runs in turn.

    against_llama_cpp.py --engine build/bin/engine --model smol.gguf --text PROSE [--tokens 512 2048] [--threads 2] [--runs 3] [--out R.json]

Reports the best of the runs of each, in tokens a second, and their ratio. Needs: pip install llama-cpp-python numpy
"""
import argparse
import json
import pathlib
import subprocess
import tempfile
import time

from llama_cpp import Llama, __version__

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--engine', required=True)
parser.add_argument('--model', required=True)
parser.add_argument('--text', required=True)
parser.add_argument('--tokens', type=int, nargs='+', default=[512, 2048])
parser.add_argument('--threads', type=int, default=2)
parser.add_argument('--runs', type=int, default=3)
parser.add_argument('--out')
args = parser.parse_args()

text = pathlib.Path(args.text).read_text(encoding='utf-8')[:12 * max(args.tokens)]
rival = Llama(args.model, n_ctx=max(args.tokens) + 8, n_batch=512, n_ubatch=512, n_threads=args.threads, n_threads_batch=args.threads, verbose=False)
ids = rival.tokenize(text.encode(), add_bos=False, special=False)
report = {'model': pathlib.Path(args.model).name, 'threads': args.threads, 'llama_cpp_python': __version__, 'prefill': []}
with tempfile.TemporaryDirectory() as scratch:
    for n in args.tokens:
        prompt = pathlib.Path(scratch) / 'prompt'
        prompt.write_bytes(rival.detokenize(ids[:n]))
        ours, theirs, tokens = 0.0, 0.0, n
        for _ in range(args.runs):
            rival.reset()
            begin = time.perf_counter()
            rival.eval(ids[:n])
            theirs = max(theirs, n / (time.perf_counter() - begin))
            words = [args.engine, 'run', args.model, '--raw', '--prompt-file', prompt, '--tokens', 1, '--threads', args.threads, '--json']
            run = json.loads(subprocess.run(list(map(str, words)), check=True, capture_output=True, text=True).stdout)
            ours, tokens = max(ours, run['prefill_tokens_per_second']), run['prompt_tokens']
        report['prefill'].append({'tokens': n, 'engine_tokens': tokens, 'engine': ours, 'llama_cpp': theirs, 'ratio': ours / theirs})
        print(f'{n} tokens: engine {ours:.0f}, llama.cpp {theirs:.0f} tokens a second: {ours / theirs:.2f} times as fast', flush=True)
if args.out:
    pathlib.Path(args.out).write_text(json.dumps(report, indent=1) + '\n')
