// expect: a layer that the engine may be reading is not refined
// SPDX-License-Identifier: Apache-2.0
#include <sluice/stream/plan/policy/layerwise.hpp>
#include <sluice/stream/plan/policy/progressive.hpp>
#include <sluice/stream/run/loops.hpp>
#include <sluice/stream/store/sources/memory.hpp>

#ifdef SLUICE_GOOD
using policy = sluice::stream::policy::layerwise;
#else
using policy = sluice::stream::policy::progressive;
#endif
struct sink {
  sluice::page_status decode(int, int, std::span<const std::byte>) { return {}; }
  sluice::status compute(const sluice::stream::step&, std::stop_token) { return sluice::status::ok; }
};
int main() {
  return sizeof(sluice::stream::layer_run<sluice::stream::executor<policy, sluice::stream::memory_source>, sink>) == 0;
}
