// SPDX-License-Identifier: Apache-2.0
// Pages to integers on a GPU, as the host's encoder has them: what unit/cuda/forward_test.cpp checks on the emulator.
#include <support/cuda_forward_checks.hpp>

#include <numeric>

TEST_CASE("cuda forward: a real capture by its profile") {
  std::vector<std::int32_t> layers(30);
  std::iota(layers.begin(), layers.end(), 0);
  cuda_checks::forward_of_capture(layers);
}

TEST_CASE("cuda forward: shapes, layouts and types") {
  for (unsigned seed = 1; seed <= 20; ++seed) cuda_checks::forward_of_made_up_models(seed);
}

TEST_CASE("cuda forward: views that show a part of a tile") { cuda_checks::forward_of_a_part(21); }

TEST_CASE("cuda forward: rows that are kept exact") { cuda_checks::forward_of_exact_rows(31); }

TEST_CASE("cuda forward: groups without a matrix") { cuda_checks::forward_without_a_profile(41); }

TEST_CASE("cuda forward: the widest group") { cuda_checks::forward_of_a_wide_group(1024, 51); }

TEST_CASE("cuda forward: elements as they stand") { cuda_checks::elements_of_any_type(61); }

TEST_CASE("cuda forward: views that are refused") { cuda_checks::forward_refusals(); }
