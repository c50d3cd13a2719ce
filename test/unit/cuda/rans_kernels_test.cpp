// SPDX-License-Identifier: Apache-2.0
// The coder's kernels on the emulator: wherever there is no GPU, their logic is tested all the same.
// races: *
#include <cuda_on_host.hpp>

#include <doctest/doctest.h>
#include <support/rans_kernel_checks.hpp>

namespace {
constexpr unsigned seed = 20250712;
}

TEST_CASE("rans kernels, emulated: everything that holds for the coder on a CPU") {
  MESSAGE("seed ", seed);
  for (const auto how : {cuda_on_host::order::up, cuda_on_host::order::down, cuda_on_host::order::random}) {
    cuda_on_host::the_machine.how = how;
    rans_checks::everything(rans_checks::device_coder{}, seed, 1);
  }
  cuda_on_host::the_machine.how = cuda_on_host::order::up;
}

TEST_CASE("rans kernels, emulated: codes of a block have plans of their own") {
  MESSAGE("seed ", seed);
  rans_checks::plans_of_a_block(seed);
}
