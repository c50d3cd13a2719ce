#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Collects texts to calibrate on from Debian packages: one file for each domain, all of about one size.

    bench/calibration_texts.py DIR [--bytes N] [--keep PACKAGES]

Needs apt and dpkg, no root; takes a minute. Packages are fetched and read, not installed; --keep keeps them for the next
run. DIR/licences lists what was taken from which package, and holds the packages' licences.
None of these packages is one that bench/judging has a text of. `engine calibrate MODEL DIR` reads the folder.
"""
import argparse, fnmatch, glob, gzip, html, pathlib, re, subprocess, tarfile, tempfile

PIECE = 7000  # bytes taken from one place: somewhat more than a window of 1,024 tokens and its suffix


def plain(t): return t


def prose(t):
    """HTML without its tags."""
    t = re.sub(r'(?s)<(script|style|head|nav|footer).*?</\1>', '', t)
    t = re.sub(r'</(p|div|h\d|li|dt|dd|tr|pre)>', '\n', t)
    t = html.unescape(re.sub(r'<[^>]+>', '', t))
    return re.sub(r'\n\s*\n+', '\n\n', '\n'.join(re.sub(r'\s+', ' ', l).strip() for l in t.split('\n')))


def rendered(t):
    """A manual page without its requests and escapes."""
    lines = [re.sub(r'\\f.|\\&|\\c', '', l).replace('\\-', '-').replace('\\(aq', "'") for l in t.split('\n')]
    lines = [re.sub(r'^\.(SH|SS|B|I|BR|IR|BI|RB|RI|TP|IP)\b ?', '', l) for l in lines if not l.startswith(('.\\"', "'\\\""))]
    return '\n'.join(l for l in lines if not l.startswith('.'))


def speeches(t):
    """What is said in a scenario of Wesnoth, and by whom."""
    said = re.findall(r'(?s)(?:speaker|id)=([^\n]+)\n(?:(?!\[/message\]).)*?message=\s*_\s*"([^"]*)"', t)
    return ''.join(f'{who.strip()}: {re.sub("<[^>]+>", "", what)}\n' for who, what in said)


# domain: [(package, files, how they are read)]
SOURCES = {
    'prose': [('anarchism', 'usr/share/doc/anarchism/html/sec[ACFIJ]*.html', prose),
              ('golang-1.19-src', 'usr/share/go-1.19/src/testdata/Isaac.Newton-Opticks.txt', plain),
              ('debian-history', 'usr/share/doc/debian-history/docs/*.en.html', prose),
              ('jargon-text', 'usr/share/doc/jargon-text/jargon.txt.gz', plain)],
    'dialogue': [('wesnoth-1.16-dw', 'usr/share/games/wesnoth/1.16/data/campaigns/*/scenarios/*.cfg', speeches),
                 ('wesnoth-1.16-low', 'usr/share/games/wesnoth/1.16/data/campaigns/*/scenarios/*.cfg', speeches)],
    'questions': [('debian-faq', 'usr/share/doc/debian/FAQ/*.en.html', prose),
                  ('anarchism', 'usr/share/doc/anarchism/html/sec[BDEGH]*.html', prose)],
    'code_c': [('libstb-dev', 'usr/include/stb/*.h', plain), ('libfmt-dev', 'usr/include/fmt/*.h', plain),
               ('nlohmann-json3-dev', 'usr/include/nlohmann/detail/*/*.hpp', plain)],
    'code_python': [('python3-networkx', 'usr/lib/python3/dist-packages/networkx/algorithms/*.py', plain),
                    ('python3-jinja2', 'usr/lib/python3/dist-packages/jinja2/*.py', plain)],
    'code_web': [('node-express', 'usr/share/nodejs/express/lib/*.js', plain), ('libjs-backbone', 'usr/share/javascript/backbone/backbone.js', plain),
                 ('ruby-sinatra', 'usr/*/lib/sinatra/*.rb', plain), ('ruby-rack', 'usr/share/*/lib/rack/*.rb', plain)],
    'code_other': [('golang-1.19-src', 'usr/share/go-1.19/src/net/http/*.go', plain), ('librust-clap-dev', 'usr/share/cargo/registry/clap-*/src/**/*.rs', plain),
                   ('tcllib', 'usr/share/tcltk/tcllib*/*/*.tcl', plain), ('bash-completion', 'usr/share/bash-completion/completions/*', plain),
                   ('libchatbot-eliza-perl', 'usr/share/perl5/Chatbot/*.pm', plain)],
    'documentation': [('git-doc', 'usr/share/doc/git-doc/git-*.txt', plain), ('python-jinja2-doc', 'usr/share/doc/*/html/*_sources/*.txt', plain),
                      ('cmake-doc', 'usr/share/doc/cmake*/html/_sources/manual/*.txt', plain), ('tcl8.6-doc', 'usr/share/man/man3/*.gz', plain),
                      ('developers-reference-fr', 'usr/share/developers-reference/fr/resources.html', plain), ('manpages', 'usr/share/man/man7/*.gz', plain)],
    'legal': [('base-files', 'usr/share/common-licenses/[!G]*', plain), ('libstb-dev', 'usr/share/doc/libstb-dev/copyright', plain),
              ('wesnoth-1.16-dw', 'usr/share/doc/*/copyright', plain), ('hwdata', 'usr/share/doc/hwdata/copyright', plain)],
    'data': [('iso-codes', 'usr/share/iso-codes/json/*.json', plain), ('unicode-data', 'usr/share/unicode/*.txt', plain), ('hwdata', 'usr/share/hwdata/*.ids', plain),
             ('git-doc', 'usr/share/doc/git-doc/changelog.gz', plain), ('cmake-doc', 'usr/share/doc/cmake*/html/*/*.html', plain)],
    'european': [('manpages-de', 'usr/share/man/de/man[157]/*.gz', rendered), ('debian-reference-fr', 'usr/share/debian-reference/*.txt.gz', plain),
                 ('manpages-es', 'usr/share/man/es/man[157]/*.gz', rendered), ('debian-faq-it', 'usr/share/doc/debian/FAQ/*/*.html', prose),
                 ('manpages-pl', 'usr/share/man/pl/man[157]/*.gz', rendered), ('debian-faq-de', 'usr/share/doc/debian/FAQ/*/*.html', prose)],
    'other_scripts': [('debian-faq-ru', 'usr/share/doc/debian/FAQ/*/*.html', prose), ('debian-reference-zh-cn', 'usr/share/debian-reference/*.txt.gz', plain),
                      ('debian-reference-ja', 'usr/share/debian-reference/*.txt.gz', plain), ('manpages-ru', 'usr/share/man/ru/man[157]/*.gz', rendered)],
}


def archive(package, folder):
    """The package's file; fetched where it is not there. None where apt does not have it."""
    if not glob.glob(f'{folder}/{package}_*.deb'): subprocess.run(['apt-get', 'download', '-q', package], cwd=folder, capture_output=True)
    return next(iter(glob.glob(f'{folder}/{package}_*.deb')), None)


def files_of(deb, patterns):
    """Text of the package's files whose names match, by pattern, in the order of names. `*` stands for slashes as well."""
    found = {p: {} for p in patterns}
    with subprocess.Popen(['dpkg-deb', '--fsys-tarfile', deb], stdout=subprocess.PIPE) as p, tarfile.open(fileobj=p.stdout, mode='r|') as tar:
        for f in tar:
            matching = [pattern for pattern in patterns if f.isfile() and fnmatch.fnmatch(f.name, './' + pattern)]
            if not matching: continue
            data = tar.extractfile(f).read()
            text = (gzip.decompress(data) if f.name.endswith('.gz') else data).decode('utf-8', errors='ignore')
            for pattern in matching: found[pattern][f.name] = text
    return {p: [t for _, t in sorted(texts.items())] for p, texts in found.items()}


def pieces(files, how):
    """Pieces of at most PIECE bytes: the middle of each file first, then what is before and behind, file by file in turn."""
    texts = [t for t in map(how, files) if len(t) > 500]
    cut = []
    for t in texts:
        data, n = t.encode(), max(1, len(t.encode()) // PIECE)
        parts = [data[i * len(data) // n:(i + 1) * len(data) // n][:PIECE].decode(errors='ignore') for i in range(n)]
        order = sorted(range(n), key=lambda i: (i - n // 2) * 7919 % n)  # from all over it
        cut.append([parts[i] for i in order])
    for turn in range(max(map(len, cut), default=0)):
        yield from (c[turn] for c in cut if turn < len(c))


def some(files, most=24):
    """At most so many of them, evenly."""
    return files if len(files) <= most else [files[i * len(files) // most] for i in range(most)]


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('dir', type=pathlib.Path)
    p.add_argument('--bytes', type=int, default=42000, help='of each domain')
    p.add_argument('--keep', type=pathlib.Path, help='a folder for what is fetched')
    a = p.parse_args()
    scratch = tempfile.TemporaryDirectory()
    folder = a.keep or pathlib.Path(scratch.name)
    for d in (folder, a.dir / 'licences'): d.mkdir(parents=True, exist_ok=True)
    wanted = {}
    for sources in SOURCES.values():
        for package, pattern, _ in sources: wanted.setdefault(package, []).append(pattern)
    texts = {}
    for package, patterns in wanted.items():
        deb, terms = archive(package, folder), f'usr/share/doc/{package}/copyright'
        found = files_of(deb, [*patterns, terms]) if deb else {}
        texts |= {(package, p): found.get(p, []) for p in patterns}
        (a.dir / 'licences' / f'{package}.txt').write_text('\n'.join(found.get(terms, [])) or 'as of the package that it is built with\n', encoding='utf-8')

    table = ['| domain | package | bytes | files |', '|---|---|---|---|']
    for domain, sources in SOURCES.items():
        streams = {(package, pattern): pieces(some(texts[package, pattern]), how) for package, pattern, how in sources}
        text, taken = '', dict.fromkeys(streams, 0)
        while streams and len(text.encode()) < a.bytes:
            for s in list(streams):
                piece = next(streams[s], None)
                if piece is None: del streams[s]
                else: text, taken[s] = text + piece.rstrip() + '\n\n', taken[s] + len(piece.encode())
        (a.dir / f'{domain}.txt').write_text(text, encoding='utf-8')
        table += [f'| {domain} | {package} | {n} | `{pattern}` |' for (package, pattern), n in taken.items() if n]
        print(f'{domain}: {len(text.encode())} bytes', *(f'(nothing of {p})' for (p, _), n in taken.items() if not n), flush=True)
    (a.dir / 'licences' / 'SOURCES.md').write_text('Taken from Debian packages.\n\n' + '\n'.join(table) + '\n')
