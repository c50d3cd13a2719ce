// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <support/cuda_decode_cases.hpp>

using namespace sluice;

TEST_CASE("cuda decode: a real capture") { cuda_checks::real_capture<codec::standard>({0, 1, 2, 3}); }

TEST_CASE("cuda decode: rows with steps of their own") { cuda_checks::row_steps({0, 1, 2, 3}); }

TEST_CASE("cuda decode: frames at other positions") { cuda_checks::moved_frames(); }

TEST_CASE("cuda decode: changed frames") {
  cuda_checks::mutated_inputs<codec::standard>(20000, cuda_checks::decode_seed);
}

TEST_CASE("cuda decode: frames that end early") { cuda_checks::early_ends(); }

TEST_CASE("cuda decode: many requests in one call") { cuda_checks::many_requests(); }

TEST_CASE("cuda decode: a page table that names pages twice") { cuda_checks::overlapping_pages(); }
