#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the torch of PyPI, which is built for CUDA, work on a machine without: 540 MB instead of 4 GB.

    python bench/torch_cpu_stubs.py     # in the environment where torch and nvidia-cuda-runtime lie, and gcc is found

For each library of CUDA that torch's own need and that is not here, a library of that name with the functions they
name, of the same symbol versions; each returns an error. `import torch` and everything on the CPU then work, and
torch.cuda.is_available() is False.
"""
import collections, glob, importlib.util, os, re, subprocess, tempfile


def output(*command): return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main():
    root = os.path.join(importlib.util.find_spec('torch').submodule_search_locations[0], 'lib')
    ours = [f for f in sorted(glob.glob(f'{root}/*.so*')) if not os.path.islink(f)]
    here = {os.path.basename(f) for f in ours}
    here |= {os.path.basename(f) for f in glob.glob(f'{root}/../../nvidia/**/*.so*', recursive=True)}
    here |= set(re.findall(r'^\s*(\S+\.so\S*)', output('/sbin/ldconfig', '-p'), re.M))
    needed = {n for f in ours for n in re.findall(r'NEEDED.*\[(.*)\]', output('readelf', '-d', f))}
    absent = sorted(n for n in needed - here if not n.startswith('ld-linux'))

    versions = {}  # symbol version -> the library that it is asked of
    wanted, defined = set(), set()
    for f in ours:
        library = None
        for line in output('readelf', '-V', '-W', f).splitlines():
            if m := re.search(r'File: (\S+)', line): library = m[1]
            elif (m := re.search(r'Name: (\S+)\s+Flags', line)) and library: versions[m[1]] = library
        for line in output('nm', '-D', f).splitlines():
            kind, symbol = line.split()[-2:]
            (wanted.add(symbol) if kind == 'U' else defined.add(symbol.partition('@')[0]))
    names = collections.defaultdict(lambda: collections.defaultdict(list))
    anywhere = []  # what has no version could be of any of them: each has it
    for symbol in wanted:
        name, _, version = symbol.partition('@')
        if versions.get(version) in absent: names[versions[version]][version].append(name)
        elif not version and re.match('cu|nv|nccl', name) and name not in defined: anywhere.append(name)
    for library in absent:
        names[library][''] = anywhere
        with tempfile.TemporaryDirectory() as work:
            with open(f'{work}/stub.c', 'w') as c, open(f'{work}/stub.map', 'w') as m:
                for version, symbols in names[library].items():
                    symbols = sorted(set(symbols))
                    for s in symbols: c.write(f'int {s}(void) {{ return 999; }}\n')
                    if version: m.write(f'{version} {{ global: {"; ".join(symbols)}; }};\n')
                c.write('int sluice_stub;\n')
            script = [f'-Wl,--version-script={work}/stub.map'] if any(v and s for v, s in names[library].items()) else []
            subprocess.run(['gcc', '-shared', '-fPIC', '-w', '-fno-builtin', f'-Wl,-soname,{library}', *script, '-o', f'{root}/{library}', f'{work}/stub.c'], check=True)
    print(f'{len(absent)} libraries: {" ".join(absent)}')


if __name__ == '__main__': main()
