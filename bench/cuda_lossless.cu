// SPDX-License-Identifier: Apache-2.0
// The same for lossless frames (exact), whose rivals are nvCOMP's coders.
#include "cuda_decode.cuh"

namespace cuda_bench {
namespace {

const bool registered = [] {
  const char* names[] = {"decode", "entropy", "store"};
  for (const model_size* size : {&sizes[1], &sizes[4]})
    for (const part what : {part::all, part::entropy, part::store})
      for (const share s : shares)
        add(names[static_cast<int>(what)] + std::string("/exact/") + size->name + "/" + to_string(s),
            [=](benchmark::State& state) { decode<sluice::codec::exact>(state, *size, 0, what, s); });
  return true;
}();

}  // namespace
}  // namespace cuda_bench
