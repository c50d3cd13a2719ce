// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <support/cuda_class_rans_checks.hpp>

namespace {

constexpr unsigned seed = 20251129;

// What this device has room for.
class_rans_checks::setting here(std::size_t offset = 0) {
  int of_multiprocessor = 0;
  REQUIRE(cudaDeviceGetAttribute(&of_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, 0) == cudaSuccess);
  return {sluice::cuda::shape_class_rans(static_cast<std::size_t>(of_multiprocessor)), offset, false};
}

}  // namespace

TEST_CASE("class_rans kernel: golden frames at every level") {
  class_rans_checks::golden_frames(SLUICE_SOURCE_DIR "/test/golden/");
}

TEST_CASE("class_rans kernel: tiles of all shapes") {
  MESSAGE("seed ", seed);
  class_rans_checks::round_trips(seed, 100, here(3));
}

TEST_CASE("class_rans kernel: classes without slots") {
  MESSAGE("seed ", seed);
  for (int slots : {0, 3}) {
    class_rans_checks::setting how = here();
    how.as_it_is = true;
    how.shape.slots = slots;
    class_rans_checks::round_trips(seed + 1, 20, how);
  }
}

TEST_CASE("class_rans kernel: the most tokens, and the widest head") {
  MESSAGE("seed ", seed);
  class_rans_checks::extremes(seed, here());
}

TEST_CASE("class_rans kernel: what encoders hardly write") {
  MESSAGE("seed ", seed);
  class_rans_checks::corners(seed, here(11));
}

TEST_CASE("class_rans kernel: changed sections are refused where a host refuses") {
  MESSAGE("seed ", seed);
  class_rans_checks::setting how = here(1);
  for (const bool as_it_is : {false, true}) {
    how.as_it_is = as_it_is;
    class_rans_checks::mutations(seed + as_it_is, 40, 2000, how);
  }
}
