// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/patience.hpp>
#include <sluice/stream/store/source.hpp>

#include <algorithm>
#include <cstddef>
#include <span>

namespace sluice::detail {

// What is known of a link by whoever reads from it, one request or several: when it was heard, and how fast it was.
struct listening {
  stream::patience patience;
  stream::transfer_meter meter;
  double listened = 0, looked = 0;  // seconds spent in poll(): until now, until the last one began ...
  double looked_at = 0;             // ... which was then

  // Polls a source for at most so many seconds; returns how many reads have ended, `now` being when it returned. When a byte
  // came within a poll is not known: none lasts longer than a part of what silence is measured against.
  template <class Source, class Clock>
  std::size_t poll(Source& source, const Clock& clock, const stream::link_history& link,
                   std::span<stream::completion> done, double wait, double& now) {
    looked_at = clock();
    looked = listened;
    const std::size_t n = source.poll(done, std::min(wait, patience.seconds(link) / 8));
    now = clock();
    listened += now - looked_at;
    return n;
  }
};

}  // namespace sluice::detail
