# SPDX-License-Identifier: Apache-2.0
"""llama.cpp through the C interface that PyPI's xllamacpp carries inside its extension module.

What the interface takes by value is read and written at its offsets, which check() compares with the defaults that
llama.cpp itself returns: another layout is an error and not a wrong measurement.
"""
import ctypes
import importlib.util
import pathlib
import struct

TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}


class Unavailable(Exception):
    """There is no llama.cpp here that these tests know."""


class _Struct(ctypes.Structure):
    """Any struct that travels through memory: larger than every one of llama.cpp's."""

    _fields_ = [("bytes", ctypes.c_uint8 * 512)]

    def put(self, form, at, value):
        struct.pack_into("<" + form, self.bytes, at, value)

    def get(self, form, at):
        return struct.unpack_from("<" + form, self.bytes, at)[0]


def _library():
    found = importlib.util.find_spec("xllamacpp")
    if not found:
        raise Unavailable("no xllamacpp")
    path = next(pathlib.Path(found.submodule_search_locations[0]).glob("xllamacpp*.so"))
    lib = ctypes.CDLL(str(path))
    pointer, size, i32, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32, ctypes.c_char_p
    for name, result, arguments in [
        ("llama_model_default_params", _Struct, []),
        ("llama_context_default_params", _Struct, []),
        ("llama_model_load_from_file", pointer, [text, _Struct]),
        ("llama_init_from_model", pointer, [pointer, _Struct]),
        ("llama_model_get_vocab", pointer, [pointer]),
        ("llama_vocab_n_tokens", i32, [pointer]),
        ("llama_tokenize", i32, [pointer, text, i32, pointer, i32, ctypes.c_bool, ctypes.c_bool]),
        ("llama_batch_init", _Struct, [i32, i32, i32]),
        ("llama_batch_free", None, [_Struct]),
        ("llama_decode", i32, [pointer, _Struct]),
        ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, i32]),
        ("llama_get_memory", pointer, [pointer]),
        ("llama_memory_seq_rm", ctypes.c_bool, [pointer, i32, i32, i32]),
        ("llama_memory_seq_cp", None, [pointer, i32, i32, i32, i32]),
        ("llama_state_get_size", size, [pointer]),
        ("llama_state_get_data", size, [pointer, pointer, size]),
        ("llama_state_set_data", size, [pointer, pointer, size]),
        ("llama_state_save_file", ctypes.c_bool, [pointer, text, pointer, size]),
        ("llama_state_load_file", ctypes.c_bool, [pointer, text, pointer, size, pointer]),
        ("llama_state_seq_get_size", size, [pointer, i32]),
        ("llama_state_seq_get_data", size, [pointer, pointer, size, i32]),
        ("llama_state_seq_set_data", size, [pointer, pointer, size, i32]),
        ("llama_state_seq_save_file", size, [pointer, text, i32, pointer, size]),
        ("llama_state_seq_load_file", size, [pointer, text, i32, pointer, size, pointer]),
        ("llama_log_set", None, [pointer, pointer]),
        ("llama_free", None, [pointer]),
        ("llama_model_free", None, [pointer]),
    ]:
        f = getattr(lib, name, None)
        if f is None:
            raise Unavailable(f"xllamacpp has no {name}")
        f.restype, f.argtypes = result, arguments
    return lib


def check(lib):
    """Whether the structs are those that this file knows, by their defaults."""
    c = lib.llama_context_default_params()
    known = {0: 512, 4: 2048, 8: 512, 12: 1, 28: 4, 32: 4, 104: TYPES["f16"], 108: TYPES["f16"]}
    if any(c.get("I", at) != value for at, value in known.items()) or c.get("i", 52) != -1 or c.get("f", 84) != -1:
        raise Unavailable("another llama.cpp than this test knows")
    if bytes(c.bytes[136:142]) != b"\0\1\1\1\1\0":
        raise Unavailable("another llama.cpp than this test knows")


class Model:
    def __init__(self, path):
        self.lib = _library()
        check(self.lib)
        self._quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda level, line, data: None)
        self.lib.llama_log_set(ctypes.cast(self._quiet, ctypes.c_void_p), None)
        self.handle = self.lib.llama_model_load_from_file(str(path).encode(), self.lib.llama_model_default_params())
        if not self.handle:
            raise RuntimeError(f"{path}: no model")
        vocab = self.lib.llama_model_get_vocab(self.handle)
        self.vocab_size = self.lib.llama_vocab_n_tokens(vocab)
        self._vocab = vocab

    def tokenize(self, text):
        raw = text.encode()
        to = (ctypes.c_int32 * (len(raw) + 8))()
        n = self.lib.llama_tokenize(self._vocab, raw, len(raw), to, len(to), True, False)
        return list(to[:n])

    def context(self, **how):
        return Context(self, **how)


class Context:
    """A context; `k` and `v` are element types, `flash` whether V lies untransposed."""

    def __init__(self, model, n_ctx=4096, flash=True, k="f16", v="f16", sequences=1, unified=True, threads=1):
        self.model, self.lib, self.pos = model, model.lib, {}
        c = self.lib.llama_context_default_params()
        for at, value in ((0, n_ctx), (4, 512), (8, 512), (12, sequences), (28, threads), (32, threads),
                          (52, int(flash)), (104, TYPES[k]), (108, TYPES[v])):
            c.put("I", at, value)
        c.put("B", 141, int(unified))
        self.handle = self.lib.llama_init_from_model(model.handle, c)
        if not self.handle:
            raise RuntimeError("no context")

    def close(self):
        self.lib.llama_free(self.handle)

    def feed(self, tokens, position, sequence=0, logits=False):
        """Runs tokens; with `logits`, the log-probabilities behind each of them, [tokens][vocabulary]."""
        import numpy as np
        out = []
        for begin in range(0, len(tokens), 256):
            part = tokens[begin:begin + 256]
            b = self.lib.llama_batch_init(len(part), 0, 1)
            token, _, pos, n_seq, seq, want = (b.get("Q", 8 * i) for i in range(1, 7))
            b.put("i", 0, len(part))
            for i, t in enumerate(part):
                ctypes.c_int32.from_address(token + 4 * i).value = t
                ctypes.c_int32.from_address(pos + 4 * i).value = position + begin + i
                ctypes.c_int32.from_address(n_seq + 4 * i).value = 1
                ctypes.c_int32.from_address(ctypes.c_uint64.from_address(seq + 8 * i).value).value = sequence
                ctypes.c_int8.from_address(want + i).value = logits or begin + i == len(tokens) - 1
            failed = self.lib.llama_decode(self.handle, b)
            self.lib.llama_batch_free(b)
            if failed:
                raise RuntimeError(f"llama_decode: {failed}")
            for i in range(len(part)) if logits else ():
                row = np.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.handle, i), (self.model.vocab_size,))
                row = row.astype(np.float64)
                out.append(row - row.max() - np.log(np.exp(row - row.max()).sum()))
        return np.array(out, np.float32) if logits else None

    def remove(self, sequence, begin, end=-1):
        self.lib.llama_memory_seq_rm(self.lib.llama_get_memory(self.handle), sequence, begin, end)

    def share(self, source, target, begin=0, end=-1):
        self.lib.llama_memory_seq_cp(self.lib.llama_get_memory(self.handle), source, target, begin, end)

    def get(self, sequence=0):
        n = self.lib.llama_state_seq_get_size(self.handle, sequence)
        to = ctypes.create_string_buffer(n)
        n = self.lib.llama_state_seq_get_data(self.handle, to, n, sequence)
        return to.raw[:n]

    def set(self, data, sequence=0):
        return self.lib.llama_state_seq_set_data(self.handle, data, len(data), sequence)

    def get_all(self):
        n = self.lib.llama_state_get_size(self.handle)
        to = ctypes.create_string_buffer(n)
        n = self.lib.llama_state_get_data(self.handle, to, n)
        return to.raw[:n]

    def set_all(self, data):
        return self.lib.llama_state_set_data(self.handle, data, len(data))

    def save(self, path, tokens, sequence=0):
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        return self.lib.llama_state_seq_save_file(self.handle, str(path).encode(), sequence, ids, len(tokens))

    def load(self, path, sequence=0, capacity=1 << 20):
        ids, n = (ctypes.c_int32 * capacity)(), ctypes.c_size_t()
        ok = self.lib.llama_state_seq_load_file(self.handle, str(path).encode(), sequence, ids, capacity, ctypes.byref(n))
        return list(ids[:n.value]) if ok else None

    def save_all(self, path, tokens):
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        return self.lib.llama_state_save_file(self.handle, str(path).encode(), ids, len(tokens))

    def load_all(self, path, capacity=1 << 20):
        ids, n = (ctypes.c_int32 * capacity)(), ctypes.c_size_t()
        ok = self.lib.llama_state_load_file(self.handle, str(path).encode(), ids, capacity, ctypes.byref(n))
        return list(ids[:n.value]) if ok else None


def compare(exact, got, tokens=None):
    """Mean KL divergence in nats, share of equal best tokens, and (where the next tokens are known) how much worse they
    are predicted in nats."""
    import numpy as np
    p = exact.astype(np.float64)
    q = got.astype(np.float64)
    kl = float((np.exp(p) * (p - q)).sum(1).mean())
    top = float((p.argmax(1) == q.argmax(1)).mean())
    worse = None
    if tokens is not None:
        i = np.arange(len(tokens))
        worse = float((p[i, tokens] - q[i, tokens]).mean())
    return {"kl": kl, "top1": top, "delta_nll": worse}
