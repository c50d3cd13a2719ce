# SPDX-License-Identifier: Apache-2.0
"""A storage backend of SGLang's HiCache (sglang 0.5): pages that leave the host pool are kept as sluice frames in a folder.

    python -m sglang.launch_server ... --enable-hierarchical-cache --page-size 64 --hicache-storage-backend dynamic
      --hicache-storage-backend-extra-config '{"backend_name": "sluice", "module_path": "sluice.sglang",
        "class_name": "SluiceHiCache", "interface_v1": 1, "hicache_storage_pass_prefix_keys": true,
        "profile": "my.profile", "path": "/cache"}'

Further keys: level (1, the finest to keep), dtype ("e4m3", for a cache of fp8). With tensor parallelism the profile is one a
rank, "my.{rank}.profile", which codec.heads(begin, end).save(...) makes. Where prefix keys are not passed, positions are
found from the keys. A damaged or foreign file is a miss.
"""

from __future__ import annotations

import logging
import shutil
from typing import Any

import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorage, HiCacheStorageConfig, HiCacheStorageExtraInfo

from ._core import load
from ._store import FrameFolder, decode_chunk, encode_chunk

_log = logging.getLogger(__name__)


class SluiceHiCache(HiCacheStorage):
    def __init__(self, storage_config: HiCacheStorageConfig, kwargs: Any = None) -> None:
        extra = storage_config.extra_config or {}
        if not extra.get("interface_v1"):
            raise ValueError('sluice reads and writes the host pool itself: set "interface_v1": 1')
        if storage_config.is_mla_model or storage_config.pp_size * storage_config.attn_cp_size != 1:
            raise ValueError("sluice knows no latent attention, and no parallelism but that of heads")
        rank, ranks = storage_config.tp_rank, storage_config.tp_size
        if ranks > 1 and "{rank}" not in extra["profile"]:
            raise ValueError('each of several ranks needs its heads\' profile: "my.{rank}.profile", see sluice.Codec.heads')
        self.codec = load(extra["profile"].replace("{rank}", str(rank)))
        self.levels, self.dtype = int(extra.get("level", 1)) + 1, extra.get("dtype")
        self.files = FrameFolder(extra["path"], storage_config.model_name or "", self.codec)

    def _page(self, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V [layers, tokens, heads, head size] of a page of the host pool; no copy."""
        page, layout = self.mem_pool_host.get_data_page(first, flat=False), self.mem_pool_host.layout
        if layout == "page_first":
            page = page.transpose(1, 2)
        elif layout == "page_first_direct":
            page = page[:, 0]
        elif layout != "layer_first":
            raise ValueError(f"sluice does not know the host layout {layout}")
        return page[0], page[1]

    def _each(self, keys: list[str], host_indices: torch.Tensor, one: Any) -> list[bool]:
        size, done = self.mem_pool_host.page_size, []
        for i, key in enumerate(keys):
            try:
                one(i, key, *self._page(int(host_indices[i * size])))
                done.append(True)
            except Exception as e:  # nothing may cross this thread: SGLang computes what is missing
                _log.warning("sluice: page %s: %s", key[:16], e)
                done.append(False)
        return done

    def batch_set_v1(
        self, keys: list[str], host_indices: torch.Tensor, extra_info: HiCacheStorageExtraInfo | None = None
    ) -> list[bool]:
        size, prefix = self.mem_pool_host.page_size, extra_info.prefix_keys if extra_info else None

        def store(i: int, key: str, k: torch.Tensor, v: torch.Tensor) -> None:
            if not self.files.has(key):
                position = None if prefix is None else (len(prefix) + i) * size
                self.files.put(key, encode_chunk(self.codec, k, v, position, size, self.levels, self.dtype))

        return self._each(keys, host_indices, store)

    def batch_get_v1(
        self, keys: list[str], host_indices: torch.Tensor, extra_info: HiCacheStorageExtraInfo | None = None
    ) -> list[bool]:
        def fetch(i: int, key: str, k: torch.Tensor, v: torch.Tensor) -> None:
            try:
                decode_chunk(self.codec, self.files.get(key), k, v, self.dtype)
            except ValueError:
                self.files.drop(key)
                raise

        return self._each(keys, host_indices, fetch)

    def exists(self, key: str) -> bool:
        return self.files.has(key)

    def clear(self) -> None:
        shutil.rmtree(self.files.path, ignore_errors=True)

    # The interface before version 1, which the constructor rules out.
    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> None:
        return None

    def batch_get(self, keys: list[str], target_locations: Any = None, target_sizes: Any = None) -> list[None]:
        return [None] * len(keys)

    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        return False

    def batch_set(self, keys: list[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None) -> bool:
        return False
