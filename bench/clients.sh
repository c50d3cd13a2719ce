#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The Python package in real clients: installs it and them into an environment of its own (4 GB, most of it torch), runs
# examples/python/tests against them and writes bench/results/clients.json. Needs no GPU: torch of PyPI is made to work
# without (torch_cpu_stubs.py), and of vLLM and SGLang only files that need none are taken out of their wheels.
#
#   bench/clients.sh WORK [MODEL.gguf [ENGINE]]
#
# WORK keeps everything and is used again. MODEL: SmolLM2-135M-Instruct, for what a real model says with a restored cache.
# ENGINE: the example engine, whose figures for the same text are compared. SLUICE_CAPTURE in the environment: a longer
# capture of that model than test/data has. PYTHON: 3.12 or later, or 3.11.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(realpath -m "${1:?usage: bench/clients.sh WORK [MODEL.gguf [ENGINE]]}")
export SLUICE_GGUF=${2:+$(realpath "$2")} SLUICE_ENGINE=${3:+$(realpath "$3")}
torch=2.15.0 transformers=5.24.0 lmcache=0.5.6
export SLUICE_VLLM_VERSION=0.33.0 SLUICE_SGLANG_VERSION=0.5.23

mkdir -p "$work/download" "$work/wheels"
[ -x "$work/venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip "$1" -q --disable-pip-version-check "${@:2}"; }

if [ ! -e "$work/installed" ]; then
  # transformers and what it reads GGUF files with; torch and LMCache without the CUDA libraries that they ask for.
  pip install "transformers==$transformers" accelerate gguf safetensors numpy sentencepiece protobuf --no-deps
  pip install regex pyyaml requests tqdm packaging filelock fsspec typing_extensions sympy networkx jinja2 psutil httpx \
    "huggingface_hub>=2,<3" "tokenizers>=0.23,<0.24"
  pip install "torch==$torch" "lmcache==$lmcache" nvidia-cuda-runtime --no-deps
  pip install sortedcontainers numba prometheus_client py-cpuinfo aiofiles aiofile msgspec pyzmq cachetools nvtx redis blake3 \
    cryptography aiohttp fastapi uvicorn opentelemetry-api opentelemetry-sdk
  "$work/venv/bin/python" bench/torch_cpu_stubs.py
  for wheel in "vllm==$SLUICE_VLLM_VERSION" "sglang==$SLUICE_SGLANG_VERSION"; do
    pip download --no-deps -d "$work/download" "$wheel"
  done
  "$work/venv/bin/python" - "$work" <<'PYTHON'
import glob, sys, zipfile
parts = ('vllm/v1/kv_offload/', 'vllm/v1/kv_hints', 'vllm/v1/metrics/', 'vllm/utils/math_utils', 'sglang/srt/mem_cache/', 'sglang/srt/environ')
for wheel in glob.glob(f'{sys.argv[1]}/download/*.whl'):
    with zipfile.ZipFile(wheel) as z:
        z.extractall(f'{sys.argv[1]}/wheels', [n for n in z.namelist() if n.startswith(parts) and n.endswith('.py')])
PYTHON
  touch "$work/installed"
fi
pip install ./examples/python

export SLUICE_WHEELS="$work/wheels" SLUICE_TEST_DATA="$PWD/test/data" SLUICE_RESULTS="$work/results.json"
rm -f "$SLUICE_RESULTS"
failed=0
for test in module transformers lmcache vllm sglang; do
  echo "== $test"
  "$work/venv/bin/python" "examples/python/tests/${test}_test.py" || failed=1
done
"$work/venv/bin/python" - "$SLUICE_RESULTS" bench/results/clients.json <<'PYTHON'
import json, os, platform, re, sys
import sluice
cpu = re.search(r'model name\s*: (.*)', open('/proc/cpuinfo').read())
out = dict(machine=dict(cpu=cpu[1] if cpu else platform.machine(), cores=os.cpu_count()), python=platform.python_version(),
           sluice=sluice.__version__, capture=os.path.basename(os.environ.get('SLUICE_CAPTURE', 'smollm2_sample.safetensors')),
           clients=json.load(open(sys.argv[1])))
json.dump(out, open(sys.argv[2], 'w'), indent=1)
PYTHON
exit $failed
