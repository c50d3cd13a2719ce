# SPDX-License-Identifier: Apache-2.0
"""The serde in LMCache's own storage manager: chunks of a real cache go from L1 to files on disk and come back."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

try:
    import torch
    import lmcache.v1.distributed.serde  # noqa: F401
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)

import lmcache
import sluice
import sluice.lmcache
from capture import PROFILE, SAMPLE, cache
from clients import note
from lmcache.v1.distributed.api import GroupedObjectKeys, MemoryLayoutDesc, ObjectKey, PrefetchTaskSpec
from lmcache.v1.distributed.config import EvictionConfig, L1ManagerConfig, L1MemoryManagerConfig, StorageManagerConfig
from lmcache.v1.distributed.l2_adapters.config import L2AdaptersConfig
from lmcache.v1.distributed.l2_adapters.fs_l2_adapter import FSL2AdapterConfig
from lmcache.v1.distributed.serde import SerdeConfig, create_serde_processor, get_registered_serde_types
from lmcache.v1.distributed.serde.fp8 import Fp8QuantizationDeserializer, Fp8QuantizationSerializer
from lmcache.v1.distributed.storage_manager import StorageManager

CAPTURE = os.environ.get("SLUICE_CAPTURE", SAMPLE)  # a longer one, where there is one
K, V = (torch.from_numpy(a.copy()) for a in cache(CAPTURE))
SIZE = 256 if K.shape[1] >= 1024 else 64
CHUNKS = [  # as LMCache keeps them: [2, layers, tokens, heads * head size]
    torch.stack([x[:, t : t + SIZE].flatten(2) for x in (K, V)]).contiguous() for t in range(0, K.shape[1], SIZE)
]
LAYOUT = MemoryLayoutDesc(shapes=[CHUNKS[0].shape], dtypes=[CHUNKS[0].dtype])
CODEC = sluice.load(PROFILE)
BITS = 2.0 if SIZE == 256 else 2.5  # short chunks take more, and the first one of a sequence has exact tokens


class Memory:
    def __init__(self, tensor):
        self.tensor = tensor


def error(a, b):
    return float((a.float() - b.float()).square().sum() / b.float().square().sum())


def until(done, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        if (result := done()) is not None and result is not False:
            return result
        time.sleep(0.02)
    raise TimeoutError


class Serde(unittest.TestCase):
    def test_sizes_and_positions(self):
        for bits in (0, BITS, 2 * BITS):
            write, read = sluice.lmcache.SluiceSerializer(CODEC, 3 if bits > BITS else 1, bits, SIZE), sluice.lmcache.SluiceDeserializer(CODEC)
            sizes, errors = [], []
            for i, chunk in enumerate(CHUNKS):
                room = torch.full((write.estimate_serialized_size(LAYOUT),), 255, dtype=torch.uint8)
                size = write.serialize(Memory(chunk), Memory(room), None)
                self.assertEqual(size == len(room), bits > 0)
                self.assertEqual(sluice.info(room.numpy()).position, i * SIZE)
                back = torch.zeros_like(chunk)
                read.deserialize(Memory(room[:size] if not bits else room), Memory(back), None)
                errors.append(error(back, chunk))
                sizes.append(size)
            self.assertLess(max(errors), 0.06)
            note("lmcache", **{f"serde_{bits:g}_bits": dict(chunk_tokens=SIZE, ratio=CHUNKS[0].numel() * 2 * len(CHUNKS) / sum(sizes), worst_error=max(errors))})
        room, back = torch.zeros(CHUNKS[0].numel(), dtype=torch.uint8), torch.zeros_like(CHUNKS[0])
        size = Fp8QuantizationSerializer().serialize(Memory(CHUNKS[1]), Memory(room), None)
        Fp8QuantizationDeserializer().deserialize(Memory(room), Memory(back), None)
        note("lmcache", their_fp8=dict(ratio=CHUNKS[1].numel() * 2 / size, error=error(back, CHUNKS[1])))

    def test_noise_is_stored_all_the_same(self):
        noise = torch.randn_like(CHUNKS[0].float()).half()
        for bits, most in ((0, 0.001), (2.0, 0.5)):
            write = sluice.lmcache.SluiceSerializer(CODEC, 3, bits, SIZE)
            room, back = torch.zeros(write.estimate_serialized_size(LAYOUT), dtype=torch.uint8), torch.zeros_like(noise)
            try:
                write.serialize(Memory(noise), Memory(room), None)
            except sluice.Error as e:  # noise of which not even the coarsest level fits: LMCache goes without
                self.assertEqual((bits, e.status), (2.0, "output_too_small"))
                continue
            sluice.lmcache.SluiceDeserializer(CODEC).deserialize(Memory(room), Memory(back), None)
            self.assertLess(error(back, noise), most)

    def test_damage_is_a_miss(self):
        sluice.lmcache.register()
        sluice.lmcache.register()
        self.assertIn("sluice", get_registered_serde_types())
        serde = create_serde_processor(SerdeConfig(type="sluice", kwargs={"profile": PROFILE, "chunk": SIZE}))
        rooms = [Memory(torch.zeros(serde.estimate_serialized_size(LAYOUT), dtype=torch.uint8)) for _ in CHUNKS]
        task = serde.submit_serialize([Memory(c) for c in CHUNKS], rooms, [None] * len(CHUNKS))
        self.assertTrue(until(lambda: serde.query_serialize_result(task)))
        backs = [Memory(torch.zeros_like(c)) for c in CHUNKS]
        task = serde.submit_deserialize(rooms, backs, [None] * len(CHUNKS))
        self.assertTrue(until(lambda: serde.query_deserialize_result(task)))
        rooms[1].tensor[sluice.info(rooms[1].tensor.numpy()).size - 50] ^= 1
        results = []
        task = serde.submit_deserialize(rooms, backs, [None] * len(CHUNKS))
        until(lambda: results.append(serde.query_deserialize_result(task)) or results[-1] is not None)
        self.assertIs(results[-1], False)
        serde.close()


class Storage(unittest.TestCase):
    def test_to_disk_and_back(self):
        sluice.lmcache.register()
        disk = tempfile.mkdtemp()
        adapter = FSL2AdapterConfig(base_path=disk, relative_tmp_dir=None, read_ahead_size=None, use_odirect=False)
        adapter.serde_config = SerdeConfig(type="sluice", kwargs={"profile": PROFILE, "level": 1, "bits": BITS, "chunk": SIZE})
        manager = StorageManager(StorageManagerConfig(
            l1_manager_config=L1ManagerConfig(
                memory_config=L1MemoryManagerConfig(size_in_bytes=256 << 20, use_lazy=False, init_size_in_bytes=128 << 20)),
            eviction_config=EvictionConfig(eviction_policy="LRU"),
            l2_adapter_config=L2AdaptersConfig(adapters=[adapter])))  # fmt: skip
        try:
            keys = [ObjectKey(chunk_hash=bytes([i]) * 32, model_name="smol", kv_rank=0) for i in range(len(CHUNKS))]
            for key, memory in manager.reserve_write(keys, LAYOUT).items():
                memory.tensor.view(CHUNKS[0].dtype).view(CHUNKS[0].shape).copy_(CHUNKS[keys.index(key)])
            manager.finish_write(keys)
            files = lambda: [e for e in os.scandir(disk) if e.is_file()]  # noqa: E731
            until(lambda: len(files()) == len(keys) and not manager.report_status()["store_controller"]["in_flight_task_count"])
            stored = sum(e.stat().st_size for e in files())

            def fetch():
                manager.clear(force=True)
                handle = manager.submit_prefetch_task(PrefetchTaskSpec([GroupedObjectKeys(keys, 0, LAYOUT)]))
                return until(lambda: manager.query_prefetch_status(handle)).l2_hit_cells[0].count_leading_ones()

            self.assertEqual(fetch(), len(keys))
            with manager.read_prefetched_results(keys) as memories:
                errors = [error(m.tensor.view(c.dtype).view(c.shape), c) for m, c in zip(memories, CHUNKS)]
            manager.finish_read_prefetched(keys)
            self.assertLess(max(errors), 0.06)
            until(lambda: manager.report_status()["l1_manager"]["memory_used_bytes"] >= 0)
            # Damage on the disk: LMCache is told, computes again, and goes on.
            victim = max(files(), key=lambda e: e.name)
            with open(victim.path, "r+b") as f:
                f.seek(20_000)
                f.write(b"\xff" * 16)
            self.assertLess(fetch(), len(keys))
            note("lmcache", version=lmcache.__version__ if hasattr(lmcache, "__version__") else "0.5.6", storage_manager=dict(
                adapter="fs", bits=BITS, chunks=len(keys), chunk_tokens=SIZE, raw_bytes=sum(c.numel() * 2 for c in CHUNKS),
                stored_bytes=stored, prefetched=len(keys), worst_error=max(errors)))  # fmt: skip
        finally:
            manager.close()
            shutil.rmtree(disk)

    def test_its_command_line_knows_the_serde(self):
        told = subprocess.run([sys.executable, "-m", "sluice.lmcache", "--help"], capture_output=True, text=True)
        self.assertEqual(told.returncode, 0, told.stderr)
        self.assertIn("server", told.stdout)


if __name__ == "__main__":
    unittest.main()
