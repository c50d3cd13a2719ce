#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Frames in a Mooncake Store beside the bytes that they were made of: real mooncake_master, real client, TCP on loopback.

    bench/mooncake_store.py [--sluice build/bin/sluice] [--capture FILE --profile FILE] [--rounds 21] [--out FILE]

Python needs the wheel mooncake-transfer-engine-non-cuda (0.3.13.post1 was used), which brings mooncake_master; Debian lacks
its libibverbs1 and libnuma1. The capture is the committed one: 256 tokens of SmolLM2-135M, f16, and one frame. `raw` is its K
and V. Another process lends the memory for objects, so every byte crosses a socket. Every round puts and gets each of the
objects once, under a new key and in another order; what comes back is compared byte by byte, and `sluice verify` reads it
once. Times are medians, and the best of all rounds.
Then the store is used as it should not be: two clients put one key at once, who lends is killed, the master is killed.
"""
import argparse, importlib.metadata, json, os, random, signal, socket, statistics, subprocess, sys, tempfile, threading, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def timed(work, *words):
    begin = time.perf_counter()
    result = work(*words)
    return result, time.perf_counter() - begin


def start_master(store_module):
    port = free_port()
    program = os.path.join(os.path.dirname(store_module.__file__), 'mooncake_master')
    os.chmod(program, 0o755)
    process = subprocess.Popen([program, f'-rpc_port={port}', f'-metrics_port={free_port()}'],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        with socket.socket() as s:
            if s.connect_ex(('127.0.0.1', port)) == 0:
                return process, port
        time.sleep(.1)
    sys.exit('mooncake_master does not listen')


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--sluice', default=f'{ROOT}/build/bin/sluice')
    p.add_argument('--capture', default=f'{ROOT}/test/data/smollm2_sample.safetensors')
    p.add_argument('--profile', default=f'{ROOT}/test/data/smollm2.profile')
    p.add_argument('--rounds', type=int, default=21)
    p.add_argument('--out')
    p.add_argument('--lend', type=int, help=argparse.SUPPRESS)  # port of the master; how this script calls itself
    a = p.parse_args()
    from mooncake import store as store_module

    def client(port, lends=0):
        s = store_module.MooncakeDistributedStore()
        if s.setup(f'127.0.0.1:{free_port()}', 'P2PHANDSHAKE', lends, 64 << 20, 'tcp', '', f'127.0.0.1:{port}') != 0:
            sys.exit('no connection to mooncake_master')
        return s

    if a.lend:
        lent = client(a.lend, 512 << 20)
        print('here', flush=True)
        signal.pause()
        sys.exit(lent is None)

    with tempfile.TemporaryDirectory() as folder:
        with open(a.capture, 'rb') as f:  # a safetensors file: eight bytes of length, a header, tensors
            size = int.from_bytes(f.read(8), 'little')
            header, data = json.loads(f.read(size)), f.read()
        tensors = [t['data_offsets'] for name, t in header.items() if name.startswith(('k.', 'v.'))]
        objects = {'raw': b''.join(data[begin:end] for begin, end in tensors)}
        for levels in range(1, 5):
            path = f'{folder}/{levels}.slc'
            subprocess.run([a.sluice, 'encode', '-p', a.profile, '--levels', str(levels), a.capture, '-o', path], check=True,
                           stdout=subprocess.DEVNULL)
            with open(path, 'rb') as f:
                objects[f'level {levels - 1}'] = f.read()

        master, port = start_master(store_module)
        lender = subprocess.Popen([sys.executable, __file__, '--lend', str(port)], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True)
        try:
            while lender.stdout.readline() != 'here\n':  # the client logs there, too
                if lender.poll() is not None:
                    sys.exit('nobody lends memory')
            s, seconds = client(port), {name: ([], []) for name in objects}
            for round in range(a.rounds + 1):
                for name in random.Random(round).sample(list(objects), len(objects)):
                    key, value = f'{name}/{round}', objects[name]
                    done, put = timed(s.put, key, value)
                    back, get = timed(s.get, key)
                    if done != 0 or back != value or s.get_size(key) != len(value):
                        sys.exit(f'{key}: put gave {done}, {len(back)} of {len(value)} bytes came back')
                    if round == 0:  # not timed
                        if name != 'raw':
                            with open(f'{folder}/back.slc', 'wb') as f:
                                f.write(back)
                            subprocess.run([a.sluice, 'verify', f'{folder}/back.slc'], check=True, stdout=subprocess.DEVNULL)
                        continue
                    seconds[name][0].append(put)
                    seconds[name][1].append(get)
                time.sleep(.05)
                for name in objects:  # make room; a lease may hold an object for a while
                    s.remove(f'{name}/{round}', True)

            other, values, answers = client(port), (objects['level 3'], objects['raw']), [None, None]

            def put(which, store):
                answers[which] = store.put('both', values[which])

            threads = [threading.Thread(target=put, args=x) for x in ((0, s), (1, other))]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            kept = other.get('both')
            both = {'answers': answers, 'kept': 'one of the two, whole' if kept in values else f'{len(kept)} bytes'}

            def without(process):
                process.kill()
                process.wait()
                time.sleep(.2)
                code, put_seconds = timed(s.put, f'late/{process.pid}', objects['level 0'])
                back, get_seconds = timed(s.get, 'both')
                return {'put': code, 'put_seconds': put_seconds, 'get_bytes': len(back), 'get_seconds': get_seconds}

            dead = [without(lender), without(master)]
        finally:
            lender.kill()
            master.kill()

    raw = seconds['raw']
    result = {'cores': os.cpu_count(), 'mooncake': importlib.metadata.version('mooncake-transfer-engine-non-cuda'), 'rounds': a.rounds,
              'objects': [{'name': name, 'bytes': len(objects[name]), 'ratio': len(objects['raw']) / len(objects[name]),
                           'put_ms': 1e3 * statistics.median(puts), 'get_ms': 1e3 * statistics.median(gets),
                           'best_put_ms': 1e3 * min(puts), 'best_get_ms': 1e3 * min(gets),
                           'put_speedup': statistics.median(raw[0]) / statistics.median(puts),
                           'get_speedup': statistics.median(raw[1]) / statistics.median(gets)}
                          for name, (puts, gets) in seconds.items()],
              'two_at_once': both, 'lender_killed': dead[0], 'master_killed': dead[1]}
    text = json.dumps(result, indent=1)
    print(text)
    if a.out:
        with open(a.out, 'w') as f:
            f.write(text + '\n')
    sys.stdout.flush()
    os._exit(0)  # a client whose master is dead takes its time to say goodbye


main()
