// SPDX-License-Identifier: Apache-2.0
// The dense kernels on the emulator.
// races: *
#include <cuda_on_host.hpp>

#include <doctest/doctest.h>
#include <support/dense_kernel_checks.hpp>

namespace {
constexpr unsigned seed = 20250711;
}

TEST_CASE("dense kernels, emulated: rows of every type in and out of memory") {
  MESSAGE("seed ", seed);
  dense_checks::rows(seed);
}
TEST_CASE("dense kernels, emulated: rotation") {
  MESSAGE("seed ", seed);
  dense_checks::rotation(seed);
}
TEST_CASE("dense kernels, emulated: both products") {
  MESSAGE("seed ", seed);
  dense_checks::products(seed);
}
TEST_CASE("dense kernels, emulated: wide products need more shared memory, which is asked for") {
  constexpr int n = sluice::cuda::dense_most_inner;
  CHECK(sluice::cuda::dense_shared_bytes(n) <= 49152);
  CHECK(sluice::cuda::dense_shared_bytes(n + 1) > 49152);
  CHECK(sluice::cuda::dense_shared_bytes(sluice::cuda::dense_most_inner_allowed) <= sluice::cuda::max_shared_sm80);
  CHECK(sluice::cuda::launch(sluice::cuda::inverse_transform_kernel<>, 1, 128, sluice::cuda::dense_shared_bytes(n + 1),
                             nullptr, sluice::detail::inverse_job{}) == sluice::status::cuda_error);
  CHECK(cudaGetLastError() != cudaSuccess);
  dense_checks::wide_products(seed);
}
TEST_CASE("dense kernels, emulated: corrections are added in their order") {
  for (const auto how : {cuda_on_host::order::up, cuda_on_host::order::down, cuda_on_host::order::random}) {
    cuda_on_host::the_machine.how = how;
    dense_checks::corrections_in_order();
  }
  cuda_on_host::the_machine.how = cuda_on_host::order::up;
}
TEST_CASE("dense kernels, emulated: the identity transform and split3") {
  MESSAGE("seed ", seed);
  dense_checks::identity_and_split(seed);
}
