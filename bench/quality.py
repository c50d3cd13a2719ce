#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Quality per byte on real models, on the texts of bench/judging: calibrate, encode, decode every level, run the model on what came back.

    bench/calibration_texts.py TEXTS
    bench/quality.py --models DIR --texts TEXTS --work DIR [--engine build/bin/engine] [--only smol,qwen,gemma] [--out FILE]

DIR of --models holds {smol,qwen,gemma}.gguf. Contexts: the first 1,024 tokens of each text, judged on the 256 tokens that
follow. Calibration: --captures windows of TEXTS, sensitivities from several of them. Profiles in --work are reused, and so
is what the models make of the contexts (1 to 5 GB a model). All bytes of the frames count. The file is written model by
model, and keeps what it says of models and parts that are left out.
"""
import argparse, json, math, os, pathlib, subprocess

NAMES = {'smol': 'SmolLM2-135M', 'qwen': 'Qwen2.5-0.5B', 'gemma': 'Gemma-3-270m'}
ROOT = pathlib.Path(__file__).resolve().parent.parent
SET = [ROOT / 'bench/judging', ROOT / 'README.md']
CODECS = ['standard', 'balanced', 'smallest', 'plain8', 'plain4', 'fixed4']
# Published methods, and what needs no calibration. Those that keep the last 128 tokens of a frame exact get the whole context as one frame.
RIVALS = ['fp8', 'int4', 'turboquant4', 'turboquant3', 'kvquant4', 'kvquant3', 'cachegen_released_fine', 'cachegen_released', 'cachegen_released_coarse', 'cachegen_paper_fine', 'cachegen_paper', 'cachegen_paper_coarse']
WINDOWED = ['kivi2', 'kvtc8', 'kvtc16', 'kvtc32', 'aatc4', 'aatc3', 'aatc2', 'cachegen_released_1024']


def at_kl(levels, kl):
    """Bits per value where log KL, linear between levels, reaches kl."""
    p = sorted((l['bits_per_value'], l['kl']) for l in levels)
    i = next((i for i in range(1, len(p)) if p[i][1] <= kl), len(p) - 1)
    (b0, k0), (b1, k1) = p[i - 1], p[i]
    return b0 + (b1 - b0) * (math.log(k0) - math.log(kl)) / (math.log(k0) - math.log(k1))


def of_standard(codec, standard):
    """Bytes over those that `standard` needs for the same KL: 0.010, or what the coarsest level has where that is less."""
    share = {}
    for ours, its in zip(codec['texts'], standard['texts']):
        kl = min(0.010, max(l['kl'] for l in ours['levels']))
        share[ours['text']] = at_kl(ours['levels'], kl) / at_kl(its['levels'], kl)
    worst = max(share, key=share.get)
    return dict(mean=sum(share.values()) / len(share), worst=share[worst], worst_text=worst)


def cpu():
    with open('/proc/cpuinfo') as f: return next((l.split(':', 1)[1].strip() for l in f if l.startswith('model name')), 'unknown')


def run(a, *words): return json.loads(subprocess.run([a.engine, *map(str, words), '--json'], check=True, stdout=subprocess.PIPE, text=True).stdout)


def profile(a, name, *options, texts=None, captures=None):
    """Calibrated, on all texts or some, unless it has been, and what calibrating said."""
    path = a.work / f'{name}.profile'
    report = path.with_suffix('.json')
    if not (path.exists() and report.exists()):
        report.write_text(json.dumps(run(a, 'calibrate', f'{a.models}/{name.split("_")[0]}.gguf', *(texts or [a.texts]), '--captures', captures or a.captures, '-o', path, *options)))
    return path, {k: v for k, v in json.loads(report.read_text()).items() if k in ('tokens', 'bytes', 'expected_loss', 'seconds')}


def judge(a, model, codecs, options=(), gguf=None, calibration=None, of='', standard=None):
    """Results of codecs, called as they are, with `of` in front; `standard` is what they are compared with."""
    gguf = gguf or f'{a.models}/{model}.gguf'
    judged = run(a, 'quality', gguf, *SET, '--codec', ','.join(codecs), '--keep', a.work / 'contexts', *options)
    for c in judged['suffix']['codecs']:
        if c['codec'] == 'standard' and not of: standard = c
        r = dict(model=NAMES[model], variant=of + c['codec'], calibration=calibration, chunk_tokens=judged['chunk_tokens'], machine=cpu(), **c)
        if len(c['levels']) > 1 and max(l['kl'] for l in c['levels']) >= 0.010: r['bits_per_value_at_kl_0.010'] = at_kl(c['levels'], 0.010)
        if c['codec'] in ('balanced', 'smallest') and standard: r['bytes_of_standard'] = of_standard(c, standard)
        print(r['model'], r['variant'], ' · '.join(f"{l['bits_per_value']:.3f} @ {l['kl']:.4f} (worst {l['worst_kl']:.4f} {l['worst']})" for l in c['levels']), flush=True)
        yield r


def arguments(doc, only):
    """Of a program that calibrates models and judges them."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--models', required=True)
    for n in ('texts', 'work'): p.add_argument('--' + n, required=True, type=pathlib.Path)
    p.add_argument('--engine', default='build/bin/engine')
    p.add_argument('--captures', type=int, default=24)
    p.add_argument('--only', default=only)
    return p


if __name__ == '__main__':
    p = arguments(__doc__, 'smol,qwen,gemma')
    p.add_argument('--continuations', type=int, default=17, help='of SmolLM2')
    p.add_argument('--parts', default='codecs,rivals,measured,variants', help='rivals: published methods, and what needs no calibration; measured: steps by what is measured on each document; variants: SmolLM2 without sensitivities, and without calibration; domains: SmolLM2 calibrated on prose alone, and on code alone')
    p.add_argument('--codecs', default=','.join(CODECS), help='of part codecs')
    p.add_argument('--out', default='bench/results/quality.json')
    a = p.parse_args()
    parts = a.parts.split(',')
    results = {(r['model'], r['variant']): r for r in (json.loads(pathlib.Path(a.out).read_text())['results'] if os.path.exists(a.out) else [])}
    for m in a.only.split(','):
        found = []
        if {'codecs', 'measured'} & {*parts}: path, made = profile(a, m, '--predict')
        continued = ['--continuations', a.continuations if m == 'smol' else 0]
        if 'codecs' in parts:
            found += judge(a, m, a.codecs.split(','), ['--profile', path, *continued], calibration=made, standard=results.get((NAMES[m], 'standard')))
        if 'rivals' in parts:
            base, how = profile(a, m + '_estimated', '--no-sensitivities')  # which none of them uses
            theirs = base.with_suffix('.rivals.profile')
            if not theirs.exists(): run(a, 'calibrate', f'{a.models}/{m}.gguf', a.texts, '--captures', a.captures, '--from', base, '--for', 'kvtc16,kvquant4,aatc3,cachegen_paper,cachegen_paper_fine,cachegen_paper_coarse', '-o', theirs)
            whole = ['--profile', theirs, '--chunk-tokens', 1024]
            found += judge(a, m, ['int8'], ['--profile', theirs, *continued], calibration=how)
            found += judge(a, m, ['kivi4'], [*whole, *continued], calibration=how)
            found += judge(a, m, RIVALS, ['--profile', theirs], calibration=how)
            found += judge(a, m, WINDOWED, whole, calibration=how)
        if 'measured' in parts:
            standard = next((r for r in found if r['variant'] == 'standard'), results.get((NAMES[m], 'standard')))
            found += judge(a, m, ['balanced', 'smallest'], ['--profile', path, '--measure'], calibration=made, of='measured ', standard=standard)
        if 'variants' in parts and m == 'smol':
            estimated, how = profile(a, m + '_estimated', '--no-sensitivities')
            found += judge(a, m, ['standard'], ['--profile', estimated], calibration=how, of='no_sensitivities ')
            bare = a.work / 'uncalibrated' / f'{m}.gguf'  # no profile lies beside it
            bare.parent.mkdir(exist_ok=True)
            if not bare.exists(): bare.symlink_to(os.path.abspath(f'{a.models}/{m}.gguf'))
            found += judge(a, m, ['standard'], gguf=bare, of='uncalibrated ')
        if 'domains' in parts and m == 'smol':
            for domain in ('prose', 'code'):
                narrow, how = profile(a, f'{m}_{domain}', '--predict', texts=sorted(a.texts.glob(domain + '*.txt')), captures=10)  # as many as there is prose for
                standard = next((r for r in found if r['variant'] == 'standard'), results.get((NAMES[m], 'standard')))
                found += judge(a, m, ['balanced', 'smallest'], ['--profile', narrow], calibration=how, of=domain + '_only ', standard=standard)
        results |= {(r['model'], r['variant']): r for r in found}
        in_order = sorted(results.values(), key=lambda r: list(NAMES.values()).index(r['model']))
        json.dump(dict(script='bench/quality.py', set=[str(s.relative_to(ROOT)) for s in SET], context_tokens=1024, suffix_tokens=256, chunk_tokens=256,
                       continuation_tokens=256, results=in_order), open(a.out, 'w'), indent=1)
