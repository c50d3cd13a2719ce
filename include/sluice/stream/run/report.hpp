// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/frame.hpp>
#include <sluice/status.hpp>
#include <sluice/stream/plan/patience.hpp>
#include <sluice/stream/plan/plan.hpp>
#include <sluice/stream/store/sha256.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

// What an executor is told, what it hands out, and what it tells at the end: plain data.

namespace sluice::stream {

/// Names of a chunk's objects: the one with all embedded levels, of which cost_model::bytes(chunk, level) bytes are a
/// level, envelope included; and the raw or exact copy, where there is one.
struct stored_chunk {
  digest key{};        ///< of the object with the embedded levels
  digest exact_key{};  ///< of the exact copy; never asked for where the cost model has none
  /// Of some layers (unit_of(), chunk_above()): the object's first bytes, which have been read already: envelope, header and index.
  std::span<const std::byte> head{};
  /// The same: where in the object each level's own bytes lie. Empty: one behind the other, from the first byte on.
  std::vector<byte_range> parts{};
  /// Position that the object's frame has, where that is not the chunk's: a document cached on its own and used at another
  /// place (CacheBlend, EPIC), whose keys the decoder rotates. -1 = the chunk's.
  std::int64_t position = -1;
};

/// What bounds an executor.
struct executor_options {
  patience_options patience = {};      ///< when silence makes chunks late
  std::size_t range_bytes = 8u << 20;  ///< longer fetches are several ranges, in flight together
  /// Of coded bytes; one fetch is always allowed. What is dropped may be fetched again.
  std::size_t memory_bytes = SIZE_MAX;
};

/// Something that went wrong on the way; the request went on. A fetch with timed_out may only have been late.
struct fault {
  int chunk = -1;                ///< which chunk
  int level = -1;                ///< asked for
  action during = action::none;  ///< fetch (a damaged object too), recompute or patch
  status what = status::ok;      ///< how it went wrong
  double seconds = 0;            ///< since the request began
  std::string detail = {};       ///< the source's words, as in completion::detail
};

/// What became of one chunk. `state` is ok, degraded (verified, but in part coarser than `level`), or why it holds nothing.
struct chunk_report {
  int level = -1;                 ///< decoded; -1 = none
  bool computed = false;          ///< by the engine, in whole
  gap repaired{};                 ///< was damaged and computed, while the rest stands at `level`; empty = no such part
  status state = status::absent;  ///< see above
};

/// What became of a request.
struct report {
  status outcome = status::ok;  ///< ok: every chunk is usable. Else cancelled, or why the engine could not compute
  double seconds = 0;           ///< until the pages were handed over
  double usable_seconds = -1;   ///< until every chunk was usable; what came after made them better. -1 = never
  bool met = false;             ///< usable before the deadline
  std::uint64_t bytes = 0;      ///< received, those of dropped reads included
  std::int64_t recomputed_tokens = 0;  ///< by the engine, in whole or in part
  std::uint32_t decisions = 0;         ///< times the planner was asked
  std::vector<chunk_report> chunks;    ///< [cost_model::num_chunks()]
  std::vector<fault> faults;           ///< in the order in which they came
  std::vector<step> steps;             ///< what was done

  /// The worst state of the chunks that hold tokens of [first, first + tokens), counted from position 0: a page's state.
  status state_of(const cost_model& cost, std::int64_t first, std::int64_t tokens) const noexcept {
    status worst = status::ok;
    for (int c = 0; c < cost.num_chunks(); ++c) {
      const chunk_cost& k = cost.chunk(c);
      const status s = chunks[std::size_t(c)].state;
      if (k.position >= first + tokens || k.position + k.tokens <= first || s == status::ok) continue;
      if (worst == status::ok || worst == status::degraded) worst = s;
    }
    return worst;
  }
};

/// Work for the decoder: this frame, cut after `what.level`; exact_level() means the raw or exact copy. Or for the engine.
struct job {
  step what{};                         ///< what to decode or to compute
  std::span<const std::byte> frame{};  ///< of a decode; valid until decoded() is called
  /// Whether there is anything to do.
  explicit operator bool() const noexcept { return bool(what); }
};

/// What to do now. `stop_computing`: what the engine works on is not wanted any more; computed(status::cancelled) says it
/// has stopped. `idle`: nothing will happen by itself before `wait_seconds` have passed.
struct turn {
  job decode;                   ///< for the decoder; say decoded() when it is done
  job compute;                  ///< for the engine; say computed() when it is done
  bool stop_computing = false;  ///< see above
  bool finished = false;        ///< the request has ended and nothing is out any more
  bool idle = false;            ///< see above
  double wait_seconds = 0;      ///< until the executor has to be asked again at the latest
};

}  // namespace sluice::stream
