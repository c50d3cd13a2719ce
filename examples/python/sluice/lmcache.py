# SPDX-License-Identifier: Apache-2.0
"""A serde of LMCache's multiprocess mode (lmcache 0.5): what its server keeps in an L2 store is a sluice frame.

    python -m sluice.lmcache server ... --l2-adapter \
      '{"type": "fs", "base_path": "/cache", "serde": {"type": "sluice", "profile": "my.profile"}}'

is `lmcache server ...` with this serde known. Its keys:
    profile  file that sluice.calibrate() or `sluice calibrate` made
    level    finest level to keep (1)
    bits     bytes of an object, as bits a value (2.0): the best quality that fits, then zeros. The adapters of files, Redis and
             Valkey read back exactly as many bytes as were reserved (LMCache pull request 3796 is to change that). 0 = each
             object as long as it is, for adapters that take what was stored (s3).
    chunk    tokens of LMCache's chunks (256): where a chunk stands is found from its keys, at multiples of it
    max_workers  threads (1)
"""

from __future__ import annotations

from typing import Any

import torch
from lmcache.v1.distributed.serde import AsyncSerdeProcessor, Deserializer, Serializer, register_serde_factory

from ._core import Codec, load
from ._store import decode_chunk, position_of, suits


def _planes(codec: Codec, memory: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V [layers, tokens, heads, head size] of a chunk [2, layers, tokens, heads * head size]; no copy."""
    if memory.tensor is None:
        raise ValueError("sluice codes chunks in memory, and this one is not")
    k, v = memory.tensor.unflatten(-1, (codec.shape.layers[0].kv_heads, -1))
    return k, v


class SluiceSerializer(Serializer):
    def __init__(self, codec: Codec, level: int = 1, bits: float = 2.0, chunk: int = 256) -> None:
        self.codec, self.levels, self.bits, self.chunk = codec, level + 1, bits, chunk

    def serialize(self, src: Any, dst: Any, key: Any = None) -> int:
        k, v = _planes(self.codec, src)
        room = dst.tensor.flatten().numpy()
        position = position_of(self.codec, k, self.chunk)
        if not self.bits and not suits(self.codec, k, v, position):  # 8 bits a value need no profile
            return self.codec.encode_into(room, k, v, codec="plain8")
        size = self.codec.encode_into(room, k, v, position or 0, levels=self.levels, max_bytes=room.size)
        room[size:] = 0
        return room.size if self.bits else size

    def estimate_serialized_size(self, layout_desc: Any) -> int:
        if self.bits:
            return sum(int(shape.numel() * self.bits / 8) for shape in layout_desc.shapes)

        class Chunk:
            tensor: torch.Tensor

        size = 0
        for shape, dtype in zip(layout_desc.shapes, layout_desc.dtypes):
            Chunk.tensor = torch.empty(shape, dtype=dtype)
            size += max(self.codec.max_size(*_planes(self.codec, Chunk), codec=c) for c in ("standard", "plain8"))
        return size


class SluiceDeserializer(Deserializer):
    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def deserialize(self, src: Any, dst: Any, key: Any = None) -> None:
        # What is raised here, LMCache logs and takes for a miss.
        decode_chunk(self.codec, src.tensor.flatten().numpy(), *_planes(self.codec, dst))


def _make(kwargs: dict[str, Any]) -> AsyncSerdeProcessor:
    codec = load(kwargs["profile"])
    return AsyncSerdeProcessor(
        SluiceSerializer(
            codec, int(kwargs.get("level", 1)), float(kwargs.get("bits", 2.0) or 0), int(kwargs.get("chunk", 256))
        ),
        SluiceDeserializer(codec),
        max_workers=int(kwargs.get("max_workers", 1)),
    )


def register(name: str = "sluice") -> None:
    """Makes the serde known to this process, once; before its adapters are built."""
    try:
        register_serde_factory(name, _make)
    except ValueError:
        pass  # it is


if __name__ == "__main__":
    from lmcache.cli.main import main

    register()
    main()
