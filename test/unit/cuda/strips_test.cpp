// SPDX-License-Identifier: Apache-2.0
// Lossless strips on the emulator: what is decoded and what is refused is what the host does.
// races: *
#include <cuda_on_host.hpp>

#include <support/cuda_strip_checks.hpp>

TEST_CASE("cuda strips, emulated: every type, in all orders of threads") {
  for (const auto how : {cuda_on_host::order::up, cuda_on_host::order::down, cuda_on_host::order::random}) {
    cuda_on_host::the_machine.how = how;
    strip_checks::lossless_of_every_type(20261129);
  }
  cuda_on_host::the_machine.how = cuda_on_host::order::up;
}

TEST_CASE("cuda strips, emulated: many tables") { strip_checks::lossless_with_many_tables(20261130); }

TEST_CASE("cuda strips, emulated: damaged tiles") { strip_checks::damaged_lossless(20261131, 60); }
