// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <support/lossless_kernel_checks.hpp>

namespace {
constexpr unsigned seed = 20261122;
}

TEST_CASE("lossless kernels: elements of every type") {
  MESSAGE("seed ", seed);
  lossless_checks::every_type(seed);
}
TEST_CASE("lossless kernels: the passes of the encoder") {
  MESSAGE("seed ", seed + 2);
  lossless_checks::passes(seed + 2);
}
TEST_CASE("lossless kernels: damaged bytes are refused where the host refuses them") {
  MESSAGE("seed ", seed + 1);
  lossless_checks::damage(seed + 1);
}
