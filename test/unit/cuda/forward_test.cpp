// SPDX-License-Identifier: Apache-2.0
// Pages to integers on a device, as the host's encoder has them.
#include <cuda_on_host.hpp>

#include <support/cuda_forward_checks.hpp>

TEST_CASE("cuda forward, emulated: a real capture by its profile") {
  const std::vector<std::int32_t> layers{0, 13, 29};
  cuda_checks::forward_of_capture(layers);
}
