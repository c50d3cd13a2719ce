// SPDX-License-Identifier: Apache-2.0
// The packing kernels on the emulator.
// races: *
#include <cuda_on_host.hpp>

#include <doctest/doctest.h>
#include <support/bitpack_kernel_checks.hpp>

namespace {
constexpr unsigned seed = 20261121;
}

TEST_CASE("packing kernels, emulated: every width") {
  MESSAGE("seed ", seed);
  bitpack_checks::every_width(seed);
}
TEST_CASE("packing kernels, emulated: nothing to do") { bitpack_checks::nothing_to_do(); }
