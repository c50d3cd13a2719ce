# SPDX-License-Identifier: Apache-2.0
"""Caches of Hugging Face transformers (DynamicCache, StaticCache; full and sliding layers) to bytes and back.

frame = sluice.transformers.compress(cache, codec)
cache = sluice.transformers.restore(frame, codec, config=model.config)

With preset="smallest", which a profile must have learnt, both take token_ids=input_ids[0]: the fewest bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    StaticLayer,
    StaticSlidingWindowLayer,
)

from ._core import Codec, info
from ._error import Error

_TYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}
# Others keep more than K and V (recurrent states, an index of keys, scales), which a frame has no place for.
_KNOWN = (DynamicLayer, DynamicSlidingWindowLayer, StaticLayer, StaticSlidingWindowLayer)


def compress(
    cache: Cache,
    codec: Codec,
    *,
    levels: int | None = None,
    max_bytes: int | None = None,
    preset: str = "standard",
    token_ids: Any = None,
    importance: Any = None,
    coarser: float = 0.0,
) -> bytes:
    """All tokens of a cache as bytes: one frame for each sequence of the batch, one behind the other.

    `max_bytes` is for each. Tensors on a GPU are copied to the CPU first. `token_ids` and `importance`, which a cache does not
    keep, are of all its tokens: a row, or one for each sequence of the batch. Errors: sluice.Error; "unsupported_type"
    for layers that keep more than K and V.
    """
    keys, values, total = [], [], 0
    for i, layer in enumerate(cache.layers):
        # Not used yet, or a place holder of a layer that shares another one's.
        if type(layer).__name__ == "DummyLayer" or (type(layer) in _KNOWN and not layer.is_initialized):
            keys.append(None), values.append(None)
            continue
        _check(i, layer)
        seen = int(layer.get_seq_length())
        tokens = min(seen, layer.keys.shape[-2])  # a static layer has room for more, one with a window forgets
        total = max(total, seen)
        keys.append(layer.keys[:, :, :tokens].detach().cpu().transpose(1, 2))
        values.append(layer.values[:, :, :tokens].detach().cpu().transpose(1, 2))
    shown = [k for k in keys if k is not None]
    if not shown or total == 0:
        raise Error("invalid_argument", "the cache is empty")
    position = total - max(k.shape[1] for k in shown)
    batch = shown[0].shape[0]
    ids, weights = _rows("token_ids", token_ids, batch, position), _rows("importance", importance, batch, position)
    return b"".join(
        codec.encode(
            [None if k is None else k[b] for k in keys],
            [None if v is None else v[b] for v in values],
            position,
            levels=levels,
            max_bytes=max_bytes,
            codec=preset,
            token_ids=ids[b],
            importance=weights[b],
            coarser=coarser,
        )
        for b in range(batch)
    )


def restore(
    frames: bytes,
    codec: Codec,
    *,
    config: Any = None,
    cache: Cache | None = None,
    level: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    token_ids: Any = None,
) -> Cache:
    """The cache that was compressed: a DynamicCache, or the empty `cache` that is handed over, filled.

    `config` is the model's, which says which layers have windows; without, codec.shape does. `dtype` None: as it was.
    `token_ids`: those that compress() was given, if any. Errors: sluice.Error, which leaves what is in `cache` undefined.
    """
    parts = list(_split(frames))
    what = info(parts[0])
    total = what.position + what.tokens
    if any((i.position, i.tokens, len(i.layers)) != (what.position, what.tokens, len(what.layers)) for i in map(info, parts)):
        raise Error("wrong_shape", "the sequences of the batch differ in length")
    if cache is None:
        cache = DynamicCache(config=config) if config is not None else Cache(layers=_layers(codec))
    if not cache.layers:
        cache.layers = _layers(codec)
    if len(cache.layers) != len(what.layers):
        raise Error("wrong_shape", f"the frame has {len(what.layers)} layers, the cache {len(cache.layers)}")

    ids = _rows("token_ids", token_ids, len(parts), what.position)
    keys, values = [], []
    for i, (layer, held) in enumerate(zip(cache.layers, what.layers)):
        if held.type_k is None or held.type_v is None:
            keys.append(None), values.append(None)
            continue
        _check(i, layer)
        room = getattr(layer, "sliding_window", None)
        room = total if room is None else room - 1
        if isinstance(layer, StaticLayer):
            room = layer.max_cache_len
        tokens = min(total, room)
        if tokens > what.tokens or (total > room and not layer.is_sliding):
            raise Error("wrong_positions", f"layer {i} is to hold {tokens} tokens of the positions up to {total}, and "
                        f"the frame begins at {what.position}")
        if not layer.is_initialized and isinstance(layer, StaticLayer):
            kind = lambda name: dtype or _TYPES[name]  # noqa: E731
            layer.lazy_initialization(
                torch.empty(len(parts), held.kv_heads, 1, held.head_dim_k, dtype=kind(held.type_k), device=device),
                torch.empty(len(parts), held.kv_heads, 1, held.head_dim_v, dtype=kind(held.type_v), device=device),
            )
        if isinstance(layer, StaticLayer) and layer.keys.device.type == "cpu":  # straight into its own memory
            keys.append(layer.keys[:, :, :tokens]), values.append(layer.values[:, :, :tokens])
        else:
            shape = (len(parts), held.kv_heads, tokens)
            keys.append(torch.zeros(*shape, held.head_dim_k, dtype=dtype or _TYPES[held.type_k]))
            values.append(torch.zeros(*shape, held.head_dim_v, dtype=dtype or _TYPES[held.type_v]))

    for b, frame in enumerate(parts):
        of = lambda tensors: [None if t is None else t[b].transpose(0, 1) for t in tensors]  # noqa: E731
        codec.decode(frame, of(keys), of(values), level=level, token_ids=ids[b])

    for layer, k, v in zip(cache.layers, keys, values):
        if k is None:
            continue
        if isinstance(layer, StaticLayer):
            tokens = k.shape[-2]
            if layer.keys.device.type != "cpu":
                layer.keys[:, :, :tokens].copy_(k), layer.values[:, :, :tokens].copy_(v)
            layer.cumulative_length.fill_(tokens)
            if hasattr(layer, "cumulative_length_int"):
                layer.cumulative_length_int = total
        else:
            k, v = k.to(device), v.to(device)
            layer.lazy_initialization(k, v)
            layer.keys, layer.values = k, v
            if hasattr(layer, "cumulative_length"):
                layer.cumulative_length = total
    return cache


def _check(index: int, layer: Any) -> None:
    if type(layer) not in _KNOWN:
        raise Error("unsupported_type", f"layer {index} is a {type(layer).__name__}, which keeps more than K and V")


def _rows(name: str, values: Any, batch: int, first: int) -> list[Any]:
    """What is told of each sequence's tokens from number `first` on: frames of windows have no others."""
    if values is None:
        return [None] * batch
    rows = torch.as_tensor(values).detach().cpu()
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[0] != batch:
        raise Error("wrong_shape", f"{name} has the shape {list(rows.shape)}, and the batch {batch} sequences")
    return list(rows[:, first:])


def _layers(codec: Codec) -> list[Any]:
    return [DynamicSlidingWindowLayer(s.window) if s.window else DynamicLayer() for s in codec.shape.layers]


def _split(frames: bytes) -> Iterator[memoryview]:
    rest = memoryview(frames).cast("B")
    while True:
        size = info(rest).size
        yield rest[:size]
        rest = rest[size:]
        if not rest:
            return
