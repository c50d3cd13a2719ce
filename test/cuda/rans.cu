// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <support/rans_kernel_checks.hpp>

namespace {
constexpr unsigned seed = 20250712;
}

TEST_CASE("rans kernels: everything that holds for the coder on a CPU") {
  MESSAGE("seed ", seed);
  rans_checks::everything(rans_checks::device_coder{}, seed, 10);
}

TEST_CASE("rans kernels: codes of a block have plans of their own") {
  MESSAGE("seed ", seed);
  rans_checks::plans_of_a_block(seed);
}
