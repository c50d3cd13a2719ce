#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes unicode_table.inl: which code points are letters (\\p{L}), numbers (\\p{N}) and digits for the `tokenizers` library.

Asks the library itself, because that is what the vocabularies were trained with and its Unicode version is not ours. Its
"Digits" pre-tokenizer follows a newer Unicode than its regular expressions, hence the third class.
Needs: pip install tokenizers
"""
import pathlib

from tokenizers import Regex, pre_tokenizers as pre

points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def matching(pattern):
    split, out = pre.Split(Regex(pattern), 'removed'), set()
    for i in range(0, len(points), 4096):
        chunk = points[i:i + 4096]
        out |= set(chunk) - {ord(c) for piece, _ in split.pre_tokenize_str(''.join(map(chr, chunk))) for c in piece}
    return out


letters, numbers, digits = matching(r'\p{L}'), matching(r'\p{N}'), pre.Digits(individual_digits=True)
isolated = {c for c in points if len(digits.pre_tokenize_str('a' + chr(c) + 'a')) == 3}
assert numbers <= isolated and not letters & isolated
kind = {**{c: 'letter' for c in letters}, **{c: 'digit' for c in isolated}, **{c: 'number' for c in numbers}}

ranges = []
for c in sorted(kind):
    if ranges and ranges[-1][1] == c - 1 and ranges[-1][2] == kind[c]:
        ranges[-1][1] = c
    else:
        ranges.append([c, c, kind[c]])

lines, line = [], ''
for first, last, name in ranges:
    entry = f'{{0x{first:x},0x{last:x},{name}}},'
    if len(line) + len(entry) > 118:
        lines.append(line)
        line = ''
    line += entry
text = '// Made by make_unicode_table.py: first and last code point, class.\n// clang-format off\n' + '\n'.join(lines + [line]) + '\n'
pathlib.Path(__file__).with_name('unicode_table.inl').write_text(text)
