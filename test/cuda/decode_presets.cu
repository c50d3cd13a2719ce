// SPDX-License-Identifier: Apache-2.0
// Decodes of every preset that has kernels: apart from decode.cu, for they take a minute to compile.
#include <doctest/doctest.h>
#include <support/cuda_decode_cases.hpp>

TEST_CASE("cuda decode: golden frames at every level") { cuda_checks::golden_frames(); }

TEST_CASE("cuda decode: the corpus of the frame fuzzer") { cuda_checks::fuzz_corpus(); }

TEST_CASE("cuda decode: changed frames of the other presets") {
  cuda_checks::mutated_presets(5000, cuda_checks::decode_seed);
}
