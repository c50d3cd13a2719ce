// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <support/bitpack_kernel_checks.hpp>

namespace {
constexpr unsigned seed = 20261121;
}

TEST_CASE("packing kernels: every width") {
  MESSAGE("seed ", seed);
  bitpack_checks::every_width(seed);
}
TEST_CASE("packing kernels: nothing to do") { bitpack_checks::nothing_to_do(); }
