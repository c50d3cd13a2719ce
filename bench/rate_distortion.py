#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws KL against bits per value of every codec in bench/results/quality.json, a panel for each model.

    bench/rate_distortion.py [QUALITY.json] [-o bench/results/rate_distortion.svg]
"""
import argparse, html, json, math, pathlib

ROOT = pathlib.Path(__file__).resolve().parent
STYLE = dict(standard='#707070', balanced='#2e86ab', smallest='#111111', plain8='#b0862c', plain4='#b0862c', fixed4='#8f6bb3', int4='#d1495b', kivi4='#5b8e55', turboquant4='#c77d2e', turboquant3='#c77d2e', cachegen_released_fine='#3d5a80', cachegen_released='#3d5a80', cachegen_released_coarse='#3d5a80')
W, H, L, T, B = 330, 300, 50, 34, 40
BITS, KL = (0.4, 12), (5e-5, 0.4)  # what the axes show, both logarithmic


def x(bits): return L + (W - L - 12) * math.log(bits / BITS[0]) / math.log(BITS[1] / BITS[0])
def y(kl): return H - B - (H - B - T) * math.log(kl / KL[0]) / math.log(KL[1] / KL[0])
def text(a, b, s, anchor='middle', size=11, extra=''): return f'<text x="{a:.1f}" y="{b:.1f}" text-anchor="{anchor}" font-size="{size}" {extra}>{html.escape(s)}</text>'


def panel(model, codecs):
    out = [text((L + W) / 2, 18, model, size=13)]
    for bits in (0.5, 1, 2, 4, 8): out += [f'<line x1="{x(bits):.1f}" x2="{x(bits):.1f}" y1="{T}" y2="{H - B}" stroke="#e4e4e4"/>', text(x(bits), H - B + 15, f'{bits:g}')]
    for e in (-4, -3, -2, -1): out += [f'<line x1="{L}" x2="{W - 12}" y1="{y(10 ** e):.1f}" y2="{y(10 ** e):.1f}" stroke="#e4e4e4"/>', text(L - 6, y(10 ** e) + 4, f'{10 ** e:g}', 'end')]
    for c in codecs:
        points = [(x(l['bits_per_value']), y(max(l['kl'], KL[0]))) for l in c['levels']]
        colour, label = STYLE[c['codec']], c['variant']
        if len(points) > 1: out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="' + ' '.join(f'{a:.1f},{b:.1f}' for a, b in points) + f'"><title>{label}</title></polyline>')
        out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points]
        # Names stand where curves begin, on the side where no other curve is.
        a, b = points[0]
        below = label in ('smallest', 'fixed4')
        out.append(text(a + (-4 if label == 'smallest' else 6), b + (16 if below else -5), label, 'end' if label == 'smallest' else 'start', 10, f'fill="{colour}"'))
    return '\n'.join(out + [text((L + W) / 2, H - 6, 'bits per value')])


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('quality', nargs='?', default=ROOT / 'results/quality.json', type=pathlib.Path)
    p.add_argument('-o', default=ROOT / 'results/rate_distortion.svg', type=pathlib.Path)
    a = p.parse_args()
    results = [r for r in json.loads(a.quality.read_text())['results'] if r['variant'] in STYLE]
    models = list(dict.fromkeys(r['model'] for r in results))
    panels = [f'<g transform="translate({W * i},0)">{panel(m, [r for r in results if r["model"] == m])}</g>' for i, m in enumerate(models)]
    axis = text(14, H / 2, "KL, nats", extra=f'transform="rotate(-90 14 {H / 2:g})"')
    a.o.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="{W * len(models)}" height="{H}" font-family="sans-serif" role="img" aria-label="KL against bits per value">\n'
                   f'<rect width="100%" height="100%" fill="#fff"/>\n{axis}\n' + '\n'.join(panels) + '\n</svg>\n')
