// SPDX-License-Identifier: Apache-2.0
// Frames are opened on a device as they are on a host: the same bytes are refused for the same reason, whatever they are,
// and tiles lie where the host finds them. Nothing is decoded here, see decode_test.cpp.
#include <cuda_on_host.hpp>

#include <support/cuda_open_checks.hpp>

TEST_CASE("cuda open, emulated: the checksum of any bytes at any alignment") { cuda_checks::checksums(); }

TEST_CASE("cuda open, emulated: strands lie where a host finds them") { cuda_checks::strands_lie_right(); }

TEST_CASE("cuda open, emulated: what a sound frame says of pages") { cuda_checks::sound_frames(); }

TEST_CASE("cuda open, emulated: every refusal, alone and among others") { cuda_checks::refusals(); }

TEST_CASE("cuda open, emulated: damaged frames") { cuda_checks::damaged_frames(300); }

TEST_CASE("cuda open, emulated: tables of rotary embeddings") { cuda_checks::rope_tables(); }

TEST_CASE("cuda open: the sizes of a workspace never overflow") { cuda_checks::workspace_sizes(); }
