// SPDX-License-Identifier: Apache-2.0
// The store stage on a GPU: what holds on the emulator, and all of the real capture.
#include <doctest/doctest.h>
#include <support/cuda_store_checks.hpp>

namespace {
constexpr unsigned seed = 20251129;
}

TEST_CASE("store: heads and rotations") { cuda_store_checks::head_sizes(seed); }
TEST_CASE("store: layouts and types") { cuda_store_checks::layouts_and_types(seed); }
TEST_CASE("store: widths") { cuda_store_checks::widths(seed); }
TEST_CASE("store: coefficients and exceptions") { cuda_store_checks::coefficients(seed); }
TEST_CASE("store: the real capture") {
  cuda_store_checks::real_capture(false);
  cuda_store_checks::real_capture(true);
}
TEST_CASE("store: exact tokens") { cuda_store_checks::exact_tokens(seed); }
TEST_CASE("store: elements") { cuda_store_checks::elements(seed); }
TEST_CASE("store: sections of the transform") { cuda_store_checks::transforms(seed); }
TEST_CASE("store: nothing to store") { cuda_store_checks::nothing_to_store(seed); }
