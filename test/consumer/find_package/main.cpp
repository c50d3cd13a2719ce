// SPDX-License-Identifier: Apache-2.0
#include <sluice/sluice.hpp>

#include <cstdio>

int main() {
  const sluice::kv_view cache;
  if (sluice::usable_isa(sluice::isa::portable) != sluice::isa::portable || cache.tokens != 0) return 1;
  std::printf("sluice %d.%d.%d\n", SLUICE_VERSION_MAJOR, SLUICE_VERSION_MINOR, SLUICE_VERSION_PATCH);
  return 0;
}
