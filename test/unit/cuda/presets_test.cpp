// SPDX-License-Identifier: Apache-2.0
// Kernels of the presets on the emulator: what they decode and what they refuse is what the host does.
#include <cuda_on_host.hpp>

#include <support/cuda_presets_checks.hpp>

using namespace sluice;

TEST_CASE("presets on the device: exact") {
  presets_checks::preset_is_the_same<codec::exact, 32>("exact", 75, 20261201, 4);
}
TEST_CASE("presets on the device: raw") {
  presets_checks::preset_is_the_same<codec::uncompressed, 32>("raw", 75, 20261202, 4);
}
TEST_CASE("presets on the device: balanced") {
  presets_checks::preset_is_the_same<codec::balanced, 32>("balanced", 75, 20261219, 4, presets_checks::give_steps);
}
TEST_CASE("presets on the device: plain8") {
  presets_checks::preset_is_the_same<codec::plain<8>, 32>("plain8", 75, 20261203, 4);
}
TEST_CASE("presets on the device: plain4") {
  presets_checks::preset_is_the_same<codec::plain<4>, 32>("plain4", 75, 20261204, 4);
}
TEST_CASE("presets on the device: int8") {
  presets_checks::preset_is_the_same<codec::int8, 32>("int8", 75, 20261220, 2);
}
TEST_CASE("presets on the device: int4") {
  presets_checks::preset_is_the_same<codec::int4, 32>("int4", 75, 20261205, 4);
}
TEST_CASE("presets on the device: kivi4") {
  presets_checks::preset_is_the_same<codec::kivi<4>, 80>("kivi4", 230, 20261206, 3);
}
TEST_CASE("presets on the device: kivi2") {
  presets_checks::preset_is_the_same<codec::kivi<2>, 80>("kivi2", 230, 20261207, 3);
}
TEST_CASE("presets on the device: fixed4 in a basis") {
  presets_checks::preset_is_the_same<codec::fixed<4>, 32>("fixed4", 75, 20261209, 4, presets_checks::calibrate);
}
TEST_CASE("presets on the device: fixed4 without calibration") {
  presets_checks::preset_is_the_same<codec::fixed<4>, 32>("fixed4", 75, 20261208, 4);
}
TEST_CASE("presets on the device: codes of other widths") {
  presets_checks::preset_is_the_same<codec::plain<1>, 32>("1 bit", 43, 20261213, 1);
  presets_checks::preset_is_the_same<codec::plain<3>, 32>("3 bits", 43, 20261214, 1);
  presets_checks::preset_is_the_same<codec::plain<7>, 32>("7 bits", 43, 20261215, 1);
}
TEST_CASE("presets on the device: groups of other lengths") {
  using mixed = codec::plain<4>::with_quantizer<ranged<range_along::tokens, 12, range_along::channels, 20>>;
  using turned = codec::plain<8>::with_quantizer<ranged<range_along::channels, 16, range_along::tokens, 16>>;
  using runs = codec::plain<5>::with_quantizer<absmax<24>>;
  presets_checks::preset_is_the_same<mixed, 48>("12 tokens, 20 channels", 75, 20261216, 2);
  presets_checks::preset_is_the_same<turned, 48>("16 channels, 16 tokens", 75, 20261217, 2);
  presets_checks::preset_is_the_same<runs, 48>("24 channels", 75, 20261218, 2);
}
TEST_CASE("presets on the device: cachegen_paper") {
  using presets_checks::give_tables;
  presets_checks::preset_is_the_same<codec::cachegen_paper<>, 32>("cachegen_paper", 75, 20261210, 4, give_tables);
}
TEST_CASE("presets on the device: cachegen_paper_fine") {
  using presets_checks::give_tables;
  presets_checks::preset_is_the_same<codec::cachegen_paper<50>, 80>("cachegen_paper_fine", 75, 20261211, 2,
                                                                    give_tables);
}
TEST_CASE("presets on the device: cachegen_paper_coarse") {
  using presets_checks::give_tables;
  presets_checks::preset_is_the_same<codec::cachegen_paper<200>, 48>("cachegen_paper_coarse", 75, 20261212, 2,
                                                                     give_tables);
}
TEST_CASE("presets on the device: a real cache") {
  using namespace presets_checks;
  captured_is_the_same<codec::exact>(256);
  captured_is_the_same<codec::uncompressed>(70);
  captured_is_the_same<codec::fixed<4>>(128, dtype::bf16);
  captured_is_the_same<codec::plain<8>>(128);
  captured_is_the_same<codec::int4>(70, dtype::e4m3);
  captured_is_the_same<codec::kivi<2>>(256, dtype::bf16);
  captured_is_the_same<codec::cachegen_paper<>>(24, dtype::f32, true);
}
