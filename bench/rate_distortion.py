#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws KL against bits per value of every codec in bench/results/quality.json, a panel for each model.

    bench/rate_distortion.py [QUALITY.json] [-o bench/results/rate_distortion.svg]
"""
import argparse, html, json, math, pathlib

ROOT = pathlib.Path(__file__).resolve().parent
# What one curve is made of: the levels of our presets, and each method's settings.
CURVES = {
    'smallest': ('#111111', ['smallest']), 'balanced': ('#2e86ab', ['balanced']), 'standard': ('#8a8a8a', ['standard']), 'plain': ('#b0862c', ['plain8', 'plain4']),
    'KVTC': ('#7b4fa3', ['kvtc8', 'kvtc16', 'kvtc32']), 'CacheGen, released': ('#3d5a80', ['cachegen_released_fine', 'cachegen_released', 'cachegen_released_coarse']),
    'CacheGen, paper': ('#79a7d3', ['cachegen_paper_fine', 'cachegen_paper', 'cachegen_paper_coarse']), 'AATC': ('#1b998b', ['aatc4', 'aatc3', 'aatc2']),
    'KVQuant': ('#e4572e', ['kvquant4', 'kvquant3']), 'KIVI': ('#5b8e55', ['kivi4', 'kivi2']), 'TurboQuant': ('#c77d2e', ['turboquant4', 'turboquant3']), 'int8, int4': ('#d1495b', ['int8', 'int4'])}
W, H, L, T, B = 330, 300, 50, 34, 40
LEGEND = 44  # below the panels
BITS, KL = (0.4, 12), (5e-5, 1.5)  # what the axes show, both logarithmic


def x(bits): return L + (W - L - 12) * math.log(bits / BITS[0]) / math.log(BITS[1] / BITS[0])
def y(kl): return H - B - (H - B - T) * math.log(kl / KL[0]) / math.log(KL[1] / KL[0])
def text(a, b, s, anchor='middle', size=11, extra=''): return f'<text x="{a:.1f}" y="{b:.1f}" text-anchor="{anchor}" font-size="{size}" {extra}>{html.escape(s)}</text>'


def panel(model, codecs):
    out = [text((L + W) / 2, 18, model, size=13)]
    for bits in (0.5, 1, 2, 4, 8): out += [f'<line x1="{x(bits):.1f}" x2="{x(bits):.1f}" y1="{T}" y2="{H - B}" stroke="#e4e4e4"/>', text(x(bits), H - B + 15, f'{bits:g}')]
    for e in (-4, -3, -2, -1): out += [f'<line x1="{L}" x2="{W - 12}" y1="{y(10 ** e):.1f}" y2="{y(10 ** e):.1f}" stroke="#e4e4e4"/>', text(L - 6, y(10 ** e) + 4, f'{10 ** e:g}', 'end')]
    for name, (colour, members) in CURVES.items():
        points = [(x(l['bits_per_value']), y(max(l['kl'], KL[0]))) for m in members if m in codecs for l in codecs[m]['levels']]
        if len(points) > 1: out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="{2.5 if name in codecs else 1.2}" points="' + ' '.join(f'{a:.1f},{b:.1f}' for a, b in points) + f'"><title>{name}</title></polyline>')
        out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{3 if name in codecs else 2.2}" fill="{colour}"/>' for a, b in points]
    return '\n'.join(out + [text((L + W) / 2, H - 6, 'bits per value')])


def legend(width):
    out = []
    for i, (name, (colour, _)) in enumerate(CURVES.items()):
        row, column = divmod(i, 6)
        a, b = L + column * (width - L) / 6, H + 14 + 18 * row
        out += [f'<line x1="{a:.1f}" x2="{a + 16:.1f}" y1="{b - 4}" y2="{b - 4}" stroke="{colour}" stroke-width="2.5"/>', text(a + 22, b, name, 'start')]
    return '\n'.join(out)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('quality', nargs='?', default=ROOT / 'results/quality.json', type=pathlib.Path)
    p.add_argument('-o', default=ROOT / 'results/rate_distortion.svg', type=pathlib.Path)
    a = p.parse_args()
    results = json.loads(a.quality.read_text())['results']
    models = list(dict.fromkeys(r['model'] for r in results))
    panels = [f'<g transform="translate({W * i},0)">{panel(m, {r["variant"]: r for r in results if r["model"] == m})}</g>' for i, m in enumerate(models)]
    axis = text(14, H / 2, "KL, nats", extra=f'transform="rotate(-90 14 {H / 2:g})"')
    a.o.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="{W * len(models)}" height="{H + LEGEND}" font-family="sans-serif" role="img" aria-label="KL against bits per value">\n'
                   f'<rect width="100%" height="100%" fill="#fff"/>\n{axis}\n' + '\n'.join(panels) + f'\n{legend(W * len(models))}\n</svg>\n')
