// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <support/dense_kernel_checks.hpp>

namespace {
constexpr unsigned seed = 20250711;
}

TEST_CASE("dense kernels: rows of every type in and out of memory") {
  MESSAGE("seed ", seed);
  dense_checks::rows(seed);
}
TEST_CASE("dense kernels: rotation") {
  MESSAGE("seed ", seed);
  dense_checks::rotation(seed);
}
TEST_CASE("dense kernels: both products, and those of wide groups") {
  MESSAGE("seed ", seed);
  dense_checks::products(seed);
  dense_checks::wide_products(seed);
}
TEST_CASE("dense kernels: corrections are added in their order") { dense_checks::corrections_in_order(); }
TEST_CASE("dense kernels: the identity transform and split3") {
  MESSAGE("seed ", seed);
  dense_checks::identity_and_split(seed);
}
