# SPDX-License-Identifier: Apache-2.0
"""The tier made by vLLM's own factory, from its wheel's files: chunks of the CPU tier go to files and come back.

Memory is laid out as vLLM 0.33 does (v1/kv_offload/cpu/shared_offload_region.py, v1/kv_cache_layout.py): a row for each chunk,
in it a cell for each rank, in it layers and blocks in the order of the cache's layout, K and V side by side in each head.
"""
import logging
import os
import sys
import tempfile
import time
import types
import unittest

from clients import note, wheel_packages, wheels

try:
    import numpy as np
    import torch  # noqa: F401
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)
if not wheels():
    print("skipped: SLUICE_WHEELS names no folder")
    sys.exit(77)

wheel_packages(wheels(), "vllm", "vllm.v1", "vllm.v1.metrics", "vllm.distributed", "vllm.utils")


class Logger(logging.Logger):
    def warning_once(self, *a, **k):
        self.debug(*a, **k)


def stand_in(name, **members):
    """A module of vLLM that loads the engine or its metrics, of which only these members are used here."""
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update(members)


class Stats:
    def __getattr__(self, name):
        return lambda *a, **k: None


logging.setLoggerClass(Logger)
stand_in("vllm.logger", init_logger=logging.getLogger)
stand_in("vllm.distributed.device_communicators.shm_broadcast", check_shm_free_space=lambda *a, **k: None)
stand_in("vllm.v1.kv_offload.cpu.host_register", host_unregister=None)
stand_in("vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics", OffloadingConnectorStats=Stats)

import sluice
from capture import PROFILE, SAMPLE, cache
from vllm.v1.kv_offload.base import LookupResult, ReqContext, ScheduleEndContext, make_offload_key
from vllm.v1.kv_offload.config import (
    OffloadingCacheConfig,
    OffloadingConfig,
    OffloadingGroupConfig,
    OffloadingModelConfig,
    OffloadingParallelConfig,
)
from vllm.v1.kv_offload.tiering.base import SecondaryTierManager, TransferJob
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory
from vllm.v1.kv_offload.tiering.manager import CPUPrimaryTierOffloadingManager, TieringOffloadingManager

K, V = cache(os.environ.get("SLUICE_CAPTURE", SAMPLE))
LAYERS, TOKENS, HEADS, DIM = K.shape
LAYOUTS = {"LBHNC": "LBHN", "LBNHC": "LBNH", "BLHNC": "BLHN", "BLNHC": "BLNH", "BHLNC": "BHLN"}


def config(layout="LBNHC", block=16, blocks=4, tp=1, dtype="torch.float16", **more):
    known = dict(
        groups=(OffloadingGroupConfig(block, tuple(f"model.layers.{l}.self_attn.attn" for l in range(LAYERS)), 0),),
        worker_kv_bytes_per_block=block * LAYERS * HEADS // tp * 2 * DIM * 2,
        enable_kv_cache_events=False,
        extra_config={},
        engine_id="test",
        model=OffloadingModelConfig("HuggingFaceTB/SmolLM2", dtype),
        cache=OffloadingCacheConfig(block, blocks),
        parallel=OffloadingParallelConfig(0, tp, tp, 1, 1, 1, 0, 1, None, False),
        kv_cache_layout=layout,
    )
    return OffloadingConfig(**(known | more))


class Tier:
    """A CPU tier and our tier behind it."""

    def __init__(self, folder, layout="LBNHC", block=16, blocks=4, tp=1, k=K, v=V, **more):
        self.tokens, self.chunks = block * blocks, TOKENS // (block * blocks)
        # [chunks, blocks, tokens, layers, ranks, heads, K or V, dim], then in the order of the layout.
        kv = np.stack([k, v], -2).transpose(1, 0, 2, 3, 4)
        kv = kv.reshape(self.chunks, blocks, block, LAYERS, tp, HEADS // tp, 2, DIM)
        axis = {"B": 1, "N": 2, "L": 3, "H": 5}
        cells = np.ascontiguousarray(kv.transpose(0, 4, *(axis[a] for a in LAYOUTS[layout]), 6, 7)).reshape(self.chunks, -1)
        row = -(-cells.nbytes // self.chunks // 4096) * 4096
        self.memory = np.zeros((self.chunks, row), np.uint8)
        self.memory[:, : cells.nbytes // self.chunks] = cells.view(np.uint8)
        self.before = self.memory.copy()
        self.bytes = cells.nbytes
        spec = types.SimpleNamespace(config=config(layout, block, blocks, tp, **more))
        self.tier = SecondaryTierFactory.create_secondary_tier(
            {"type": "SluiceTier", "module_path": "sluice.vllm", "profile": PROFILE, "path": folder}, memoryview(self.memory), spec)  # fmt: skip
        self.request = ReqContext("a request")
        self.keys = [make_offload_key(bytes([i]) * 32, 0) for i in range(self.chunks)]
        for i, key in enumerate(self.keys):
            self.request.set_offload_key_position(key, (i + 1) * self.tokens)
        self.jobs = 0

    def run(self, submit, keys, chunks, load):
        self.jobs += 1
        submit(TransferJob(self.jobs, keys, np.array(chunks), load, self.request))
        self.tier.drain_jobs()
        end, results = time.time() + 60, []
        while not results and time.time() < end:
            results = list(self.tier.get_finished_jobs())
        assert len(results) == 1 and results[0].job_id == self.jobs, results
        return results[0]

    def store(self, keys=None):
        keys = self.keys if keys is None else keys
        return self.run(self.tier.submit_store, keys, [self.keys.index(k) for k in keys], False)

    def load(self, keys, chunks):
        return self.run(self.tier.submit_load, keys, chunks, True)

    def values(self, memory, kind=np.float16):
        return memory[:, : self.bytes // self.chunks].view(kind).astype(np.float64)

    def stored(self):
        return sum(os.path.getsize(self.tier._files.file(k.hex())) for k in self.keys)


class Chunks(unittest.TestCase):
    def test_chunks_come_back(self):
        for layout, block, blocks, tp in (("LBNHC", 16, 1, 1), ("LBNHC", 16, 4, 1), ("LBHNC", 16, 4, 1), ("BLNHC", 16, 4, 1),
                                          ("BLHNC", 64, 1, 1), ("BHLNC", 16, 4, 3), ("LBNHC", 16, 16, 1), ("LBNHC", 16, 4, 3)):  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                t = Tier(folder, layout, block, blocks, tp)
                self.assertIsInstance(t.tier, SecondaryTierManager)
                self.assertEqual(t.tier.lookup(t.keys[0], t.request), LookupResult.MISS)
                self.assertTrue(t.store().success)
                for i, key in enumerate(t.keys):
                    self.assertEqual(sluice.info(t.tier._files.get(key.hex())).position, i * t.tokens)
                    self.assertEqual(t.tier.lookup(key, t.request), LookupResult.HIT)
                t.memory[:] = 0
                places = np.random.permutation(t.chunks)
                self.assertTrue(t.load(t.keys, places).success)
                a, b = t.values(t.memory[places]), t.values(t.before)
                error = np.square(a - b).sum() / np.square(b).sum()
                self.assertLess(error, 0.06, layout)
                self.assertFalse(t.memory[:, t.bytes // t.chunks :].any())
                note("vllm", **{f"{layout}_{t.tokens}_tokens_tp{tp}": dict(raw_bytes=t.bytes, stored_bytes=t.stored(), ratio=t.bytes / t.stored(), error=error)})
                self.assertFalse(t.tier.has_pending_work())
                t.tier.shutdown()

    def test_positions_are_found_where_nobody_tells(self):
        with tempfile.TemporaryDirectory() as folder:
            t = Tier(folder)
            t.request = ReqContext("another one")
            self.assertTrue(t.store().success)
            for i, key in enumerate(t.keys):
                self.assertEqual(sluice.info(t.tier._files.get(key.hex())).position, i * t.tokens)

    def test_bf16(self):
        k, v = ((a.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16) for a in (K, V))
        with tempfile.TemporaryDirectory() as folder:
            t = Tier(folder, k=k, v=v, dtype="bfloat16")
            self.assertTrue(t.store().success)
            t.memory[:] = 0
            self.assertTrue(t.load(t.keys, range(t.chunks)).success)
            a, b = ((t.values(m, np.uint16).astype(np.uint32) << 16).view(np.float32) for m in (t.memory, t.before))
            self.assertLess(np.square(a - b).sum() / np.square(b).sum(), 0.06)

    def test_damage_is_a_miss(self):
        with tempfile.TemporaryDirectory() as folder:
            t = Tier(folder)
            self.assertTrue(t.store().success)
            bad = t.tier._files.file(t.keys[1].hex())
            with open(bad, "r+b") as f:
                f.seek(5000)
                f.write(b"\xff" * 8)
            os.unlink(t.tier._files.file(t.keys[2].hex()))
            result = t.load(t.keys, range(t.chunks))
            good = [k for i, k in enumerate(t.keys) if i not in (1, 2)]
            self.assertEqual((result.success, list(result.successful_keys)), (False, good))
            self.assertEqual(t.tier.lookup(t.keys[1], t.request), LookupResult.MISS)
            t.memory[:] = t.before
            self.assertTrue(t.store().success)
            self.assertTrue(t.load(t.keys, range(t.chunks)).success)
            t.tier._files.path = "/proc/nothing"
            self.assertFalse(t.store().success)

    def test_what_it_cannot_do_is_said_at_once(self):
        group = config().groups[0]
        for more, words in ((dict(groups=(group, group)), "2 groups"), (dict(layout="LHBNC"), "LHBNC"), (dict(dtype="int4"), "int4"),
                            (dict(worker_kv_bytes_per_block=77), "77 bytes"), (dict(tp=2), "parallelism"),
                            (dict(groups=(OffloadingGroupConfig(16, group.layer_names[:-1], 0),)), "30 layers")):  # fmt: skip
            known = dict(layout="LBNHC", block=16, blocks=4, tp=1) | {k: v for k, v in more.items() if k in ("layout", "tp", "dtype")}
            spec = types.SimpleNamespace(config=config(**known, **{k: v for k, v in more.items() if k not in known}))
            with tempfile.TemporaryDirectory() as folder, self.assertRaisesRegex(ValueError, words):
                SecondaryTierFactory.create_secondary_tier(
                    {"type": "SluiceTier", "module_path": "sluice.vllm", "profile": PROFILE, "path": folder},
                    memoryview(np.zeros((4, 1 << 16), np.uint8)), spec)  # fmt: skip


class Offloading(unittest.TestCase):
    """vLLM's own manager of tiers, with its CPU tier in shared memory: chunks are stored, forgotten, and looked up again."""

    def test_store_forget_promote(self):
        block, blocks = 16, 4
        chunks, cell = TOKENS // 64, 64 * LAYERS * HEADS * 2 * DIM * 2
        row = -(-cell // 4096) * 4096
        region = SharedOffloadRegion(f"sluice-test-{os.getpid()}", chunks, None, row, cell)
        primary = CPUPrimaryTierOffloadingManager(chunks, region)
        with tempfile.TemporaryDirectory() as folder:
            tier = SecondaryTierFactory.create_secondary_tier(
                {"type": "SluiceTier", "module_path": "sluice.vllm", "profile": PROFILE, "path": folder},
                primary.get_kv_memoryview(), types.SimpleNamespace(config=config(block=block, blocks=blocks)))  # fmt: skip
            manager = TieringOffloadingManager(primary, [tier])
            memory = np.frombuffer(primary.get_kv_memoryview().cast("B"), np.uint8).reshape(chunks, row)
            kv = np.stack([K, V], -2).reshape(LAYERS, chunks, 64, HEADS, 2, DIM).transpose(1, 0, 2, 3, 4, 5)
            kv = np.ascontiguousarray(kv).reshape(chunks, -1)
            keys = [make_offload_key(bytes([i]) * 32, 0) for i in range(chunks)]

            def request(name):
                context = ReqContext(name)
                for i, key in enumerate(keys):
                    context.set_offload_key_position(key, (i + 1) * 64)
                with manager.lock:
                    manager.on_new_request(context)
                return context

            def steps(until):
                end = time.time() + 60
                while time.time() < end:
                    with manager.lock:
                        manager.on_schedule_end(ScheduleEndContext([], []))
                        if until():
                            return
                    time.sleep(0.01)
                self.fail("nothing happened")

            first = request("first")
            with manager.lock:
                self.assertEqual(manager.lookup(keys[0], first), LookupResult.MISS)
                places = manager.prepare_store(keys, first).store_spec.chunk_ids
                memory[places, :cell] = kv.view(np.uint8)  # what the GPU would do
                manager.complete_store(keys, first)
                manager.on_request_finished(first)
            steps(lambda: not manager._jobs)
            with manager.lock:
                manager.reset_cache()
                manager.on_reset_flushed()
            memory[:] = 0
            with open(tier._files.file(keys[-1].hex()), "r+b") as f:  # the last one is damaged meanwhile
                f.seek(4000)
                f.write(b"damage")

            second = request("second")
            with manager.lock:
                self.assertEqual({manager.lookup(k, second) for k in keys}, {LookupResult.HIT_PENDING})
            steps(lambda: not manager._jobs)
            with manager.lock:
                found = [manager.lookup(k, second) for k in keys]
                self.assertEqual(found, [LookupResult.HIT] * (chunks - 1) + [LookupResult.MISS])
                places = manager.prepare_load(keys[:-1], second).chunk_ids
                a = memory[places, :cell].view(np.float16).astype(np.float64)
                manager.complete_load(keys[:-1], second)
                manager.on_request_finished(second)
            b = kv[:-1].astype(np.float64)
            self.assertLess(np.square(a - b).sum() / np.square(b).sum(), 0.06)
            note("vllm", tiering_manager=dict(chunks=chunks, chunk_tokens=64, promoted=chunks - 1, damaged_and_missed=1,
                                              error=np.square(a - b).sum() / np.square(b).sum()))  # fmt: skip
            del memory
            manager.shutdown()


if __name__ == "__main__":
    note("vllm", version=os.environ.get("SLUICE_VLLM_VERSION", "?"))
    unittest.main()
