# SPDX-License-Identifier: Apache-2.0
"""What the plug-ins share: chunks whose position may be unknown, and frames in a folder."""

from __future__ import annotations

import os
import threading
from typing import Any

from ._core import Codec
from ._error import Error


def position_of(codec: Codec, k: Any, step: int, dtype: str | None = None) -> int | None:
    """Where a chunk stands, found from its keys; None where they do not tell."""
    try:
        return codec.find_position(k, step=step, dtype=dtype)
    except Error as e:
        if e.status != "position_not_found":
            raise
        return None


def suits(codec: Codec, k: Any, v: Any, position: int | None, dtype: str | None = None) -> bool:
    """Whether a calibrated profile keeps its promise on a chunk: not with keys of another model, another order of layers,
    heads or rotary pairs, or at a wrong position, where nothing else would tell."""
    return not codec.calibrated or (position is not None and codec.fit(k, v, position, dtype=dtype) < 1.3)


def encode_chunk(codec: Codec, k: Any, v: Any, position: int | None, step: int, levels: int, dtype: str | None = None) -> bytes:
    """A frame of a chunk; with 8 bits a value, which needs no profile, where that does not suit."""
    if position is None:
        position = position_of(codec, k, step, dtype)
    if not suits(codec, k, v, position, dtype):
        return codec.encode(k, v, codec="plain8", dtype=dtype)
    return codec.encode(k, v, position or 0, levels=levels, dtype=dtype)


def decode_chunk(codec: Codec, frame: Any, k: Any, v: Any, dtype: str | None = None) -> None:
    """Raises sluice.Error for whatever is not all there: an engine computes it again."""
    if coarser := codec.decode(frame, k, v, dtype=dtype):
        raise Error("degraded", f"{coarser} parts of the frame are damaged in their finer levels")


class FrameFolder:
    """Frames as files of a folder, whole or not at all: other threads and processes may read and write it."""

    def __init__(self, path: str, model: str, codec: Codec) -> None:
        # Frames of another model, or of another profile of this one, are other frames.
        self.path = os.path.join(path, f"{model.replace('/', '--') or 'model'}-{codec.fingerprint:016x}")
        os.makedirs(self.path, exist_ok=True)

    def file(self, key: str) -> str:
        return os.path.join(self.path, key[:2], key + ".slc")

    def has(self, key: str) -> bool:
        return os.path.exists(self.file(key))

    def put(self, key: str, frame: bytes) -> None:
        final = self.file(key)
        part = f"{final}.{os.getpid()}.{threading.get_ident()}"
        os.makedirs(os.path.dirname(final), exist_ok=True)
        try:
            with open(part, "wb") as f:
                f.write(frame)
            os.replace(part, final)
        except OSError:
            self._remove(part)
            raise

    def get(self, key: str) -> bytes:
        with open(self.file(key), "rb") as f:
            return f.read()

    def drop(self, key: str) -> None:
        """So that what is damaged is a miss the next time, and is stored again."""
        self._remove(self.file(key))

    @staticmethod
    def _remove(file: str) -> None:
        try:
            os.unlink(file)
        except OSError:
            pass
