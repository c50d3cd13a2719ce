# SPDX-License-Identifier: Apache-2.0
"""A whole llama-server in a process of its own: started, asked over HTTP, ended with everything it knew."""
import json
import os
import subprocess
import sys
import urllib.request


def main(model, folder, context, flash, k, v, slots):
    import xllamacpp as x
    p = x.CommonParams()
    p.model.path = model
    p.n_ctx = int(context)
    p.n_parallel = int(slots)
    p.slot_save_path = folder if folder.endswith("/") else folder + "/"
    p.endpoint_slots = True
    p.port = 0
    p.cache_ram_mib = 0
    p.fit_params = False
    p.warmup = False
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1  # several would wait for one another by spinning
    types = {"f16": x.ggml_type.GGML_TYPE_F16, "q8_0": x.ggml_type.GGML_TYPE_Q8_0}
    p.cache_type_k, p.cache_type_v = types[k], types[v]
    p.flash_attn_type = getattr(x.llama_flash_attn_type,
                                f"LLAMA_FLASH_ATTN_TYPE_{'ENABLED' if flash == '1' else 'DISABLED'}")
    server = x.Server(p)
    print("ADDRESS", server.listening_address, flush=True)
    sys.stdin.read()  # until whoever started it is done
    os._exit(0)


class Server:
    def __init__(self, model, folder, context=4096, flash=True, k="f16", v="f16", slots=1):
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(model), str(folder), str(context), "1" if flash else "0", k, v, str(slots)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.process.stdout:
            if line.startswith("ADDRESS "):
                self.address = line.split()[1].rstrip("/")
                return
        raise RuntimeError("the server did not start")

    def ask(self, path, question):
        request = urllib.request.Request(f"{self.address}/{path}", json.dumps(question).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    def complete(self, prompt, tokens, slot=0):
        return self.ask("completion", {"prompt": prompt, "n_predict": tokens, "temperature": 0, "cache_prompt": True,
                                       "id_slot": slot, "return_tokens": True})

    def save(self, name, slot=0):
        return self.ask(f"slots/{slot}?action=save", {"filename": name})

    def restore(self, name, slot=0):
        return self.ask(f"slots/{slot}?action=restore", {"filename": name})

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
