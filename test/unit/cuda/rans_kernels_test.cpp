// SPDX-License-Identifier: Apache-2.0
// The coder's kernels on the emulator: wherever there is no GPU, their logic is tested all the same.
#include <cuda_on_host.hpp>

#include <doctest/doctest.h>
#include <support/rans_kernel_checks.hpp>

namespace {
constexpr unsigned seed = 20250712;
}

TEST_CASE("rans kernels, emulated: everything that holds for the coder on a CPU") {
  MESSAGE("seed ", seed);
  rans_checks::everything(rans_checks::device_coder{}, seed, 1);
}

TEST_CASE("rans kernels, emulated: one plan for the streams of a block, unless their tables differ") {
  MESSAGE("seed ", seed);
  rans_checks::shared_plans(seed);
}
