# SPDX-License-Identifier: Apache-2.0
import os
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeAlias

from typing_extensions import Buffer

class _SupportsDLPack(Protocol):
    def __dlpack__(self) -> Any: ...

# numpy.ndarray, torch.Tensor on the CPU, jax.Array, memoryview: any strides; float32, float16, bfloat16, float8_e4m3fn
# or float8_e5m2.
Array: TypeAlias = _SupportsDLPack | Buffer
# One array [layers, tokens, heads, head size], or one [tokens, heads, head size] (None = the layer is not here) a layer.
Arrays: TypeAlias = Array | Sequence[Array | None]
# About tokens: an array of one axis, of any type that can say it, or whatever can be gone through.
Integers: TypeAlias = Array | Iterable[int]
Numbers: TypeAlias = Array | Iterable[float]
# (k, v), (k, v, queries) or (k, v, queries, position).
Capture: TypeAlias = tuple[Arrays, Arrays] | tuple[Arrays, Arrays, Arrays | None] | tuple[Arrays, Arrays, Arrays | None, int]

__version__: str

class Rope:
    """A rotary embedding. `pairing`: "half" (Hugging Face, vLLM, SGLang), "interleaved" (llama.cpp), "none"; `scaling`:
    "none", "linear", "ntk", "yarn", "yarn_untruncated", "llama3". `dims` 0 = the whole head."""

    def __init__(
        self,
        base: float = 10000.0,
        pairing: str = "half",
        *,
        dims: int = 0,
        scaling: str = "none",
        factor: float = 1.0,
        low_freq: float = 1.0,
        high_freq: float = 4.0,
        original_context: float = 0.0,
        attention_factor: float = 1.0,
    ) -> None: ...
    @property
    def base(self) -> float: ...
    @property
    def pairing(self) -> str: ...
    @property
    def dims(self) -> int: ...
    @property
    def scaling(self) -> str: ...
    @property
    def factor(self) -> float: ...
    @property
    def attention_factor(self) -> float: ...

class LayerShape:
    """K and V of one layer of a model; `window` 0 = full attention."""

    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim_k(self) -> int: ...
    @property
    def head_dim_v(self) -> int: ...
    @property
    def rope(self) -> int: ...
    @property
    def window(self) -> int: ...

class Shape:
    """The cache of a model. A layer is (kv_heads, head_dim_k, head_dim_v, index into ropes, window); (0, 0, 0, 0, 0) is
    one that keeps none."""

    def __init__(self, layers: Sequence[tuple[int, int, int, int, int]], ropes: Sequence[Rope]) -> None: ...
    @property
    def layers(self) -> list[LayerShape]: ...
    @property
    def ropes(self) -> list[Rope]: ...

class FrameLayer:
    """What a frame has of one layer: type_k and type_v ("f16", ...) are None where it has nothing."""

    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim_k(self) -> int: ...
    @property
    def head_dim_v(self) -> int: ...
    @property
    def type_k(self) -> str | None: ...
    @property
    def type_v(self) -> str | None: ...

class Info:
    """What a frame says of itself. `sizes`: bytes of the frame when cut after each level that is present; `loss`: nats of
    KL divergence that a context coded alike is expected to lose at each, None = what its profile expects."""

    @property
    def position(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def codec(self) -> str | None: ...
    @property
    def fingerprint(self) -> int: ...
    @property
    def levels(self) -> int: ...
    @property
    def levels_made(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def sizes(self) -> list[int]: ...
    @property
    def loss(self) -> list[float | None]: ...
    @property
    def layers(self) -> list[FrameLayer]: ...

class Codec:
    """A model's profile, and encoders and decoders that work with it. Threads may share it: the interpreter's lock is
    released while they work, each with a coder of its own."""

    def __init__(self, shape: Shape) -> None:
        """Without calibration: about twice the bytes at the same quality."""

    def encode(
        self,
        k: Arrays,
        v: Arrays | None,
        position: int = 0,
        *,
        levels: int | None = None,
        max_bytes: int | None = None,
        codec: str = "standard",
        dtype: str | None = None,
        token_ids: Integers | None = None,
        importance: Numbers | None = None,
        attention: Array | None = None,
        coarser: float = 0.0,
        loss: Numbers | None = None,
    ) -> bytes:
        """A frame of all tokens. `position` is that of the first token of the longest layer; layers with fewer tokens
        have the last of them. `levels` counts the levels to make, None = all. `max_bytes`: no more than so many, at the
        best quality that fits. `codec`: one of codecs(). `dtype` names elements that the array's own type cannot:
        bf16 kept as uint16, e4m3 kept as uint8.

        Codecs that have no use for the following ignore it. `token_ids`, of all tokens: "smallest" predicts from them, and
        who decodes needs the same. `importance`: what the weight of each token is multiplied by, 0 = worth nothing, and
        `attention`, [layers of the model, tokens]: mean squared attention that each token was paid, where it was observed;
        "balanced" and "smallest" choose their steps by them. `coarser`: quarter octaves by which these steps are coarser
        than the profile's, or finer. `loss`: nats that each level is then expected to lose, for Info.loss; None = as the
        profile says with `coarser`."""

    def encode_into(
        self,
        out: Buffer,
        k: Arrays,
        v: Arrays | None,
        position: int = 0,
        *,
        levels: int | None = None,
        max_bytes: int | None = None,
        codec: str = "standard",
        dtype: str | None = None,
        token_ids: Integers | None = None,
        importance: Numbers | None = None,
        attention: Array | None = None,
        coarser: float = 0.0,
        loss: Numbers | None = None,
    ) -> int:
        """The same into your own buffer; how many bytes the frame has."""

    def decode(
        self,
        frame: Buffer,
        k: Arrays,
        v: Arrays | None,
        *,
        level: int | None = None,
        position: int | None = None,
        dtype: str | None = None,
        token_ids: Integers | None = None,
    ) -> int:
        """Writes a frame into arrays of any type and strides, and returns how many of its parts came out at a coarser level
        than asked for, since finer ones are damaged. `level` None = the finest. `position`: where its first token goes,
        K is rotated to match; None = where it came from. Token 0 of an array is the frame's first one; layers with room
        for fewer tokens get the last of them. Damage raises, and leaves the arrays partly written. `token_ids`: those that
        encode() was given; others raise "wrong_side_info" before anything is written."""

    def truncate_to(self, frame: Buffer, max_bytes: int) -> bytes:
        """The frame cut down to any size, what gains least for its bytes first; nothing is decoded."""

    def find_position(
        self, k: Arrays, *, step: int = 1, first: int = 0, last: int = 131071, dtype: str | None = None
    ) -> int:
        """Where in its sequence a chunk of keys stands, found from the keys: for hooks that do not say. Raises
        "position_not_found" where no multiple of `step` is clearly the best."""

    def fit(self, k: Arrays, v: Arrays | None, position: int = 0, *, dtype: str | None = None) -> float:
        """How many times the bits a cache takes of what the profile promises: about 1 where it suits, above 1.3 where model,
        rotary embedding or position are others."""

    def max_size(self, k: Arrays, v: Arrays | None, *, codec: str = "standard", dtype: str | None = None) -> int:
        """Bytes that a frame of these arrays can have at most."""

    def with_pairs(self, pairing: str) -> Codec:
        """The same profile for an engine that lays out rotary pairs "half" or "interleaved"."""

    def heads(self, begin: int, end: int) -> Codec:
        """The profile of some KV heads of every layer, for a rank of tensor parallelism. Make it once and save it: its last
        bits, and with them its fingerprint, depend on the machine."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the profile."""

    @property
    def shape(self) -> Shape: ...
    @property
    def levels(self) -> int: ...
    @property
    def calibrated(self) -> bool: ...
    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> int: ...

def load(path: str | os.PathLike[str]) -> Codec:
    """A codec with a profile that calibrate() or `sluice calibrate` made."""

def calibrate(
    captures: Iterable[Capture],
    shape: Shape,
    *,
    target_kl: float = 0.01,
    heads_per_basis: int = 0,
    threads: int = 1,
    name: str = "",
) -> Codec:
    """A codec whose profile is learnt from caches of this model, at least 8 x 1,024 tokens of what it will read. `queries`
    are those of the last tokens under their rotary embedding, [tokens, query heads, head size] a layer: with them the
    same quality takes fewer bytes."""

def info(frame: Buffer) -> Info:
    """What a frame's header and index say; bytes behind the frame are ignored."""

def truncate(frame: Buffer, level: int) -> bytes:
    """The frame without the levels finer than `level`."""

def verify(frame: Buffer) -> int:
    """The finest level of which every byte is as it was made; raises where not even level 0 is."""

def codecs() -> list[tuple[str, str]]:
    """Names of all codecs, and what each is."""
