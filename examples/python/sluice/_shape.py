# SPDX-License-Identifier: Apache-2.0
"""From a model's config.json to the shape of its cache."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ._core import Codec, Rope, Shape
from ._error import Error


def uncalibrated(
    config: Mapping[str, Any] | Shape | None = None,
    *,
    layers: int = 0,
    kv_heads: int = 0,
    head_dim: int = 0,
    rope_base: float = 10000.0,
    pairing: str = "half",
) -> Codec:
    """A codec that needs no calibration, for about twice the bytes at the same quality.

    Of a Hugging Face config (config.json as a dict, or model.config.to_dict()), a Shape, or of `layers` layers that are
    all alike. `pairing` is "half" for Hugging Face, vLLM and SGLang, "interleaved" for llama.cpp, "none" without rotary
    embedding.
    """
    if config is not None:
        return Codec(config if isinstance(config, Shape) else shape_of(config))
    return Codec(Shape([(kv_heads, head_dim, head_dim, 0, 0)] * layers, [Rope(rope_base, pairing)]))


def shape_of(config: Mapping[str, Any], pairing: str = "half") -> Shape:
    """The shape of a model's cache, from its Hugging Face config as a dict.

    Errors: sluice.Error with status "invalid_argument" where a key is missing, "unsupported_type" for caches that are no
    K and V of heads (latent attention) and rotary embeddings whose frequencies depend on the context's length.
    """
    c = dict(config.get("text_config") or config)  # of models that also see
    if c.get("kv_lora_rank"):
        raise Error("unsupported_type", "a latent cache (kv_lora_rank): describe it with sluice.Shape")
    try:
        n, heads, hidden = c["num_hidden_layers"], c["num_attention_heads"], c.get("hidden_size", 0)
    except KeyError as e:
        raise Error("invalid_argument", f"the config lacks {e.args[0]}") from None
    kv_heads = c.get("num_key_value_heads") or heads
    dim = c.get("head_dim") or hidden // heads

    window = c.get("sliding_window") or 0
    if c.get("use_sliding_window") is False:
        window = 0
    kinds = c.get("layer_types") or ["sliding_attention" if window else "full_attention"] * n
    turns = c.get("no_rope_layers") or [1] * n  # 0 = a layer without
    if len(kinds) < n or len(turns) < n:
        raise Error("invalid_argument", "layer_types or no_rope_layers has fewer entries than the model layers")

    names: list[str] = []
    ropes: list[Rope] = []
    layers = []
    for kind, turning in zip(kinds[:n], turns):
        if kind in ("linear_attention", "mamba", "recurrent", "conv"):
            layers.append((0, 0, 0, 0, 0))
            continue
        name = kind if turning else "none"
        if name not in names:
            names.append(name)
            ropes.append(_rope(c, kind, dim, pairing) if turning else Rope(pairing="none"))
        layers.append((kv_heads, dim, dim, names.index(name), window if kind == "sliding_attention" else 0))
    return Shape(layers, ropes)


def _rope(c: Mapping[str, Any], kind: str, dim: int, pairing: str) -> Rope:
    p = c.get("rope_parameters") or c.get("rope_scaling") or {}
    if kind in p:  # one for each kind of layer
        p = p[kind] or {}
    elif kind == "sliding_attention" and "rope_local_base_freq" in c:  # Gemma 3 before transformers 5
        p = {"rope_theta": c["rope_local_base_freq"]}
    base = float(p.get("rope_theta") or c.get("rope_theta") or 10000.0)
    rotary = int(dim * float(p.get("partial_rotary_factor") or c.get("partial_rotary_factor") or 1.0))
    what = p.get("rope_type") or p.get("type") or "default"
    factor = float(p.get("factor") or 1.0)
    context = float(p.get("original_max_position_embeddings") or c.get("max_position_embeddings") or 0)
    known: dict[str, Any] = {"dims": 0 if rotary == dim else rotary}
    if what == "linear":
        known |= {"scaling": "linear", "factor": factor}
    elif what == "llama3":
        known |= {"scaling": "llama3", "factor": factor, "original_context": context}
        known |= {"low_freq": float(p["low_freq_factor"]), "high_freq": float(p["high_freq_factor"])}
    elif what == "yarn":
        gain = p.get("attention_factor")
        if gain is None:
            one, all_ = p.get("mscale"), p.get("mscale_all_dim")
            gain = _yarn_gain(factor, one) / _yarn_gain(factor, all_) if one and all_ else _yarn_gain(factor, 1.0)
        known |= {"scaling": "yarn" if p.get("truncate", True) else "yarn_untruncated", "factor": factor}
        known |= {"low_freq": float(p.get("beta_slow") or 1), "high_freq": float(p.get("beta_fast") or 32)}
        known |= {"original_context": context, "attention_factor": float(gain)}
    elif what != "default":
        raise Error("unsupported_type", f"a rotary embedding of type {what}: describe it with sluice.Rope")
    return Rope(base, pairing, **known)


def _yarn_gain(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0
