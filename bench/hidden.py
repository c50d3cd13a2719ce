#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hidden states instead of keys and values (HCache; coded with loss, XQuant): bytes and KL of both through the same codecs, and what projecting costs beside computing.

    bench/hidden.py --models DIR --work DIR [--engine build/bin/engine] [--only smol,qwen,gemma]

DIR of --models holds {smol,qwen,gemma}.gguf. SmolLM2 is judged, on the 256 tokens behind 1,024 of each text given; no profile is used, for neither. Of every model a document is saved both ways, by one thread; of several runs the fastest counts. The file is
written model by model, and keeps what it says of models that are left out. Writes bench/results/hidden.json.
"""
import argparse, json, os, pathlib, tempfile

from quality import NAMES, ROOT, cpu, run

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--engine', default='build/bin/engine')
parser.add_argument('--models', required=True)
parser.add_argument('--work', required=True, type=pathlib.Path, help='keeps what the model makes of the contexts')
parser.add_argument('--only', default='smol,qwen,gemma')
parser.add_argument('--parts', default='saved,judged')
parser.add_argument('--document-tokens', type=int, default=512)
parser.add_argument('--repeats', type=int, default=5)
parser.add_argument('--texts', nargs='+', default=['code_python', 'prose_encyclopedia'], help='of bench/judging')
parser.add_argument('--codecs', default='exact,plain8,int4,kivi4,kivi2')
args = parser.parse_args()
out = ROOT / 'bench/results/hidden.json'
texts = [ROOT / f'bench/judging/{t}.txt' for t in args.texts]
bare = args.work / 'uncalibrated'  # no profile lies beside the models
bare.mkdir(parents=True, exist_ok=True)
known = json.loads(out.read_text()) if out.exists() else {'models': []}
rows = {r['model']: r for r in known['models']}
judged = known.get('judged')
for m in args.only.split(','):
    gguf = bare / f'{m}.gguf'
    if not gguf.exists(): gguf.symlink_to(os.path.abspath(f'{args.models}/{m}.gguf'))
    if 'saved' in args.parts:
        row = {'model': NAMES[m]}
        for payload in ('kv', 'hidden'):
            runs = []
            for _ in range(args.repeats):
                with tempfile.TemporaryDirectory() as store:
                    runs.append(run(args, 'save', gguf, '--prompt-file', texts[0], '--max-tokens', args.document_tokens, '--store', store, '--payload', payload, '--exact-copies', '--threads', 1))
            row[payload] = {k: runs[0][k] for k in ('tokens', 'bytes', 'exact_bytes', 'raw_bytes')} | {k: min(r[k] for r in runs) for k in ('prefill_seconds', 'project_seconds')}
        rows[NAMES[m]] = row
        print(json.dumps(row), flush=True)
    if m == 'smol' and 'judged' in args.parts:
        judged = {'model': NAMES[m], 'texts': args.texts, 'codecs': []}
        for payload in ('kv', 'hidden'):
            q = run(args, 'quality', gguf, *texts, '--payload', payload, '--codec', args.codecs, '--keep', args.work / 'contexts')['suffix']
            judged['codecs'] += [{'payload': payload, 'codec': c['codec'], 'levels': c['levels']} for c in q['codecs']]
            for c in q['codecs']: print(payload, c['codec'], ' · '.join(f"{l['bits_per_value']:.3f} @ {l['kl']:.5f}" for l in c['levels']), flush=True)
    report = {'script': 'bench/hidden.py', 'machine': {'cpu': cpu(), 'cores': os.cpu_count()}, 'judged': judged, 'models': [rows[n] for n in NAMES.values() if n in rows]}
    out.write_text(json.dumps(report, indent=1) + '\n')
