// SPDX-License-Identifier: Apache-2.0
// Whole decodes on the emulator against the decoder of a CPU: real captures, golden frames, hostile ones.
#include <cuda_on_host.hpp>

#include <doctest/doctest.h>
#include <sluice/codec/instances.hpp>
#include <support/cuda_decode_cases.hpp>

using namespace sluice;

TEST_CASE("cuda decode, emulated: golden frames at every level") { cuda_checks::golden_frames(); }

TEST_CASE("cuda decode, emulated: a real capture") { cuda_checks::real_capture<codec::standard>({1, 3}); }

TEST_CASE("cuda decode, emulated: rows with steps of their own") { cuda_checks::row_steps({0, 2}); }

TEST_CASE("cuda decode, emulated: frames at other positions") { cuda_checks::moved_frames(); }

TEST_CASE("cuda decode, emulated: the corpus of the frame fuzzer") { cuda_checks::fuzz_corpus(); }

TEST_CASE("cuda decode, emulated: changed frames") {
  cuda_checks::mutated_inputs<codec::standard>(2400, cuda_checks::decode_seed);
}

TEST_CASE("cuda decode, emulated: changed frames of the other presets") {
  cuda_checks::mutated_presets(400, cuda_checks::decode_seed);
}

TEST_CASE("cuda decode, emulated: frames that end early") { cuda_checks::early_ends(); }

TEST_CASE("cuda decode, emulated: many requests in one call") { cuda_checks::many_requests(); }

TEST_CASE("cuda decode, emulated: a page table that names pages twice") { cuda_checks::overlapping_pages(); }
