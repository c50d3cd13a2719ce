// SPDX-License-Identifier: Apache-2.0
// Pages of bf16 into frames of the standard codec, which the CPU reads: by how many levels are made, by width of the basis,
// and by how many SMs may work at it.
#include "cuda_encode.cuh"

namespace cuda_bench {
namespace {

const bool registered = [] {
  for (const model_size& size : sizes)
    for (const int levels : {2, 4})
      for (const share s : shares) {
        if (s != share::all && (size.group_width != 128 || levels != 4)) continue;
        add("encode/standard/" + std::string(size.name) + "/basis_" + std::to_string(size.group_width) + "/levels_" +
                std::to_string(levels) + "/" + to_string(s),
            [=, &size](benchmark::State& state) { encode<sluice::codec::standard>(state, size, levels, s); });
      }
  return true;
}();

}  // namespace
}  // namespace cuda_bench
