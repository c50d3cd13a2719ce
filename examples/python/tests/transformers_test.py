# SPDX-License-Identifier: Apache-2.0
"""Caches of transformers, restored: shapes of all kinds of layers, and what a real model says with them.

SLUICE_GGUF names SmolLM2-135M-Instruct as GGUF; SLUICE_ENGINE the example engine, whose figures for the same text are compared.
"""
import copy
import inspect
import json
import os
import subprocess
import sys
import unittest

try:
    import torch
    import transformers
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)

import sluice
import sluice.transformers as st
from capture import DATA, IDS, PREDICTED, PROFILE, SMALLEST, cache
from clients import note

K, V = (torch.from_numpy(a.copy()) for a in cache())  # [layers, tokens, heads, dim]
CODEC = sluice.load(PROFILE)


def config(**more):
    return transformers.LlamaConfig(
        num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, head_dim=64, hidden_size=576, **more
    )


def filled(cache, tokens=256, batch=1, dtype=torch.float16, chunk=64):
    for begin in range(0, tokens, chunk):
        for l in range(30):
            k, v = (x[l, begin : min(begin + chunk, tokens)].transpose(0, 1)[None].to(dtype) for x in (K, V))
            cache.update(k.repeat(batch, 1, 1, 1), v.repeat(batch, 1, 1, 1), l)
    return cache


def of(cache):
    return torch.stack([l.keys for l in cache.layers]), torch.stack([l.values for l in cache.layers])


class Caches(unittest.TestCase):
    def same(self, a, b, tokens=None):
        for x, y in zip(a.layers, b.layers):
            self.assertEqual(int(x.get_seq_length()), int(y.get_seq_length()))
            self.assertEqual(x.get_mask_sizes(1), y.get_mask_sizes(1))
            self.assertEqual((x.keys.dtype, x.keys.shape), (y.keys.dtype, y.keys.shape))
            self.assertTrue(torch.equal(x.keys, y.keys) and torch.equal(x.values, y.values))

    def test_dynamic_in_every_type(self):
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
            before = filled(transformers.DynamicCache(), dtype=torch.float16 if dtype.itemsize == 1 else dtype)
            for l in before.layers:
                l.keys, l.values = l.keys.to(dtype), l.values.to(dtype)
            if dtype.itemsize == 1:
                frame = st.compress(before, CODEC, preset="exact")
                after = st.restore(frame, CODEC)
                for x, y in zip(before.layers, after.layers):
                    self.assertEqual(y.keys.dtype, dtype)
                    self.assertTrue(torch.equal(x.keys.view(torch.uint8), y.keys.view(torch.uint8)))
                self.assertEqual(st.restore(st.compress(before, CODEC), CODEC).layers[0].keys.dtype, dtype)
                continue
            self.same(before, st.restore(st.compress(before, CODEC, preset="exact"), CODEC))
            self.same(before, st.restore(st.compress(before, CODEC, preset="exact"), CODEC, config=config()))
            rough = of(st.restore(st.compress(before, CODEC), CODEC, level=1))
            for x, y in zip(of(before), rough):
                self.assertLess(float((x.float() - y.float()).square().sum() / x.float().square().sum()), 0.06)

    def test_batches(self):
        before = filled(transformers.DynamicCache(), batch=3)
        frames = st.compress(before, CODEC, preset="exact")
        self.assertEqual(len(frames), 3 * sluice.info(frames).size)
        self.same(before, st.restore(frames, CODEC))
        self.assertLessEqual(len(st.compress(before, CODEC, max_bytes=700_000)), 2_100_000)

    def test_what_is_told_of_tokens(self):
        codec, ids = sluice.load(PREDICTED), torch.tensor(IDS)
        with open(SMALLEST, "rb") as f:
            before = st.restore(f.read(), codec, token_ids=ids)
        frame = st.compress(before, codec, preset="smallest", token_ids=ids)
        self.assertEqual(st.compress(before, codec, preset="smallest", token_ids=ids[None]), frame)
        after = st.restore(frame, codec, token_ids=ids)
        for x, y in zip(of(before), of(after)):
            self.assertLess(float((x.float() - y.float()).square().sum() / x.float().square().sum()), 0.01)
        both = transformers.DynamicCache()
        for l, layer in enumerate(before.layers):
            both.update(layer.keys.repeat(2, 1, 1, 1), layer.values.repeat(2, 1, 1, 1), l)
        rows = torch.stack([ids, ids.flip(0)])
        frames = st.compress(both, codec, preset="smallest", token_ids=rows)
        self.assertEqual(frames[: len(frame)], frame)
        self.assertTrue(torch.equal(st.restore(frames, codec, token_ids=rows).layers[1].keys[0], after.layers[1].keys[0]))
        for status, call in (
            ("wrong_side_info", lambda: st.restore(frame, codec)),
            ("wrong_side_info", lambda: st.restore(frame, codec, token_ids=ids.flip(0))),
            ("wrong_side_info", lambda: st.compress(before, codec, preset="smallest", token_ids=ids[1:])),
            ("wrong_shape", lambda: st.compress(both, codec, preset="smallest", token_ids=ids)),
            ("wrong_shape", lambda: st.compress(before, codec, importance=torch.ones(39))),
        ):
            with self.assertRaises(sluice.Error) as e:
                call()
            self.assertEqual(e.exception.status, status)
        usual = len(st.compress(filled(transformers.DynamicCache()), CODEC, preset="balanced"))
        for told in (dict(importance=torch.arange(256) >= 128), dict(coarser=4)):
            self.assertLess(len(st.compress(filled(transformers.DynamicCache()), CODEC, preset="balanced", **told)), 0.9 * usual)

    def test_windows_and_static(self):
        for window in (64, 200, 1000):
            kinds = ["sliding_attention", "full_attention"] * 15
            c = config(sliding_window=window, layer_types=kinds)
            shape = sluice.shape_of(c.to_dict())
            self.assertEqual([l.window for l in shape.layers], [window, 0] * 15)
            codec = sluice.Codec(shape)
            for make in (lambda: transformers.DynamicCache(config=c), lambda: transformers.StaticCache(config=c, max_cache_len=300)):
                before = filled(make())
                frame = st.compress(before, codec, preset="exact")
                after = st.restore(frame, codec, cache=make())
                if isinstance(before, transformers.StaticCache):
                    for x, y in zip(before.layers, after.layers):  # what lies behind the last token is of no meaning
                        n = min(256, x.keys.shape[-2])
                        self.assertEqual((int(x.get_seq_length()), x.get_mask_sizes(1)), (int(y.get_seq_length()), y.get_mask_sizes(1)))
                        self.assertTrue(torch.equal(x.keys[:, :, :n], y.keys[:, :, :n]))
                else:
                    self.same(before, after)
                    self.same(before, st.restore(frame, codec, config=c))
                    self.same(before, st.restore(frame, codec))  # the profile knows windows too
                # Either kind goes on where the other one stopped.
                other = st.restore(frame, codec, cache=transformers.StaticCache(config=c, max_cache_len=300))
                dynamic = st.restore(frame, codec, config=c)
                token = torch.ones(1, 3, 1, 64, dtype=torch.float16)
                for l in (0, 1):
                    a, b = other.update(token, token, l)[0][:, :, :257], dynamic.update(token, token, l)[0]
                    n = min(a.shape[2], b.shape[2])
                    self.assertTrue(torch.equal(a[:, :, -n:], b[:, :, -n:]), (window, l))

    def test_refusals(self):
        def fails(status, call):
            with self.assertRaises(sluice.Error) as e:
                call()
            self.assertEqual(e.exception.status, status)

        fails("invalid_argument", lambda: st.compress(transformers.DynamicCache(), CODEC))
        before = filled(transformers.DynamicCache())
        frame = st.compress(before, CODEC)
        fails("wrong_shape", lambda: st.restore(frame, CODEC, config=transformers.LlamaConfig(num_hidden_layers=3)))
        fails("wrong_positions", lambda: st.restore(frame, CODEC, cache=transformers.StaticCache(config=config(), max_cache_len=100)))
        fails("truncated", lambda: st.restore(frame[:100], CODEC))
        fails("not_a_frame", lambda: st.restore(frame + b"more", CODEC))
        part = CODEC.encode(K[:, 128:], V[:, 128:], 128)
        fails("wrong_positions", lambda: st.restore(part, CODEC))
        hybrid = transformers.DynamicCache(config=config())
        hybrid.layers[3] = transformers.cache_utils.LinearAttentionLayer()
        fails("unsupported_type", lambda: st.compress(filled(transformers.DynamicCache()) and hybrid, CODEC))
        for l in before.layers:
            l.keys.requires_grad_()
        self.assertEqual(st.compress(before, CODEC), frame)


@unittest.skipUnless(os.environ.get("SLUICE_GGUF"), "no model")
class Model(unittest.TestCase):
    def test_predictions(self):
        transformers.logging.disable_progress_bar()
        torch.set_num_threads(2)
        gguf, text = os.environ["SLUICE_GGUF"], os.path.join(DATA, "sample.txt")
        folder, name = os.path.split(gguf)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
        n, m = 512, 128
        name_of_cache = "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"
        on = lambda cache: {name_of_cache: cache}  # noqa: E731
        with open(text, encoding="utf-8") as f:
            ids = tokenizer(f.read(), return_tensors="pt").input_ids[:, : n + m]
        self.assertEqual(ids.shape[1], n + m)
        ours, engine = [], {}
        with torch.no_grad():
            exact = transformers.DynamicCache(config=model.config)
            model(ids[:, :n], **on(exact))
            raw = sum(l.keys.numel() + l.values.numel() for l in exact.layers) * 2
            self.assertLess(CODEC.fit([l.keys[0].transpose(0, 1) for l in exact.layers], [l.values[0].transpose(0, 1) for l in exact.layers]), 1.3)
            expected = model(ids[:, n:], **on(copy.deepcopy(exact))).logits.log_softmax(-1)
            frame = st.compress(exact, CODEC)
            greedy = lambda c: model.generate(ids[:, : n + 1], **on(c), max_new_tokens=24, do_sample=False)[0, n + 1 :]  # noqa: E731
            wanted = greedy(copy.deepcopy(exact))
            for level in range(4):
                small = sluice.truncate(frame, level)
                back = st.restore(small, CODEC, config=model.config)
                got = model(ids[:, n:], **on(copy.deepcopy(back))).logits.log_softmax(-1)
                ours.append({
                    "level": level,
                    "bytes": len(small),
                    "ratio": raw / len(small),
                    "kl": float((expected.exp() * (expected - got)).sum(-1).mean()),
                    "top1": float((expected.argmax(-1) == got.argmax(-1)).float().mean()),
                    "same_greedy_tokens_of_24": int((greedy(back) == wanted).long().cumprod(0).sum()),
                })
        self.assertEqual([x["kl"] for x in ours], sorted((x["kl"] for x in ours), reverse=True))
        self.assertGreaterEqual(ours[3]["top1"], 0.98)
        if os.environ.get("SLUICE_ENGINE"):
            run = [os.environ["SLUICE_ENGINE"], "quality", gguf, text, "--profile", PROFILE, "--json"]
            run += ["--context", str(n), "--suffix", str(m), "--windows", "1"]
            engine = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)["suffix"]["levels"]
            for mine, theirs in zip(ours, engine):
                mine["engine_kl"], mine["engine_top1"] = theirs["kl"], theirs["top1"]
        note("transformers", version=transformers.__version__, torch=torch.__version__, model="SmolLM2-135M-Instruct Q4_1",
             text="test/data/sample.txt", context_tokens=n, suffix_tokens=m, raw_f16_bytes=raw, levels=ours)  # fmt: skip
        for x in ours:
            if "engine_kl" in x:
                self.assertLess(abs(x["kl"] / x["engine_kl"] - 1), 0.1, x)


if __name__ == "__main__":
    unittest.main()
