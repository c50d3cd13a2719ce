// SPDX-License-Identifier: Apache-2.0
// What streaming reads from others: plans and link traces as text, headers of stored objects. What is accepted means
// something, and is written again to what means the same. The first byte chooses.
#include <sluice/stream/store/object.hpp>
#include <sluice/stream/study/plan_text.hpp>
#include <sluice/stream/study/trace.hpp>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>
#include <vector>

namespace {
void require(bool fact) {
  if (!fact) std::abort();
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace sluice;
  if (size < 1) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 3 == 0) {
    const auto plan = stream::parse_plan(text);
    if (!plan) return 0;
    const std::vector<char> again = stream::to_text(*plan);
    const auto same = stream::parse_plan(again);
    require(same && *same == *plan);
  } else if (data[0] % 3 == 1) {
    stream::trace_error why;
    const auto trace = stream::parse_link_trace(text, &why);
    if (!trace) return 0;
    double total = 0;
    for (const stream::link_segment& s : trace->segments()) {
      require(std::isfinite(s.seconds) && s.seconds >= 0 && std::isfinite(s.bytes_per_second) &&
              s.bytes_per_second >= 0);
      total += s.seconds;
    }
    require(total > 0);
    // A bit less than all: rounding must not carry the last byte over a dead segment.
    const double bytes = trace->bytes_between(0, 1.5 * total), end = trace->finish_time(0, bytes * (1 - 1e-9));
    require(bytes >= 0 && end <= 1.5 * total * (1 + 1e-9));
  } else {
    const auto object = std::as_bytes(std::span(text));
    digest key{};
    if (object.size() >= sizeof(stream::object_header)) std::memcpy(key.data(), object.data() + 8, sizeof key);
    const auto frame = stream::open_object(object, key);
    if (frame) require(frame->size() == object.size() - sizeof(stream::object_header));
  }
  return 0;
}
