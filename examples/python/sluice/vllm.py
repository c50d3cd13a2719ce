# SPDX-License-Identifier: Apache-2.0
"""A secondary tier of vLLM's KV offloading (vllm 0.33): chunks that leave the CPU tier are kept as sluice frames in a folder.

    vllm serve MODEL --kv-transfer-config '{"kv_connector": "OffloadingConnector", "kv_role": "kv_both",
      "kv_connector_extra_config": {"spec_name": "TieringOffloadingSpec", "cpu_bytes_to_use": 10737418240, "block_size": 256,
        "secondary_tiers": [{"type": "SluiceTier", "module_path": "sluice.vllm", "profile": "my.profile", "path": "/cache"}]}}'

Keys of the tier: profile, path, level (1, the finest to keep), threads (2). A damaged or foreign file is a miss.
"""

from __future__ import annotations

import logging
import queue
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from vllm.v1.kv_offload.base import LookupResult, Medium, RequestOffloadingContext
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob

from ._core import load
from ._store import FrameFolder, decode_chunk, encode_chunk

_log = logging.getLogger(__name__)
_TYPES = {"float16": "f16", "half": "f16", "bfloat16": "bf16", "float32": "f32", "fp8": "e4m3", "fp8_e4m3": "e4m3",
          "float8_e4m3fn": "e4m3", "fp8_e5m2": "e5m2", "float8_e5m2": "e5m2"}  # fmt: skip
_SIZES = {"f32": np.uint32, "f16": np.uint16, "bf16": np.uint16, "e4m3": np.uint8, "e5m2": np.uint8}
# Memory order of vLLM's cache layouts (layers, blocks, heads, tokens): K and V lie side by side in each head of a token.
_ORDERS = ("LBHN", "LBNH", "BLHN", "BLNH", "BHLN")


class SluiceTier(SecondaryTierManager):
    medium = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        *,
        profile: str,
        path: str,
        level: int = 1,
        threads: int = 2,
    ) -> None:
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        self.codec, self.levels = load(profile), level + 1
        self._rows = self._chunks(offloading_spec.config, primary_kv_view)
        self._files = FrameFolder(path, offloading_spec.config.model.name, self.codec)
        self._pool = ThreadPoolExecutor(threads, "sluice")
        self._running: set[Any] = set()
        self._done: queue.SimpleQueue[JobResult] = queue.SimpleQueue()

    def _chunks(self, config: Any, view: memoryview) -> np.ndarray:
        """The CPU tier as [chunks, layers, blocks, tokens, ranks, heads, K or V, head size], a view of its memory."""
        shape, parallel = self.codec.shape.layers[0], config.parallel
        order = (config.kv_cache_layout or "")[:4].replace("C", "")
        self._type = _TYPES.get(str(config.model.dtype).removeprefix("torch."))
        if order not in _ORDERS or self._type is None or len(config.groups) != 1:
            raise ValueError(
                f"sluice knows one group of attention layers in a layout of {', '.join(_ORDERS)}C: not {len(config.groups)} "
                f"groups, layout {config.kv_cache_layout}, elements {config.model.dtype}"
            )
        names = config.groups[0].layer_names
        if [int(re.findall(r"\d+", n)[0]) for n in names] != list(range(len(self.codec.shape.layers))):
            raise ValueError(f"the profile has {len(self.codec.shape.layers)} layers, and this group {names}")
        ranks = parallel.tp_size
        if parallel.pp_size * parallel.pcp_size * parallel.dcp_size != 1 or shape.kv_heads % ranks:
            raise ValueError("sluice takes tensor parallelism that divides the heads, and no other")
        if ranks > 1 and config.canonical_layout:
            raise ValueError("sluice does not know the canonical layout of several ranks: leave canonical_layout out")
        self.tokens = config.groups[0].tokens_per_block * config.cache.blocks_per_chunk
        sizes = {"L": len(names), "B": config.cache.blocks_per_chunk, "H": shape.kv_heads // ranks}
        sizes["N"] = config.groups[0].tokens_per_block
        count = [ranks, *(sizes[a] for a in order), 2, shape.head_dim_k]
        kind = np.dtype(_SIZES[self._type])
        if int(np.prod(count[1:])) * kind.itemsize != config.worker_kv_bytes_per_block * config.cache.blocks_per_chunk:
            raise ValueError(f"{config.worker_kv_bytes_per_block} bytes a block are not those of the profile's model")
        flat = np.frombuffer(view.cast("B"), np.uint8).reshape(len(view), -1)
        rows = flat[:, : int(np.prod(count)) * kind.itemsize].view(kind).reshape(len(view), *count)
        return rows.transpose(0, *(2 + order.index(a) for a in "LBN"), 1, 2 + order.index("H"), 6, 7)

    def _plane(self, chunk: int, which: int) -> np.ndarray:
        """[layers, tokens, heads, head size]: a view where blocks and ranks follow each other evenly, else a copy."""
        layers, blocks, tokens, ranks, heads, _, dim = self._rows.shape[1:]
        return self._rows[chunk, ..., which, :].reshape(layers, blocks * tokens, ranks * heads, dim)

    def _store(self, key: bytes, chunk: int, job: TransferJob) -> None:
        if self._files.has(key.hex()):
            return
        end = job.req_context.get_offload_key_position(key)
        position = None if end is None or end < self.tokens else end - self.tokens
        frame = encode_chunk(self.codec, self._plane(chunk, 0), self._plane(chunk, 1), position, self.tokens, self.levels, self._type)
        self._files.put(key.hex(), frame)

    def _load(self, key: bytes, chunk: int, job: TransferJob) -> None:
        planes = self._plane(chunk, 0), self._plane(chunk, 1)
        try:
            decode_chunk(self.codec, self._files.get(key.hex()), *planes, self._type)
        except ValueError:
            self._files.drop(key.hex())
            raise
        for which, plane in enumerate(planes):
            if not np.shares_memory(plane, self._rows):
                there = self._rows[chunk, ..., which, :]
                there[...] = plane.reshape(there.shape)

    def _run(self, job: TransferJob, one: Any) -> None:
        begin, good = time.monotonic(), []
        for key, chunk in zip(job.keys, job.chunk_ids):
            try:
                one(key, int(chunk), job)
                good.append(key)
            except Exception as e:  # nothing may cross this thread: vLLM computes what is missing
                _log.warning("sluice: chunk %s of job %d: %s", key.hex()[:16], job.job_id, e)
        whole = len(good) == len(job.keys)
        self._done.put(
            JobResult(
                job.job_id,
                whole,
                successful_keys=tuple(good) if good and not whole and job.is_promotion else None,
                transfer_time=time.monotonic() - begin,
                transfer_bytes=len(good) * self.block_size_bytes,
            )
        )

    def _submit(self, job: TransferJob, one: Any) -> None:
        task = self._pool.submit(self._run, job, one)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def lookup(self, key: bytes, req_context: Any) -> LookupResult:
        return LookupResult.HIT if self._files.has(key.hex()) else LookupResult.MISS

    def submit_store(self, job_metadata: TransferJob) -> None:
        self._submit(job_metadata, self._store)

    def submit_load(self, job_metadata: TransferJob) -> None:
        self._submit(job_metadata, self._load)

    def get_finished_jobs(self) -> Iterable[JobResult]:
        results = []
        while not self._done.empty():
            results.append(self._done.get())
        return results

    def has_pending_work(self) -> bool:
        return bool(self._running) or not self._done.empty()

    def on_new_request(self, req_context: Any) -> RequestOffloadingContext:
        return RequestOffloadingContext()

    def drain_jobs(self) -> None:
        wait(list(self._running))

    def shutdown(self) -> None:
        self._pool.shutdown(wait=True)
        del self._rows  # whose memory vLLM unmaps now
