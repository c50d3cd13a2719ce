# SPDX-License-Identifier: Apache-2.0
"""What the module promises, on a real cache and on made-up ones. Needs NumPy and nothing else."""
import ast
import contextlib
import ctypes
import gc
import io
import os
import random
import sys
import tempfile
import threading
import unittest

try:
    import numpy as np
except ImportError:
    print("skipped: no NumPy")
    sys.exit(77)

import sluice
from capture import IDS, PREDICTED, PROFILE, SAMPLE, SMALLEST, cache, error, queries

K, V = cache()
CODEC = sluice.load(PROFILE)
FRAME = CODEC.encode(K, V)
SEED = random.randrange(1 << 32) if "SEED" not in os.environ else int(os.environ["SEED"])


def like(a):
    return np.zeros(a.shape, a.dtype)


class OnAnotherDevice:
    """An array that says, through DLPack, that it lies on a GPU."""

    class _Tensor(ctypes.Structure):
        _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                    ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                    ("lanes", ctypes.c_uint16), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
                    ("byte_offset", ctypes.c_uint64), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]

    def __init__(self, shape, device=2):
        self.shape = (ctypes.c_int64 * len(shape))(*shape)
        self.tensor = self._Tensor(0x1000, device, 0, len(shape), 2, 16, 1, ctypes.addressof(self.shape), None, 0, None, None)

    def __dlpack_device__(self):
        return self.tensor.device_type, 0

    def __dlpack__(self, **_):
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self.tensor), b"dltensor", None)


class Test(unittest.TestCase):
    def fails(self, status, call, words=""):
        with self.assertRaises(sluice.Error) as raised:
            call()
        self.assertEqual(raised.exception.status, status, raised.exception)
        self.assertIn(words, str(raised.exception))
        self.assertIsInstance(raised.exception, ValueError)


class RoundTrip(Test):
    def test_levels(self):
        what = sluice.info(FRAME)
        self.assertEqual((what.tokens, what.position, what.levels, what.codec), (256, 0, 4, "standard"))
        self.assertEqual((len(what.layers), what.size, what.fingerprint), (30, len(FRAME), CODEC.fingerprint))
        self.assertEqual((what.layers[0].kv_heads, what.layers[0].head_dim_k, what.layers[0].type_k), (3, 64, "f16"))
        self.assertEqual(sluice.verify(FRAME), 3)
        worst = 1.0
        for level in range(4):
            k, v = like(K), like(V)
            self.assertEqual(CODEC.decode(FRAME, k, v, level=level), 0)
            self.assertTrue(error(k, K) + error(v, V) < worst / 2, level)
            worst = error(k, K) + error(v, V)
            cut = sluice.truncate(FRAME, level)
            self.assertEqual(len(cut), what.sizes[level])
            again, again_v = like(K), like(V)
            CODEC.decode(cut, again, again_v)
            self.assertTrue(np.array_equal(again, k) and np.array_equal(again_v, v))
            few = CODEC.encode(K, V, levels=level + 1)
            self.assertEqual((sluice.info(few).levels_made, len(few) <= len(cut)), (level + 1, True))
            CODEC.decode(few, again, again_v)
            self.assertTrue(np.array_equal(again, k) and np.array_equal(again_v, v))
        self.assertTrue(worst < 0.004, worst)
        self.assertTrue(np.array_equal(k[:, :4], K[:, :4]), "the first tokens are exact")

    def test_any_strides_same_bytes(self):
        heads_first = np.ascontiguousarray(K.transpose(0, 2, 1, 3)), np.ascontiguousarray(V.transpose(0, 2, 1, 3))
        shown = [a.transpose(0, 2, 1, 3) for a in heads_first]
        self.assertEqual(CODEC.encode(*shown), FRAME)
        self.assertEqual(CODEC.encode(list(K), tuple(V)), FRAME)
        self.assertEqual(CODEC.encode(K[:, ::-1][:, ::-1], np.asfortranarray(V)), FRAME)
        both = np.stack([K, V])  # LMCache: one tensor
        self.assertEqual(CODEC.encode(both[0], both[1]), FRAME)
        dynamic = [a.transpose(1, 0, 2)[None].copy() for a in K], [a.transpose(1, 0, 2)[None].copy() for a in V]
        self.assertEqual(CODEC.encode(*([a[0].transpose(1, 0, 2) for a in x] for x in dynamic)), FRAME)
        self.assertEqual(CODEC.encode(K[:, ::-1], V) == FRAME, False)

        back = np.zeros((30, 3, 64, 256), np.float32)  # head size before tokens, and another type
        k, v = like(K), like(V)
        CODEC.decode(FRAME, back.transpose(0, 3, 1, 2), v, level=2)
        CODEC.decode(FRAME, k, v, level=2)
        self.assertTrue(error(back.transpose(0, 3, 1, 2), k) < 1e-6)

    def test_all_codecs(self):
        names = [name for name, _ in sluice.codecs()]
        self.assertIn("exact", names)
        for name in names:
            if name.startswith(("aatc", "cachegen_paper", "kvquant", "kvtc", "smallest")):
                self.fails("missing_section", lambda: CODEC.encode(K, V, codec=name))
                continue
            k, v = like(K), like(V)
            CODEC.decode(CODEC.encode(K, V, codec=name), k, v)
            self.assertTrue(error(k, K) < (0.4 if name.startswith("cachegen_released") else 0.15), name)
            if name in ("exact", "raw"):
                self.assertEqual((k.tobytes(), v.tobytes()), (K.tobytes(), V.tobytes()))

    def test_random_shapes_exact(self):
        print(f"SEED={SEED}")
        rng = np.random.default_rng(SEED)
        for _ in range(60):
            layers, tokens, heads, dim = (int(rng.integers(1, n)) for n in (5, 40, 5, 17))
            name, bits = [("f32", np.uint32), ("f16", np.uint16), ("bf16", np.uint16), ("e4m3", np.uint8), ("e5m2", np.uint8)][
                int(rng.integers(5))]
            codec = sluice.uncalibrated(layers=layers, kv_heads=heads, head_dim=dim, pairing="none")

            def strided():
                order, steps = rng.permutation(4), rng.integers(1, 4, 4)
                sizes = np.array([layers, tokens, heads, dim])[order]
                whole = rng.integers(0, 1 << 8 * np.dtype(bits).itemsize, tuple(sizes * steps), dtype=bits)
                whole = whole[tuple(slice(None, None, int(s) * int(rng.choice([-1, 1]))) for s in steps)]
                return whole.transpose(np.argsort(order))

            k, v, to_k, to_v = strided(), strided(), strided(), strided()
            position = int(rng.integers(0, 1 << 20))
            frame = codec.encode(k, v, position, codec="exact", dtype=name)
            self.assertEqual(sluice.info(frame).layers[0].type_k, name)
            codec.decode(frame, list(to_k) if rng.integers(2) else to_k, to_v, dtype=name)
            self.assertTrue(np.array_equal(to_k, k) and np.array_equal(to_v, v))

    def test_bf16_and_fp8(self):
        wide = K.astype(np.float32).view(np.uint32) >> 16
        k16, v16 = wide.astype(np.uint16), (V.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        frame = CODEC.encode(k16, v16, dtype="bf16")
        self.assertEqual(sluice.info(frame).layers[7].type_v, "bf16")
        back, back_v = like(k16), like(v16)
        CODEC.decode(frame, back, back_v, level=3, dtype="bf16")
        real = (back.astype(np.uint32) << 16).view(np.float32)
        self.assertTrue(error(real, K) < 0.002, error(real, K))
        self.fails("unsupported_type", lambda: CODEC.encode(k16, v16), "dtype=")
        self.fails("unsupported_type", lambda: CODEC.encode(k16, v16, dtype="f32"))
        self.fails("unsupported_type", lambda: CODEC.encode(k16, v16, dtype="f12"))
        eighths = np.zeros(K.shape, np.uint8)
        CODEC.decode(FRAME, eighths, like(V).view(np.uint8)[..., ::2], dtype="e4m3")  # V into every other byte
        self.assertTrue(eighths.any())

    def test_layers_of_other_lengths(self):
        # Behind a window of 33 tokens the odd layers have the last 32; one layer is not here at all.
        k = [a[-32:] if l % 2 else a for l, a in enumerate(K)]
        v = [a[-32:] if l % 2 else a for l, a in enumerate(V)]
        k[4] = v[4] = None
        codec = sluice.Codec(sluice.Shape([(3, 64, 64, 0, 33 if l % 2 else 0) for l in range(30)], [sluice.Rope(100000.0)]))
        for name in ("standard", "exact"):
            frame = codec.encode(k, v, codec=name)
            self.assertEqual([x.type_k is None for x in sluice.info(frame).layers], [l == 4 for l in range(30)])
            to_k = [None if a is None else like(a) for a in k]
            to_v = [None if a is None else like(a) for a in v]
            self.assertEqual(codec.decode(frame, to_k, to_v), 0)
            for a, b in zip(to_k, k):
                if a is not None:
                    self.assertTrue(error(a, b) < 0.01)
                    self.assertTrue(name != "exact" or np.array_equal(a, b))

    def test_moves_and_refinds_positions(self):
        part_k, part_v = K[:, 128:], V[:, 128:]
        self.assertEqual(CODEC.find_position(part_k), 128)
        self.assertEqual(CODEC.find_position(list(part_k), step=64, last=8191), 128)
        self.assertLess(CODEC.fit(part_k, part_v, 128), 1.15)
        self.assertGreater(CODEC.fit(part_k, part_v, 5000), 1.3)
        frame = CODEC.encode(part_k, part_v, 128)
        self.assertLess(len(frame), len(CODEC.encode(part_k, part_v, 4096)))
        k, v = like(part_k), like(part_v)
        CODEC.decode(frame, k, v, position=1024)
        self.assertEqual(CODEC.find_position(k), 1024)
        noise = np.random.default_rng(SEED).standard_normal(K.shape).astype(np.float16)
        self.fails("position_not_found", lambda: CODEC.find_position(noise))

    def test_interleaved_pairs(self):
        other = CODEC.with_pairs("interleaved")
        d = np.arange(64)
        woven = np.ascontiguousarray(K[..., d % 2 * 32 + d // 2])
        self.assertGreater(CODEC.fit(woven, V), 1.3)
        self.assertLess(other.fit(woven, V), 1.15)
        self.assertAlmostEqual(len(other.encode(woven, V)) / len(FRAME), 1, 2)
        self.assertEqual(other.with_pairs("half").fingerprint, CODEC.fingerprint)

    def test_heads_of_a_rank(self):
        try:
            rank = CODEC.heads(1, 3)
        except sluice.Error as e:
            if e.status == "refused":
                self.skipTest(str(e))
            raise
        self.assertEqual([x.kv_heads for x in rank.shape.layers], [2] * 30)
        k, v = like(K), like(V)
        rank.decode(rank.encode(K[:, :, 1:], V[:, :, 1:]), k[:, :, 1:], v[:, :, 1:], level=1)
        self.assertTrue(error(k[:, :, 1:], K[:, :, 1:]) < 0.06)
        self.assertFalse(k[:, :, 0].any())
        self.fails("wrong_shape", lambda: CODEC.heads(2, 4))
        self.fails("invalid_argument", lambda: CODEC.heads(2, 2))

    def test_budget(self):
        least = sluice.info(FRAME).sizes[0]
        errors = []
        for budget in (least, 500_000, 696_976, 1_000_000, len(FRAME), 5_000_000):
            frame = CODEC.encode(K, V, max_bytes=budget)
            self.assertLessEqual(len(frame), budget)
            self.assertEqual(CODEC.truncate_to(FRAME, budget), frame)
            k, v = like(K), like(V)
            CODEC.decode(frame, k, v)
            errors.append(error(k, K))
        self.assertEqual(errors, sorted(errors, reverse=True))
        self.assertEqual(frame, FRAME)
        self.fails("output_too_small", lambda: CODEC.encode(K, V, max_bytes=least // 2))
        self.fails("output_too_small", lambda: CODEC.truncate_to(FRAME, least // 2))
        # Behind a frame of a fixed size lie zeros.
        room = bytearray(737_280)
        size = CODEC.encode_into(room, K, V, max_bytes=len(room))
        self.assertLessEqual(size, len(room))
        CODEC.decode(room, k, v)
        self.assertEqual(sluice.info(room).size, size)

    def test_encode_into(self):
        room = bytearray(CODEC.max_size(K, V))
        size = CODEC.encode_into(room, K, V)
        self.assertEqual(bytes(room[:size]), FRAME)
        self.fails("output_too_small", lambda: CODEC.encode_into(bytearray(1000), K, V))
        with self.assertRaises(BufferError):
            CODEC.encode_into(bytes(1000), K, V)


class Weights(Test):
    """What an encoder may be told of how much tokens matter."""

    def balanced(self, **told):
        frame = CODEC.encode(K, V, codec="balanced", **told)
        k, v = like(K), like(V)
        CODEC.decode(frame, k, v)
        return frame, [error(k[:, t], K[:, t]) for t in (slice(4, 128), slice(128, 256))]

    def test_worthless_tokens_cost_little(self):
        usual, before = self.balanced()
        half = np.repeat(np.float32([0, 1]), 128)
        frame, after = self.balanced(importance=half)
        self.assertLess(len(frame), 0.7 * len(usual))
        self.assertGreater(after[0], 10 * before[0])
        self.assertLess(after[1], 1.01 * before[1])
        arrays = [np.repeat(half, 2)[::2], half > 0, *(half.astype(t) for t in ("f8", "f2", "i8", "u1"))]
        for same in (*arrays, list(half), (x for x in half)):
            self.assertEqual(CODEC.encode(K, V, codec="balanced", importance=same), frame)
        room = bytearray(len(frame))
        self.assertEqual(CODEC.encode_into(room, K, V, codec="balanced", importance=half), len(frame))
        self.assertEqual(room, frame)
        self.assertEqual(CODEC.encode(K, V, importance=half), FRAME, "standard has no use for it")

    def test_attention_that_was_observed(self):
        seen = np.ones((30, 256), np.float32)
        even, before = self.balanced(attention=seen)
        seen[:, 128:] = 100
        frame, after = self.balanced(attention=seen)
        self.assertGreater(after[0], 1.5 * before[0])
        self.assertLess(after[1], before[1] / 1.5)
        self.assertEqual(CODEC.encode(K, V, codec="balanced", attention=np.asfortranarray(seen)[:, ::-1][:, ::-1]), frame)
        seen[:, 128:] = 1
        seen[9, 128:] = 100  # of one layer
        self.assertNotIn(self.balanced(attention=seen)[0], (even, frame))

    def test_coarser_steps_and_what_they_lose(self):
        frames = {c: CODEC.encode(K, V, codec="balanced", coarser=c) for c in (-4, 0, 1, 4)}
        sizes = [len(frames[c]) for c in sorted(frames)]
        self.assertEqual(sizes, sorted(sizes, reverse=True))
        loss = {c: sluice.info(f).loss for c, f in frames.items()}
        self.assertEqual(loss[0], [None] * 4, "as the profile says")
        for level in range(4):
            self.assertAlmostEqual(np.log2(loss[4][level] / loss[1][level]), 3 * 1.8 / 4, delta=0.2)
            self.assertLess(loss[-4][level], loss[1][level])
        self.assertEqual(len(sluice.info(sluice.truncate(frames[4], 1)).loss), 2)

        told = sluice.info(CODEC.encode(K, V, codec="balanced", coarser=4, loss=[0.2, 0.03])).loss
        self.assertEqual(told[2:], [None, None])
        self.assertTrue(abs(told[0] / 0.2 - 1) < 0.05 and abs(told[1] / 0.03 - 1) < 0.05, told)
        self.assertEqual(sluice.info(FRAME).loss, [None] * 4)

    def test_refusals(self):
        def refused(status, words, **told):
            self.fails(status, lambda: CODEC.encode(K, V, codec="balanced", **told), words)

        row, seen = np.ones(256, np.float32), np.ones((30, 256), np.float32)
        refused("wrong_shape", "importance has the shape [255] and needs [256]", importance=row[1:])
        refused("wrong_shape", "[257]", importance=[1.0] * 257)
        refused("wrong_shape", "[30, 256]", importance=seen)
        refused("wrong_shape", "[29, 256] and needs [30, 256]", attention=seen[1:])
        refused("wrong_shape", "[30, 255]", attention=seen[:, 1:])
        refused("wrong_shape", "[7680]", attention=seen.ravel())
        refused("wrong_shape", "[2, 2] and needs [n]", loss=np.ones((2, 2)))
        refused("unsupported_type", "no numbers", importance=row.astype(np.complex64))
        refused("unsupported_type", ".cpu()", importance=OnAnotherDevice((256,)))
        for coarser in (49, -49, float("nan")):
            refused("invalid_argument", "48", coarser=coarser)
        for told in (dict(importance=3), dict(importance=["1"] * 256), dict(loss=[None]), dict(coarser="1")):
            self.assertRaises(TypeError, lambda: CODEC.encode(K, V, codec="balanced", **told))


class Prediction(Test):
    """Frames that are predicted from ids of tokens."""

    @classmethod
    def setUpClass(cls):
        cls.codec = sluice.load(PREDICTED)
        with open(SMALLEST, "rb") as f:
            cls.golden = f.read()
        cls.k, cls.v = cls.room()
        cls.codec.decode(cls.golden, cls.k, cls.v, token_ids=IDS)

    @staticmethod
    def room():
        return np.zeros((2, 40, 2, 16), np.float16), np.zeros((2, 40, 2, 16), np.float16)

    def test_ids_come_in_many_ways(self):
        ids = np.array(IDS, np.int32)
        frame = self.codec.encode(self.k, self.v, codec="smallest", token_ids=IDS)
        self.assertEqual(sluice.info(frame).codec, "smallest")
        k, v = self.room()
        self.codec.decode(frame, k, v, token_ids=ids)
        self.assertTrue(error(k, self.k) + error(v, self.v) < 0.01)
        arrays = [ids, np.repeat(ids, 3)[::3], *(ids.astype(t) for t in ("i8", "u8", "i2", "u1"))]
        for same in (*arrays, tuple(IDS), [*IDS, 5]):
            self.assertEqual(self.codec.encode(self.k, self.v, codec="smallest", token_ids=same), frame)
            again, again_v = self.room()
            self.codec.decode(frame, again, again_v, token_ids=same)
            self.assertTrue(np.array_equal(again, k) and np.array_equal(again_v, v))
        alone = self.codec.encode(self.k, self.v, codec="smallest")
        self.assertNotEqual(alone, frame)
        self.codec.decode(alone, k, v, token_ids=ids)  # without ids on one side there need be none on the other

    def test_other_ids_are_refused(self):
        k, v = self.room()
        other = [*IDS[:17], IDS[17] + 1, *IDS[18:]]
        for ids in (None, [], IDS[1:], other):
            self.fails("wrong_side_info", lambda: self.codec.decode(self.golden, k, v, token_ids=ids), "token ids")
        self.fails("wrong_shape", lambda: self.codec.decode(self.golden, k, v, token_ids=np.array([IDS])), "[1, 40]")
        self.assertRaises(TypeError, lambda: self.codec.decode(self.golden, k, v, token_ids="text"))
        self.assertFalse(k.any() or v.any(), "nothing was written")

        def refused(status, ids, words):
            self.fails(status, lambda: self.codec.encode(self.k, self.v, codec="smallest", token_ids=ids), words)

        refused("wrong_side_info", IDS[1:], "39 of 40")
        refused("wrong_side_info", [], "0 of 40")
        refused("wrong_shape", np.array([IDS]), "[1, 40] and needs [n]")
        refused("unsupported_type", np.array(IDS, np.float32), "no integers")
        refused("invalid_argument", [1 << 31] * 40, "32-bit")
        refused("invalid_argument", [1 << 80] * 40, "32-bit")
        refused("invalid_argument", np.full(40, -1 << 33), "32-bit")
        self.assertRaises(TypeError, lambda: self.codec.encode(self.k, self.v, codec="smallest", token_ids=[0.5] * 40))


class Documentation(Test):
    def test_readme_runs(self):
        with open(os.path.join(os.path.dirname(__file__), "..", "README.md"), encoding="utf-8") as f:
            first = f.read().split("```python\n")[1].split("```")[0]
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(first, {})
        self.assertIn("Info(codec=standard", said.getvalue())


class Refusals(Test):
    def test_arguments(self):
        k, v = like(K), like(V)
        for status, words, call in (
            ("wrong_shape", "29", lambda: CODEC.encode(K, V[:29])),
            ("wrong_shape", "axes", lambda: CODEC.encode(K[0], V[0])),
            ("wrong_shape", "three", lambda: CODEC.encode([K], [V])),
            ("wrong_shape", "differ", lambda: CODEC.encode(K[:, :9], V[:, :8])),
            ("wrong_shape", "", lambda: CODEC.encode(K[:, :, :2], V[:, :, :2])),
            ("wrong_shape", "", lambda: CODEC.encode(K[..., :32], V[..., :32])),
            ("wrong_shape", "", lambda: CODEC.encode(np.concatenate([K, K]), np.concatenate([V, V]))),
            ("wrong_shape", "room", lambda: CODEC.decode(FRAME, k[:, :9], v[:, :9])),
            ("wrong_shape", "", lambda: CODEC.encode(K, None)),
            ("invalid_argument", "token", lambda: CODEC.encode(K[:, :0], V[:, :0])),
            ("invalid_argument", "token", lambda: CODEC.encode([None] * 30, [None] * 30)),
            ("invalid_argument", "position", lambda: CODEC.encode(K, V, -1)),
            ("invalid_argument", "levels", lambda: CODEC.encode(K, V, levels=0)),
            ("invalid_argument", "standard", lambda: CODEC.encode(K, V, codec="zip")),
            ("invalid_argument", "half", lambda: sluice.Rope(pairing="sideways")),
            ("invalid_view", "", lambda: CODEC.encode(np.broadcast_to(K[:, :1], K.shape), V)),
            ("unsupported_type", "float32", lambda: CODEC.encode(K.astype(np.float64), V)),
            ("unsupported_type", "", lambda: CODEC.encode(K.astype(np.int16), V)),
            ("level_not_present", "", lambda: CODEC.decode(FRAME, k, v, level=-1)),
            ("level_not_present", "0 to 3", lambda: sluice.truncate(FRAME, 4)),
            ("level_not_present", "", lambda: sluice.truncate(FRAME, -1)),
            ("wrong_profile", "", lambda: sluice.uncalibrated(layers=30, kv_heads=3, head_dim=64).decode(FRAME, k, v)),
            ("not_a_frame", "", lambda: CODEC.decode(b"not a frame at all", k, v)),
            ("truncated", "", lambda: CODEC.decode(FRAME[:60], k, v)),
            ("truncated", "", lambda: sluice.verify(FRAME[:9000])),
            ("truncated", "", lambda: sluice.truncate(FRAME[:9000], 1)),
            ("io_error", "nothing.profile", lambda: sluice.load("nothing.profile")),
            ("not_a_profile", SAMPLE, lambda: sluice.load(SAMPLE)),
        ):
            self.fails(status, call, words)
        for call in (lambda: CODEC.encode(3, V), lambda: CODEC.encode([1] * 30, V), lambda: CODEC.decode("text", k, v),
                     lambda: CODEC.encode(K, V, "0"), lambda: sluice.load(3), lambda: sluice.info(None)):
            self.assertRaises(TypeError, call)
        self.assertFalse(k.any() or v.any(), "nothing was written")

    def test_read_only_targets(self):
        k, v = like(K), like(V)
        v.flags.writeable = False
        self.fails("invalid_argument", lambda: CODEC.decode(FRAME, k, v), "read-only")
        self.fails("invalid_argument", lambda: CODEC.decode(FRAME, k, list(v)), "v[0] is read-only")
        self.assertFalse(k.any())
        self.assertEqual(CODEC.encode(K, V), FRAME)  # what is only read may be

    def test_other_devices(self):
        self.fails("unsupported_type", lambda: CODEC.encode(OnAnotherDevice(K.shape), V), ".cpu()")
        self.fails("unsupported_type", lambda: CODEC.decode(FRAME, OnAnotherDevice(K.shape), like(V)), ".cpu()")

    def test_damage(self):
        bad = bytearray(FRAME)
        bad[-100] ^= 1  # of the finest level
        k, v = like(K), like(V)
        self.assertEqual(CODEC.decode(bad, k, v), 1)
        self.assertEqual(CODEC.decode(bad, k, v, level=2), 0)
        self.assertEqual(sluice.verify(bad), 2)
        bad[20_000] ^= 1  # of the coarsest
        self.fails("corrupt_tile", lambda: CODEC.decode(bad, k, v), "1 of 60")
        self.fails("corrupt_tile", lambda: sluice.verify(bad))
        bad[30] ^= 1
        self.fails("corrupt_header", lambda: CODEC.decode(bad, k, v))

    def test_random_damage_never_crashes(self):
        rng = random.Random(SEED)
        small = CODEC.encode(K[:, :64], V[:, :64])
        k, v = like(K[:, :64]), like(V[:, :64])
        for _ in range(100):
            bad = bytearray(small)
            for _ in range(rng.choice([1, 3, 30])):
                bad[rng.randrange(rng.choice([120, len(bad)]))] = rng.randrange(256)
            bad = bad[: rng.choice([len(bad), rng.randrange(len(bad))])]
            try:
                CODEC.decode(bad, k, v)
            except sluice.Error:
                pass


class Sharing(Test):
    def test_several_threads(self):
        slices = [(K[:, a : a + 32], V[:, a : a + 32], a) for a in range(0, 256, 32)]
        expected = [CODEC.encode(*s) for s in slices]
        wrong = []

        def work(first):
            for i in range(first, first + 16):
                n = i % len(slices)
                k, v = like(slices[n][0]), like(slices[n][1])
                frame = CODEC.encode(*slices[n])
                CODEC.decode(frame, k, v)
                if frame != expected[n] or error(k, slices[n][0]) > 0.01:
                    wrong.append(n)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(wrong, [])

    def test_interpreter_is_released(self):
        started, order = threading.Event(), []

        def work():
            started.set()  # from here on only encode() can let the other thread run
            CODEC.encode(K, V)
            order.append("encoded")

        before = sys.getswitchinterval()
        sys.setswitchinterval(1000)
        try:
            t = threading.Thread(target=work)
            t.start()
            started.wait()
            order.append("meanwhile")
        finally:
            sys.setswitchinterval(before)
        t.join()
        self.assertEqual(order, ["meanwhile", "encoded"])

    def test_arrays_are_held_and_let_go(self):
        for _ in range(3):
            k, v, frame = [a.copy() for a in K], [a.copy() for a in V], bytearray(FRAME)
            started = threading.Event()
            got = []

            def work():
                started.set()
                got.append(CODEC.encode(k, v))

            t = threading.Thread(target=work)
            t.start()
            started.wait()
            k.clear(), v.clear(), gc.collect()  # the only references but the module's
            t.join()
            self.assertIn(got[0] if got else FRAME, (FRAME,))
        k, v = like(K), like(V)
        counts = sys.getrefcount(k), sys.getrefcount(v), sys.getrefcount(frame)
        for _ in range(3):
            CODEC.encode(k, v)
            CODEC.decode(frame, k, v)
            for call in (lambda: CODEC.encode(k, v[:3]), lambda: CODEC.decode(frame, k[:, :5], v)):
                self.assertRaises(sluice.Error, call)
        del call
        gc.collect()
        self.assertEqual((sys.getrefcount(k), sys.getrefcount(v), sys.getrefcount(frame)), counts)
        frame.append(0)  # nobody exports its buffer


class Profiles(Test):
    def test_uncalibrated(self):
        config = dict(num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, hidden_size=576, rope_theta=100000)
        codec = sluice.uncalibrated(config)
        self.assertFalse(codec.calibrated)
        self.assertTrue(CODEC.calibrated)
        mine, theirs = codec.shape, CODEC.shape
        self.assertEqual([(x.kv_heads, x.head_dim_k, x.window) for x in mine.layers], [(x.kv_heads, x.head_dim_k, x.window) for x in theirs.layers])
        self.assertEqual((mine.ropes[0].base, mine.ropes[0].pairing), (theirs.ropes[0].base, theirs.ropes[0].pairing))
        same = sluice.uncalibrated(layers=30, kv_heads=3, head_dim=64, rope_base=100000.0)
        self.assertEqual(same.fingerprint, codec.fingerprint)

    def test_configs(self):
        base = dict(num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2, head_dim=16)
        llama = sluice.shape_of(base | {"rope_theta": 5e5, "rope_scaling": dict(
            rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)})
        self.assertEqual((llama.ropes[0].scaling, llama.ropes[0].base, llama.ropes[0].factor), ("llama3", 5e5, 8.0))
        gemma = base | {"sliding_window": 512, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]}
        new = gemma | {"rope_parameters": {"sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
                                           "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0}}}
        old = gemma | {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
        for c in (new, old, {"text_config": new}):
            s = sluice.shape_of(c)
            self.assertEqual([x.window for x in s.layers], [512] * 3 + [0])
            self.assertEqual([s.ropes[x.rope].base for x in s.layers], [1e4] * 3 + [1e6])
            self.assertEqual(s.ropes[s.layers[3].rope].factor, 8.0)
        yarn = sluice.shape_of(base | {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}})
        self.assertAlmostEqual(yarn.ropes[0].attention_factor, 0.1 * np.log(4) + 1)
        part = sluice.shape_of(base | {"partial_rotary_factor": 0.5})
        self.assertEqual(part.ropes[0].dims, 8)
        hybrid = sluice.shape_of(base | {"layer_types": ["linear_attention", "full_attention"] * 2})
        self.assertEqual([x.kv_heads for x in hybrid.layers], [0, 2, 0, 2])
        no_rope = sluice.shape_of(base | {"no_rope_layers": [1, 1, 1, 0]})
        self.assertEqual([no_rope.ropes[x.rope].pairing for x in no_rope.layers], ["half"] * 3 + ["none"])
        self.fails("unsupported_type", lambda: sluice.shape_of(base | {"kv_lora_rank": 512}), "latent")
        self.fails("unsupported_type", lambda: sluice.shape_of(base | {"rope_scaling": {"type": "longrope"}}), "longrope")
        self.fails("invalid_argument", lambda: sluice.shape_of({}), "num_hidden_layers")
        self.fails("invalid_argument", lambda: sluice.Shape([], []))
        self.fails("invalid_argument", lambda: sluice.Shape([(3, -5, 64, 0, 0)], [sluice.Rope()]))
        self.fails("invalid_argument", lambda: sluice.Shape([(3, 64, 64, 7, 0)], [sluice.Rope()]))

    def test_calibrates_saves_and_loads(self):
        few = sluice.Shape([(3, 64, 64, 0, 0)] * 3, [sluice.Rope(100000.0)])
        k, v = K[:3], V[:3]
        try:
            codec = sluice.calibrate([(k[:, :192], v[:, :192], [q for q in queries()[:3]])], few, name="three layers")
        except sluice.Error as e:
            if e.status == "refused":
                self.skipTest(str(e))
            raise
        self.assertTrue(codec.calibrated)
        self.assertEqual(codec.name, "three layers")
        rest = k[:, 192:], v[:, 192:], 192
        size = sluice.info(codec.encode(*rest)).sizes
        plain = sluice.info(sluice.Codec(few).encode(*rest)).sizes
        self.assertLess(size[1], plain[1])
        with tempfile.TemporaryDirectory() as folder:
            codec.save(os.path.join(folder, "a.profile"))
            again = sluice.load(os.path.join(folder, "a.profile"))
        self.assertEqual((again.fingerprint, again.name), (codec.fingerprint, codec.name))
        self.assertEqual(again.encode(*rest), codec.encode(*rest))
        self.assertNotEqual(sluice.calibrate([(k[:, :192], v[:, :192])], few).fingerprint, codec.fingerprint)
        self.fails("constant_values", lambda: sluice.calibrate([(like(k), like(v))], few))
        self.fails("too_few_tokens", lambda: sluice.calibrate([(k[:, :5], v[:, :5])], few))
        self.fails("wrong_shape", lambda: sluice.calibrate([(K, V)], few))
        self.fails("wrong_shape", lambda: sluice.calibrate([(k, v, [q[..., :8] for q in queries()[:3]])], few))
        self.assertRaises(TypeError, lambda: sluice.calibrate([k], few))
        self.assertRaises(TypeError, lambda: sluice.calibrate(3, few))
        self.fails("invalid_argument", lambda: sluice.calibrate([], few))

    def test_stubs_name_what_is_there(self):
        with open(os.path.join(os.path.dirname(sluice.__file__), "_core.pyi"), encoding="utf-8") as f:
            stub = ast.parse(f.read())
        names = {}
        for node in stub.body:
            if isinstance(node, ast.FunctionDef):
                names[node.name] = None
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                names[node.name] = {x.name for x in node.body if isinstance(x, ast.FunctionDef)} - {"__init__"}
        core = sys.modules["sluice._core"]
        there = {n for n in dir(core) if not n.startswith("_")}
        self.assertEqual(set(names), there)
        for name, members in names.items():
            if members is not None:
                self.assertEqual(members, {m for m in dir(getattr(core, name)) if not m.startswith("_")}, name)


if __name__ == "__main__":
    unittest.main()
