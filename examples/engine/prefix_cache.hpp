// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "model.hpp"
#include "store.hpp"

#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/stream/object.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

// What an engine adds to keep prefixes: cut the sequence into chunks, encode each into an object, name it by its tokens;
// find the objects of a new prompt's prefix again and decode them into fresh pages.

namespace engine {

/// Tokens that have to be computed after all, and why.
struct missing_run {
  int position = 0, tokens = 0;
  sluice::status why = sluice::status::ok;
};

struct save_report {
  int chunks = 0, already_there = 0;
  std::size_t bytes = 0;      ///< of all chunks' objects, with those already there
  std::size_t raw_bytes = 0;  ///< of the same tokens' pages
  double encode_seconds = 0, write_seconds = 0;
};

struct restore_report {
  int tokens = 0;                    ///< that the sequence now has room for, restored or missing
  int chunks = 0;
  std::size_t bytes = 0;             ///< read
  std::size_t raw_bytes = 0;         ///< of the same tokens' pages
  std::vector<missing_run> missing;  ///< whole pages, in order
  int degraded_pages = 0;            ///< restored at a coarser level than asked for: a refinement is damaged or was cut
  double read_seconds = 0, decode_seconds = 0;
};

class prefix_cache {
 public:
  using codec = sluice::codec::standard;
  static constexpr int chunk_tokens = 256;

  /// Threads each get an encoder and a decoder. Errors: throws std::runtime_error where the profile is not the model's.
  prefix_cache(const model& net, sluice::profile profile, store& where, thread_pool& pool);

  const sluice::profile& profile() const noexcept { return profile_; }

  /// Encodes the first ids.size() tokens of the sequence, with `levels` passes, and stores what the store lacks.
  /// Errors: throws std::runtime_error.
  save_report save(std::span<const std::int32_t> ids, const sequence& seq, int levels);

  /// Fills an empty sequence with the longest stored prefix of these tokens, decoded at a level. Pages that an object
  /// fails to fill (damaged, cut short, another's) are reported and have to be computed by the caller: see compute().
  restore_report restore(std::span<const std::int32_t> ids, sequence& seq, int level);

  /// The name of these tokens' last object.
  std::string name_of(std::span<const std::int32_t> ids) const;

 private:
  sluice::stream::chunk_keys keys() const noexcept;

  sluice::profile profile_;
  sluice::digest model_;
  std::size_t token_bytes_ = 0;  // of the pages, of one token
  store* store_;
  thread_pool* pool_;
  std::vector<sluice::encoder<codec>> encoders_;  // one per thread
  std::vector<sluice::decoder<codec>> decoders_;
};

/// Computes the tokens that restore() could not fill.
inline void compute(model& net, std::span<const std::int32_t> ids, sequence& seq, const std::vector<missing_run>& runs) {
  for (const missing_run& r : runs)
    net.forward(ids.subspan(std::size_t(r.position), std::size_t(r.tokens)), seq, {.position = r.position});
}

}  // namespace engine
