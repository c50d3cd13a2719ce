# SPDX-License-Identifier: Apache-2.0
"""The backend made by SGLang's own factory, from its wheel's files: pages of a host pool go to files and come back.

The pool has the two functions of SGLang's MHATokenToKVPoolHost that a backend calls, and its layouts; the class itself loads GPU
libraries.
"""
import os
import sys
import tempfile
import unittest

from clients import note, wheel_packages, wheels

try:
    import torch
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)
if not wheels():
    print("skipped: SLUICE_WHEELS names no folder")
    sys.exit(77)

wheel_packages(wheels(), "sglang", "sglang.srt", "sglang.srt.mem_cache")
import sluice
from capture import PROFILE, SAMPLE, cache
from sglang.srt.mem_cache.hicache_storage import HiCacheStorage, HiCacheStorageConfig, HiCacheStorageExtraInfo
from sglang.srt.mem_cache.storage.backend_factory import StorageBackendFactory

KV = torch.stack([torch.from_numpy(a.copy()) for a in cache(os.environ.get("SLUICE_CAPTURE", SAMPLE))])  # [2, layers, tokens, heads, dim]
_, LAYERS, TOKENS, HEADS, DIM = KV.shape
PAGE = 64
PAGES = TOKENS // PAGE
KEYS = [f"{i:064x}" for i in range(PAGES)]


class Pool:
    page_size = PAGE

    def __init__(self, layout, dtype=torch.float16):
        self.layout = layout
        shape = {"layer_first": (2, LAYERS, TOKENS, HEADS, DIM), "page_first": (2, TOKENS, LAYERS, HEADS, DIM)}
        self.kv_buffer = torch.zeros(shape.get(layout, (2, PAGES, LAYERS, PAGE, HEADS, DIM)), dtype=dtype)

    def get_data_page(self, index, flat=True):  # as in sglang/srt/mem_cache/pool_host/mha.py
        index = int(index)
        if self.layout == "layer_first":
            page = self.kv_buffer[:, :, index : index + PAGE]
        elif self.layout == "page_first":
            page = self.kv_buffer[:, index : index + PAGE]
        else:
            page = self.kv_buffer[:, index // PAGE : index // PAGE + 1]
        return page.flatten() if flat else page

    def tokens(self):
        """[2, layers, tokens, heads, dim]"""
        if self.layout == "layer_first":
            return self.kv_buffer
        if self.layout == "page_first":
            return self.kv_buffer.transpose(1, 2)
        return self.kv_buffer.permute(0, 2, 1, 3, 4, 5).flatten(2, 3)

    def fill(self):
        if self.layout == "page_first_direct":
            self.kv_buffer.copy_(KV.view(2, LAYERS, PAGES, PAGE, HEADS, DIM).transpose(1, 2))
        else:
            self.tokens().copy_(KV)
        return self


def make(folder, pool, **more):
    extra = dict(backend_name="sluice", module_path="sluice.sglang", class_name="SluiceHiCache", interface_v1=1,
                 hicache_storage_pass_prefix_keys=True, profile=PROFILE, path=folder) | more.pop("extra", {})  # fmt: skip
    known = dict(tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1, is_mla_model=False,
                 enable_storage_metrics=False, is_page_first_layout=False, model_name="HuggingFaceTB/SmolLM2") | more  # fmt: skip
    backend = StorageBackendFactory.create_backend("dynamic", HiCacheStorageConfig(**known, extra_config=extra), pool)
    backend.register_mem_pool_host(pool)
    return backend


def error(a, b):
    return float((a.float() - b.float()).square().sum() / b.float().square().sum())


class Backend(unittest.TestCase):
    def test_pages_come_back(self):
        places = torch.randperm(PAGES).repeat_interleave(PAGE) * PAGE + torch.arange(PAGE).repeat(PAGES)
        all_ = torch.arange(TOKENS)
        for layout in ("layer_first", "page_first", "page_first_direct"):
            for prefixes in (True, False):
                with tempfile.TemporaryDirectory() as folder:
                    pool = Pool(layout).fill()
                    backend = make(folder, pool)
                    self.assertIsInstance(backend, HiCacheStorage)
                    told = lambda keys: HiCacheStorageExtraInfo(prefix_keys=keys if prefixes else None)  # noqa: E731
                    half = PAGES // 2
                    self.assertEqual(backend.batch_exists(KEYS), 0)
                    self.assertTrue(all(backend.batch_set_v1(KEYS[:half], all_[: half * PAGE], told([]))))
                    self.assertTrue(all(backend.batch_set_v1(KEYS[half:], all_[half * PAGE :], told(KEYS[:half]))))
                    self.assertEqual(backend.batch_exists(KEYS + ["absent"]), PAGES)
                    for i, key in enumerate(KEYS):
                        self.assertEqual(sluice.info(backend.files.get(key)).position, i * PAGE)
                    other = Pool(layout)
                    backend = make(folder, other)
                    self.assertTrue(all(backend.batch_get_v1(KEYS, places)))
                    back = other.tokens()[:, :, places]
                    errors = [error(back[p], KV[p]) for p in (0, 1)]
                    self.assertLess(max(errors), 0.06)
                    if prefixes:
                        size = sum(os.path.getsize(backend.files.file(k)) for k in KEYS)
                        note("sglang", **{layout: dict(page_tokens=PAGE, raw_bytes=KV.numel() * 2, stored_bytes=size,
                                                       ratio=KV.numel() * 2 / size, error_k=errors[0], error_v=errors[1])})  # fmt: skip
                    backend.clear()
                    self.assertEqual(backend.batch_exists(KEYS), 0)
                    self.assertTrue(all(backend.batch_set_v1(KEYS[:1], all_[:PAGE])))

    def test_damage_is_a_miss(self):
        with tempfile.TemporaryDirectory() as folder:
            pool = Pool("layer_first").fill()
            backend = make(folder, pool)
            all_ = torch.arange(TOKENS)
            self.assertTrue(all(backend.batch_set_v1(KEYS, all_)))
            with open(backend.files.file(KEYS[1]), "r+b") as f:
                f.seek(5000)
                f.write(b"\xff" * 8)
            with open(backend.files.file(KEYS[2]), "wb") as f:
                f.write(b"half a")
            os.unlink(backend.files.file(KEYS[3]))
            expected = [i not in (1, 2, 3) for i in range(PAGES)]
            self.assertEqual(backend.batch_get_v1(KEYS, all_), expected)
            self.assertEqual([backend.exists(k) for k in KEYS], expected)
            self.assertTrue(all(backend.batch_set_v1(KEYS, all_)))
            self.assertTrue(all(backend.batch_get_v1(KEYS, all_)))
            self.assertEqual(backend.batch_get_v1(KEYS[:1], torch.arange(64)), [True])
            backend.files.path = "/proc/nothing"
            self.assertEqual(backend.batch_set_v1(KEYS[:1], all_), [False])

    def test_fp8_pools(self):
        with tempfile.TemporaryDirectory() as folder:
            pool = Pool("layer_first", torch.uint8)
            pool.kv_buffer.copy_(KV.to(torch.float8_e4m3fn).view(torch.uint8))
            backend = make(folder, pool, extra={"dtype": "e4m3", "level": 3})
            self.assertTrue(all(backend.batch_set_v1(KEYS, torch.arange(TOKENS))))
            pool.kv_buffer.zero_()
            self.assertTrue(all(backend.batch_get_v1(KEYS, torch.arange(TOKENS))))
            self.assertLess(error(pool.kv_buffer.view(torch.float8_e4m3fn), KV), 0.005)

    def test_a_rank_of_several(self):
        with tempfile.TemporaryDirectory() as folder:
            for rank in range(HEADS):
                sluice.load(PROFILE).heads(rank, rank + 1).save(f"{folder}/{rank}.profile")
            pools = [Pool("layer_first") for _ in range(HEADS)]
            for rank, pool in enumerate(pools):
                pool.kv_buffer = KV[:, :, :, rank : rank + 1].clone()
                backend = make(folder, pool, tp_size=HEADS, tp_rank=rank, extra={"profile": folder + "/{rank}.profile"})
                self.assertTrue(all(backend.batch_set_v1(KEYS, torch.arange(TOKENS), HiCacheStorageExtraInfo(prefix_keys=[]))))
                pool.kv_buffer.zero_()
                self.assertTrue(all(backend.batch_get_v1(KEYS, torch.arange(TOKENS))))
            self.assertLess(error(torch.cat([p.kv_buffer for p in pools], 3), KV), 0.07)

    def test_what_it_cannot_do_is_said_at_once(self):
        for more, words in (({"extra": {"interface_v1": 0}}, "interface_v1"), ({"tp_size": 2}, "rank"), ({"pp_size": 2}, "parallelism"),
                            ({"is_mla_model": True}, "latent"), ({"extra": {"profile": "nothing"}}, "nothing")):  # fmt: skip
            with tempfile.TemporaryDirectory() as folder, self.assertRaisesRegex(ValueError, words):
                make(folder, Pool("layer_first"), **more)


if __name__ == "__main__":
    note("sglang", version=os.environ.get("SLUICE_SGLANG_VERSION", "?"))
    unittest.main()
