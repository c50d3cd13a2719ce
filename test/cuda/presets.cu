// SPDX-License-Identifier: Apache-2.0
// Kernels of the presets: what they decode and what they refuse is what the host does.
#include <support/cuda_presets_checks.hpp>
#include <support/cuda_strip_checks.hpp>

using namespace sluice;

TEST_CASE("cuda presets: lossless tiles of every type") { strip_checks::lossless_of_every_type(20261129); }

TEST_CASE("cuda presets: lossless tiles with many tables") { strip_checks::lossless_with_many_tables(20261130); }

TEST_CASE("cuda presets: damaged lossless tiles") { strip_checks::damaged_lossless(20261131, 600); }

TEST_CASE("cuda presets: frames of every type, whole and damaged") {
  using presets_checks::preset_is_the_same;
  preset_is_the_same<codec::exact, 32>("exact", 75, 20261201, 20);
  preset_is_the_same<codec::plain<8>, 32>("plain8", 75, 20261203, 20);
  preset_is_the_same<codec::kivi<2>, 80>("kivi2", 230, 20261207, 20);
  preset_is_the_same<codec::fixed<4>, 32>("fixed4", 75, 20261209, 20, presets_checks::calibrate);
  preset_is_the_same<codec::cachegen_paper<>, 32>("cachegen_paper", 75, 20261210, 20, presets_checks::give_tables);
}

TEST_CASE("cuda presets: a real cache") {
  using presets_checks::captured_is_the_same;
  captured_is_the_same<codec::exact>(256);
  captured_is_the_same<codec::fixed<4>>(256, dtype::bf16);
  captured_is_the_same<codec::int4>(256, dtype::e4m3);
  captured_is_the_same<codec::cachegen_paper<>>(256, dtype::f32, true);
}
