// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "model.hpp"
#include "store.hpp"

#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>
#include <sluice/codec/presets.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/stream/object.hpp>

#include <algorithm>
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
  std::size_t bytes = 0;        ///< of all chunks' objects, with those already there
  std::size_t exact_bytes = 0;  ///< of the exact copies, where they were asked for
  std::size_t raw_bytes = 0;    ///< of the same tokens' pages
  double encode_seconds = 0, write_seconds = 0;
};

struct restore_report {
  int tokens = 0;  ///< that the sequence now has room for, restored or missing
  int chunks = 0;
  std::size_t bytes = 0;             ///< read
  std::size_t raw_bytes = 0;         ///< of the same tokens' pages
  std::vector<missing_run> missing;  ///< whole pages, in order
  int degraded_pages = 0;            ///< restored at a coarser level than asked for: a refinement is damaged or was cut
  double read_seconds = 0, decode_seconds = 0;
};

/// One object of a prefix.
struct located_chunk {
  int begin = 0, end = 0;  ///< tokens
  sluice::digest key{}, exact_key{};
  bool there = false;                                ///< the store gave something under this name
  sluice::status state = sluice::status::not_found;  ///< of reading the first bytes and of the index in them
  std::vector<std::byte> head;                       ///< as far as it has been read
  std::uint64_t exact_bytes = 0;                     ///< of the exact copy; 0 = there is none, or nobody asked
  sluice::frame_index index;

  /// Bytes of the object up to a level.
  std::size_t size_at(int level) const {
    return sizeof(sluice::stream::object_header) +
           std::size_t(index.size_at(std::min(level, index.header().levels_present - 1)));
  }
};

class prefix_cache {
 public:
  using codec = sluice::codec::standard;
  using exact = sluice::codec::exact;
  static constexpr int chunk_tokens = 256;

  /// Threads each get an encoder and a decoder. Errors: throws std::runtime_error where the profile is not the model's.
  prefix_cache(const model& net, sluice::profile profile, store& where, thread_pool& pool);

  const sluice::profile& profile() const noexcept { return profile_; }

  /// Encodes the first ids.size() tokens of the sequence, with `levels` passes, and stores what the store lacks; with
  /// `exact_copies` every bit of them as well. Errors: throws std::runtime_error.
  save_report save(std::span<const std::int32_t> ids, const sequence& seq, int levels, bool exact_copies = false);

  /// The chunks of these tokens from the first on: as many as the store has, or (`all`) every one, those which the store
  /// lacks not being there, with the sizes of exact copies. Chunks end at multiples of chunk_tokens and where the tokens do.
  std::vector<located_chunk> locate(std::span<const std::int32_t> ids, bool all = false);

  /// Fills an empty sequence with the longest stored prefix of these tokens, decoded at a level. Pages that an object
  /// fails to fill (damaged, cut short, another's) are reported and have to be computed by the caller: see compute().
  restore_report restore(std::span<const std::int32_t> ids, sequence& seq, int level);

  /// The name of these tokens' last object.
  std::string name_of(std::span<const std::int32_t> ids) const;

 private:
  std::size_t raw_bytes(int tokens, const sequence& seq) const noexcept;
  std::vector<located_chunk> chunks_of(std::span<const std::int32_t> ids) const;
  template <class Codec>
  std::size_t put_missing(std::span<const located_chunk> chunks, sluice::digest located_chunk::*key,
                          const sequence& seq, int levels, std::vector<sluice::encoder<Codec>>& encoders,
                          save_report& report);
  void decode(std::span<const located_chunk> chunks, std::span<const piece> objects, sequence& seq, int level,
              restore_report& report);

  sluice::profile profile_;
  sluice::digest model_;
  store* store_;
  thread_pool* pool_;
  std::vector<sluice::encoder<codec>> encoders_;  // one per thread
  std::vector<sluice::encoder<exact>> exact_encoders_;
  std::vector<sluice::decoder<codec>> decoders_;
};

/// Computes the tokens that restore() could not fill.
inline void compute(model& net, std::span<const std::int32_t> ids, sequence& seq,
                    const std::vector<missing_run>& runs) {
  for (const missing_run& r : runs)
    net.forward(ids.subspan(std::size_t(r.position), std::size_t(r.tokens)), seq, {.position = r.position});
}

}  // namespace engine
