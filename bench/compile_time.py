#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What sluice costs to compile: user seconds and peak memory of the compiler, with headers alone and with sluice::kernels.

    bench/compile_time.py [--compiler g++] [--runs 3] [--out bench/results/compile_time.json]
        the umbrella header, the first encoder and decoder, and each further codec beside them, at -O2
    bench/compile_time.py --all build [--match unit/] [--out FILE]
        every translation unit of a configured build, as its compile_commands.json says; fails where one takes more than
        60 s or 1 GB. --match takes those whose path holds the word.

Prints every command. The least of the runs counts: other programs only add. Needs no library beside Python's.
"""
import argparse, json, os, pathlib, shlex, subprocess, sys, tempfile

from quality import cpu

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECONDS, MEGABYTES = 60, 1024
CODECS = ['exact', 'uncompressed', 'fixed<4>', 'plain<8>', 'plain<4>', 'int4', 'kivi<4>', 'cachegen_paper<>']
USE = '''template <class Codec>
bool use(const sluice::profile& p, const sluice::kv_view& v, std::vector<std::byte>& out) {
  sluice::encoder<Codec> e(p);
  out.resize(e.max_size(v));
  const auto n = e.encode(v, out);
  sluice::decoder<Codec> d(p);
  return n && d.decode({out.data(), *n}, v).worst == sluice::status::ok;
}
'''


def measure(command, cwd, runs):
    """User seconds and peak MB of the heaviest process; the least of the runs."""
    best = None
    for _ in range(runs):
        child = subprocess.Popen(command, cwd=cwd)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode: sys.exit(f'failed: {shlex.join(command)}')
        now = (used.ru_utime, used.ru_maxrss / 1024)
        best = now if best is None else (min(best[0], now[0]), min(best[1], now[1]))
    return {'seconds': round(best[0], 2), 'megabytes': round(best[1])}


def headers(args, folder):
    def source(codecs):
        body = ''.join(f'template bool use<sluice::codec::{c}>(const sluice::profile&, const sluice::kv_view&, std::vector<std::byte>&);\n' for c in codecs)
        return '#include <sluice/sluice.hpp>\n#include <vector>\n' + (USE + body if codecs else '')
    rows = []
    cases = [('umbrella', []), ('first encoder and decoder', ['standard'])] + [(f'and {c}', ['standard', c]) for c in CODECS] + [('all of them', ['standard'] + CODECS)]
    for name, codecs in cases:
        path = pathlib.Path(folder) / 'use.cpp'
        path.write_text(source(codecs))
        row = {'name': name, 'source': path.read_text()}
        for kind, flags in (('headers', []), ('kernels', ['-DSLUICE_USE_KERNELS'])):
            command = [args.compiler, '-std=c++20', '-O2', *flags, '-I' + str(ROOT / 'include'), '-c', str(path), '-o', os.devnull]
            if not args.quiet: print(shlex.join(command))
            row[kind] = measure(command, folder, args.runs)
        print(f"{name:28} headers {row['headers']['seconds']:6.2f} s {row['headers']['megabytes']:5} MB    kernels {row['kernels']['seconds']:6.2f} s {row['kernels']['megabytes']:5} MB")
        rows.append(row)
    return rows, True


def units(args, _):
    entries = json.loads((pathlib.Path(args.all) / 'compile_commands.json').read_text())
    rows, fine = [], True
    for entry in entries:
        if args.match not in entry['file'] or entry['file'].endswith('.cu'): continue
        command = shlex.split(entry['command'])
        if os.path.basename(command[0]) in ('ccache', 'sccache'): command = command[1:]
        command[command.index('-o') + 1] = os.devnull
        for flag in ('-MF', '-MT'):
            if flag in command: del command[command.index(flag):command.index(flag) + 2]
        command = [c for c in command if c != '-MD']
        if not args.quiet: print(shlex.join(command))
        row = {'unit': os.path.relpath(entry['file'], ROOT), **measure(command, entry['directory'], args.runs)}
        over = row['seconds'] > SECONDS or row['megabytes'] > MEGABYTES
        fine &= not over
        print(f"{row['seconds']:7.2f} s {row['megabytes']:5} MB  {row['unit']}{'  TOO MUCH' if over else ''}", flush=True)
        rows.append(row)
    return sorted(rows, key=lambda r: -r['seconds']), fine


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--compiler', default='g++')
parser.add_argument('--runs', type=int)
parser.add_argument('--all', metavar='BUILD')
parser.add_argument('--match', default='')
parser.add_argument('--out')
parser.add_argument('--quiet', action='store_true', help='no commands')
args = parser.parse_args()
args.runs = args.runs or (1 if args.all else 3)
with tempfile.TemporaryDirectory() as folder: rows, fine = (units if args.all else headers)(args, folder)
if args.out:
    version = subprocess.run([args.compiler, '--version'], capture_output=True, text=True).stdout.splitlines()[0]
    pathlib.Path(args.out).write_text(json.dumps({'script': 'bench/compile_time.py', 'machine': {'cpu': cpu(), 'cores': os.cpu_count(), 'compiler': version}, 'runs': args.runs, 'rows': rows}, indent=1) + '\n')
sys.exit(not fine)
