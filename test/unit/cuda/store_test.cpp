// SPDX-License-Identifier: Apache-2.0
// The store stage on the emulator, its threads in three orders.
#include <cuda_on_host.hpp>

#include <doctest/doctest.h>
#include <sluice/codec/instances.hpp>
#include <support/cuda_store_checks.hpp>

namespace {

constexpr unsigned seed = 20251129;

/// Calls f(i) with threads of blocks taken in each order.
template <class F>
void in_orders(F f) {
  MESSAGE("seed ", seed);
  auto& machine = cuda_on_host::the_machine;
  unsigned i = 0;
  for (auto how : {cuda_on_host::order::up, cuda_on_host::order::down, cuda_on_host::order::random}) {
    machine.how = how;
    f(seed + i++);
  }
  machine.how = cuda_on_host::order::up;
}

}  // namespace

TEST_CASE("store, emulated: every channel has its column") { cuda_store_checks::columns(); }
TEST_CASE("store, emulated: heads and rotations") { in_orders(cuda_store_checks::head_sizes); }
TEST_CASE("store, emulated: layouts and types") { in_orders(cuda_store_checks::layouts_and_types); }
TEST_CASE("store, emulated: widths") { cuda_store_checks::widths(seed); }
TEST_CASE("store, emulated: coefficients and exceptions") { in_orders(cuda_store_checks::coefficients); }
TEST_CASE("store, emulated: the real capture") { cuda_store_checks::real_capture(false); }
TEST_CASE("store, emulated: exact tokens") { cuda_store_checks::exact_tokens(seed); }
TEST_CASE("store, emulated: elements") { in_orders(cuda_store_checks::elements); }
TEST_CASE("store, emulated: sections of the transform") { cuda_store_checks::transforms(seed); }
TEST_CASE("store, emulated: nothing to store") { in_orders(cuda_store_checks::nothing_to_store); }
