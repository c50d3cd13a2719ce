// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <support/cuda_open_checks.hpp>

TEST_CASE("cuda open: the checksum of any bytes at any alignment") { cuda_checks::checksums(); }

TEST_CASE("cuda open: strands lie where a host finds them") { cuda_checks::strands_lie_right(); }

TEST_CASE("cuda open: what a sound frame says of pages") { cuda_checks::sound_frames(); }

TEST_CASE("cuda open: every refusal, alone and among others") { cuda_checks::refusals(); }

TEST_CASE("cuda open: damaged frames") { cuda_checks::damaged_frames(1000); }

TEST_CASE("cuda open: tables of rotary embeddings") { cuda_checks::rope_tables(); }
