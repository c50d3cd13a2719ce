// SPDX-License-Identifier: Apache-2.0
// Frames of the standard codec into pages of bf16: whole, and its two large stages alone; by level, by width of the basis,
// and by how many SMs may work at it.
#include "cuda_decode.cuh"

namespace cuda_bench {
namespace {

const bool registered = [] {
  using codec = sluice::codec::standard;
  const char* names[] = {"decode", "entropy", "store"};
  for (const model_size& size : sizes)
    for (int level = 0; level < 4; ++level)
      for (const part what : {part::all, part::entropy, part::store})
        for (const share s : shares) {
          // What does not depend on the width is measured at one.
          if (s != share::all && (size.group_width != 128 || level != 1)) continue;
          add(names[static_cast<int>(what)] + std::string("/standard/") + size.name + "/basis_" +
                  std::to_string(size.group_width) + "/level_" + std::to_string(level) + "/" + to_string(s),
              [=, &size](benchmark::State& state) { decode<codec>(state, size, level, what, s); });
        }
  return true;
}();

}  // namespace
}  // namespace cuda_bench
