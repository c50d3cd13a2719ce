// SPDX-License-Identifier: Apache-2.0
// Pages to integers on a device, as the host's encoder has them.
#include <cuda_on_host.hpp>

#include <support/cuda_forward_checks.hpp>

TEST_CASE("cuda forward: packed matrices stand for what they were made of") { cuda_checks::packed_matrices(11); }

TEST_CASE("cuda forward, emulated: a real capture by its profile") {
  const std::vector<std::int32_t> layers{0, 13, 29};
  cuda_checks::forward_of_capture(layers);
}

TEST_CASE("cuda forward, emulated: shapes, layouts and types") { cuda_checks::forward_of_made_up_models(1); }

TEST_CASE("cuda forward, emulated: views that show a part of a tile") { cuda_checks::forward_of_a_part(21); }

TEST_CASE("cuda forward, emulated: rows that are kept exact") { cuda_checks::forward_of_exact_rows(31); }

TEST_CASE("cuda forward, emulated: groups without a matrix") { cuda_checks::forward_without_a_profile(41); }

TEST_CASE("cuda forward, emulated: a wide group") { cuda_checks::forward_of_a_wide_group(544, 51); }

TEST_CASE("cuda forward, emulated: elements as they stand") { cuda_checks::elements_of_any_type(61); }

TEST_CASE("cuda forward, emulated: views that are refused") { cuda_checks::forward_refusals(); }
