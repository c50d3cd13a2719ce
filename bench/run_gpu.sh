#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tests, measures and profiles the CUDA half on a machine that has a GPU and perhaps no compiler, in three calls of at most
# ten minutes each. Programs are built where nvcc is and carried along.
#
#   bench/run_gpu.sh prepare [BUILD]   builds for sm_90 and puts all that is carried into build/gpu (nvcomp_ROOT=<folder of
#                                      nvCOMP's include/ and lib64/> adds the rival)
#   bench/run_gpu.sh tests             1: every CUDA test, then again under compute-sanitizer where there is one
#   bench/run_gpu.sh bench             2: benchmarks and rivals
#   bench/run_gpu.sh profile           3: counters of every kernel, where ncu is
#   bench/run_gpu.sh --dry-run [BIN]   launches nothing: whether all that the calls name is in BIN (build/gpu) and starts
#
# Run it from the repository's root, since test/data is found there. Results go to $OUT (build/gpu/out), at most four
# files a call.
set -u
cd "$(dirname "$0")/.." || exit 1
bin=build/gpu
out=${OUT:-build/gpu/out}
seconds=540  # of a call; the rest of the ten minutes is for what comes before and after
dry=false
failed=0

programs() {  # every CUDA test, then what else is carried
  for source in test/cuda/*.cu; do echo "cuda_$(basename "$source" .cu)"; done
  echo cuda_cpp17
  echo sluice-cuda-bench
  echo custom_engine_cuda
}

# launch LOG PROGRAM ARGUMENT...: within what is left of the call. 77 = there is no GPU.
launch() {
  local log=$1 left=$((seconds - SECONDS))
  shift
  if $dry; then echo "would run: $*"; return; fi  # nothing is launched
  if ((left < 5)); then echo "no time left for: $*" | tee -a "$log"; failed=1; return; fi
  echo "== $*" >>"$log"
  timeout "$left" "$@" >>"$log" 2>&1
  local rc=$?
  echo "== exit $rc after $SECONDS s" >>"$log"
  if ((rc != 0)); then echo "exit $rc: $*"; failed=1; fi
}

# Whether a program is there and can be started: it lists, helps, runs or says that there is no GPU.
starts() {
  if [[ ! -x $bin/$1 ]]; then echo "missing: $bin/$1"; failed=1; return; fi
  local rc
  case $1 in
    sluice-cuda-bench) "$bin/$1" --benchmark_list_tests >/dev/null 2>&1; rc=$? ;;
    *) "$bin/$1" --help >/dev/null 2>&1; rc=$? ;;
  esac
  if ((rc != 0 && rc != 2 && rc != 77)); then echo "does not start (exit $rc): $bin/$1"; failed=1; fi
}

call_tests() {
  for program in $(programs | grep '^cuda_'); do launch "$out/tests.log" "$bin/$program"; done
  launch "$out/tests.log" "$bin/custom_engine_cuda" test/data/smollm2.profile "$bin/sample.slc"
  $dry || command -v compute-sanitizer >/dev/null || { echo "no compute-sanitizer here" | tee -a "$out/tests.log"; return; }
  for tool in memcheck racecheck synccheck; do
    for program in $(programs | grep '^cuda_'); do
      launch "$out/$tool.log" compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/$program"
    done
  done
}

call_bench() {
  launch "$out/machine.txt" nvidia-smi
  launch "$out/bench.log" "$bin/sluice-cuda-bench" --benchmark_min_time=0.2 --benchmark_out="$out/gpu.json"
}

call_profile() {
  $dry || command -v ncu >/dev/null || { echo "no ncu here"; return; }
  launch "$out/profile.csv" ncu --clock-control none --csv --page raw --launch-count 120 \
    --kernel-name 'regex:open_|ropes|class_rans|store_|report_|split_exponent|forward|find_not|classes|codes|tiles|frames' \
    --section SpeedOfLight --section Occupancy --section LaunchStats --section WarpStateStats --section InstructionStats \
    "$bin/sluice-cuda-bench" --benchmark_min_time=0.001 \
    --benchmark_filter='^(decode/standard/8B/basis_128/level_1|decode/exact/8B|encode/standard/8B/basis_128/levels_4)/all_SMs'
}

prepare() {
  local build=${1:-build/gpu_build}
  cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DSLUICE_CUDA=ON -DSLUICE_CUDA_ARCHITECTURES=90 -DSLUICE_DATA_ROOT=. \
    ${nvcomp_ROOT:+"-Dnvcomp_ROOT=$nvcomp_ROOT"} >/dev/null || exit 1
  # shellcheck disable=SC2046
  cmake --build "$build" --target $(programs | sed 's/^sluice-cuda-bench$/sluice_cuda_bench/') sluice_tool || exit 1
  mkdir -p "$bin"
  for program in $(programs); do cp "$build/bin/$program" "$bin/" && strip "$bin/$program"; done
  "$build/bin/sluice" encode -p test/data/smollm2.profile --chunk-tokens 100 test/data/smollm2_sample.safetensors \
    -o "$bin/sample.slc" || exit 1
  # Shared libraries that the other machine may lack.
  ldd "$bin/sluice-cuda-bench" | awk '$1 ~ /^lib(benchmark|nvcomp)/ { print $3 }' | xargs -r -I{} cp -L {} "$bin/"
  du -sh "$bin"
}

case ${1:-} in
  prepare) prepare "${2:-}"; exit ;;
  tests | bench | profile) mkdir -p "$out" && "call_$1" ;;
  --dry-run)
    dry=true
    bin=${2:-$bin}
    for program in $(programs); do starts "$program"; done
    for call in tests bench profile; do "call_$call"; done
    ;;
  *) sed -n '3,15s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
exit "$failed"
