// SPDX-License-Identifier: Apache-2.0
// Kernels of the presets on the emulator: what they decode and what they refuse is what the host does.
#include <cuda_on_host.hpp>

#include <support/cuda_presets_checks.hpp>

TEST_CASE("presets on the device: lossless tiles of every type") { presets_checks::lossless_of_every_type(20261129); }
TEST_CASE("presets on the device: lossless tiles with many tables") {
  presets_checks::lossless_with_many_tables(20261130);
}
TEST_CASE("presets on the device: damaged lossless tiles") { presets_checks::damaged_lossless(20261131, 60); }
