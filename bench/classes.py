#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes include/sluice/codec/entropy/class_rans/classes_data.inl, the normative probability tables of the coefficient classes.

    bench/classes.py > include/sluice/codec/entropy/class_rans/classes_data.inl      write the tables
    bench/classes.py --report                                     what each table costs against the entropy of its class

A class is a distribution family (shape) and the quarter-octave index w of its standard deviation over a step: 2^((w-16)/4).
The families are Gaussians whose scale wanders log-normally with standard deviation SPREAD[shape] (nats): 0 is the Gaussian,
0.8 has the tails of a generalised Gaussian of exponent 0.6. On the coefficients of three real models the best of these four
costs 0.5-0.7 % more than every coefficient's own histogram; one Gaussian alone costs 0.7-1.8 %, generalised Gaussians of
exponents 2.0 / 1.4 / 1.0 / 0.6 the same as these. The file written is normative, this script is not: running it with another
libm may move a count by one, so the tables are made once and kept.
"""
import math, sys

SPREAD = (0.0, 0.25, 0.4, 0.8)
SHIFT = (0, 6, 13, 19, 25, 32)  # quarter octaves of a factor 3^back, rounded
DEAD = 1 / 3600                 # P(not 0) below which a coefficient is not coded in a pass
ESCAPE = 64.0                   # bits of an exception
EFFORT = 0.0006                 # bits that one vector operation of the decoder is worth: 4 a symbol, 33 a ternary digit
SLACK = 0.01                    # bits and effort given up to save a digit
LIMIT = 7 * 81 + 40             # the largest value that seven levels and four digits can express


def tail(x, spread):
    """P(X > x) for standard deviation 1, x >= 0."""
    if spread == 0: return 0.5 * math.erfc(x / math.sqrt(2))
    total = norm = 0.0
    sd = math.exp(spread * spread)  # of the mixture with median scale 1
    for i in range(-45, 46):
        z = i / 10
        w = math.exp(-0.5 * z * z)
        norm += w
        total += w * 0.5 * math.erfc(x * sd / (math.exp(spread * z) * math.sqrt(2)))
    return total / norm


def cells(shape, w):
    """P(v) for v = 0..LIMIT and P(|v| > LIMIT), steps of 1."""
    sigma = 2.0 ** ((w - 16) / 4)
    edge = [tail((v + 0.5) / sigma, SPREAD[shape]) for v in range(LIMIT + 1)]
    return [1 - 2 * edge[0]] + [edge[v - 1] - edge[v] for v in range(1, LIMIT + 1)], 2 * edge[-1]


def share(weights, total):
    """Integers >= 1 that sum to total and minimise the code length under these weights."""
    s = sum(weights)
    p = [x / s for x in weights]
    f = [max(1, int(x * total)) for x in p]
    gain = lambda i: p[i] * math.log2((f[i] + 1) / f[i])
    loss = lambda i: p[i] * math.log2(f[i] / (f[i] - 1)) if f[i] > 1 else math.inf
    every = range(len(f))
    while sum(f) < total: f[max(every, key=gain)] += 1
    while sum(f) > total: f[min(every, key=loss)] -= 1
    while True:
        i, j = max(every, key=gain), min(every, key=loss)
        if i == j or gain(i) <= loss(j) + 1e-12: return f
        f[i] += 1
        f[j] -= 1


def symmetric(p0, pairs):
    """Counts (zero, then one for each of +v and -v) that sum to 256; both signs alike."""
    f = share([p0] + list(pairs), 128)
    return [2 * f[0]] + f[1:]


def entropy(p):
    return -sum((2 if v else 1) * x * math.log2(x) for v, x in enumerate(p) if x > 0)


def ternary(p):
    """Counts of (same, -1, +1) below a zero parent and of (same, toward zero, away) below another."""
    zero = symmetric(p[0], [2 * p[1]])
    nonzero = share([sum(p[3:-1:3]) + 1e-13, sum(p[2:-1:3]) + 1e-13, sum(p[4::3]) + 1e-13], 256)
    return [zero[0], zero[1], zero[1]], nonzero


def digits_cost(p, e, tables):
    """Bits of e ternary digits, tables[k] for the digit of weight 3^k."""
    bits = 0.0
    for k in range(e):
        z, n = tables[k]
        zero, nonzero = [0.0] * 3, [0.0] * 3
        for v, x in enumerate(p):
            d = (v + (3 ** k - 1) // 2) // 3 ** k  # the value at scale 3^k, v >= 0
            c, r = (d + 1) // 3, d - 3 * ((d + 1) // 3)
            (nonzero if c else zero)[0 if r == 0 else 1 if r < 0 else 2] += x if v == 0 else 2 * x
        zero[1] = zero[2] = (zero[1] + zero[2]) / 2
        bits -= sum(x * math.log2(f / 256) for x, f in zip(zero + nonzero, z + n))
    return bits


def base(p, rest, tables, least):
    """(bits, digits, counts of 0, +-1, +-2, ...) of the base pass: few digits first, since one lane's digit costs its whole
    block, but no fewer than the next narrower class has."""
    best = []
    for e in range(least, 5):
        scale, half = 3 ** e, (3 ** e - 1) // 2
        coarse = [p[0] + 2 * sum(p[1:half + 1])] + [sum(p[v * scale - half:v * scale + half + 1]) for v in range(1, 8)]
        extra = digits_cost(p, e, tables)
        for m in range(1, 6 if e < 4 else 8):  # eleven symbols: one lane sets the pace of its block
            escape = rest + 2 * sum(p[m * scale + half + 1:])
            pairs = [2 * coarse[v] for v in range(1, m + 1)]
            pairs[-1] += escape
            f = symmetric(coarse[0], pairs)
            bits = -(coarse[0] * math.log2(f[0] / 256) + sum(q * math.log2(c / 256) for q, c in zip(pairs, f[1:])))
            bits += escape * ESCAPE + extra
            best.append((bits + EFFORT * (8 * m + 33 * e), e, bits, f))
    limit = min(best)[0] + SLACK
    e = min(c[1] for c in best if c[0] <= limit)
    return min(c for c in best if c[1] == e)[1:]


def main():
    report = '--report' in sys.argv
    if not report:
        print('// SPDX-License-Identifier: Apache-2.0')
        print('// clang-format off\n// Made by bench/classes.py; normative (FORMAT.md). Class = shape * 64 + w.')
        print('// {thresholds of base symbols 1..15, ternary digits, ternary thresholds below zero, below other parents}')
    for shape in range(4):
        tables, e = [], 0
        for w in range(64):
            p, rest = cells(shape, w)
            live = w > 0 and 1 - p[0] >= DEAD
            tables.append(ternary(p))
            t, zero, nonzero, f = [255] * 15, [255] * 2, [255] * 2, [256]
            if live:
                e, bits, f = base(p, rest, [tables[max(w - SHIFT[k], 0)] for k in range(5)], e)
                below = lambda counts: [sum(counts[:k]) - 1 for k in range(1, len(counts))]
                t = below([f[0]] + [c for c in f[1:] for _ in range(2)])
                t += [255] * (15 - len(t))
                zero, nonzero = below(tables[w][0]), below(tables[w][1])
            if report:
                h = entropy(p)
                if live: print(f'shape {shape} w {w:2} P(not 0) {1 - p[0]:.5f} entropy {h:.4f} bits {bits:.4f} {bits - h:+.4f} digits {e} counts {f} ternary {tables[w]}')
            else:
                row = lambda x: '{' + ', '.join(map(str, x)) + '}'
                print(f'{{{row(t)}, {e}, {row(zero)}, {row(nonzero)}}},  // {shape}, {w}')


if __name__ == '__main__':
    main()
