// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "hidden.hpp"
#include "model.hpp"
#include "store.hpp"

#include <sluice/codec/instances.hpp>
#include <sluice/codec/width/document_steps.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/stream/store/object.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

// What an engine adds to keep prefixes: cut the sequence into chunks, encode each into an object, name it by its tokens;
// find the objects of a new prompt's prefix again and decode them into fresh pages.

namespace engine {

/// Tokens that a store did not give, or not as they were asked for, and why.
struct missing_run {
  int position = 0, tokens = 0;
  sluice::status why = sluice::status::ok;
  std::string detail{};  ///< the store's own words
  int end_layer = -1;    ///< layers from here on are sound, where only tiles are damaged; -1 = none
};

struct save_report {
  int chunks = 0;
  int already_there = 0;              ///< sound and as fine as asked, or finer: left as they were
  std::vector<missing_run> replaced;  ///< damaged, cut short, another's, or (level_not_present) coarser than asked
  std::size_t bytes = 0;              ///< of all chunks' objects, with those already there
  std::size_t exact_bytes = 0;        ///< of the exact copies, where they were asked for
  std::size_t raw_bytes = 0;          ///< of the same tokens' pages
  double encode_seconds = 0, check_seconds = 0, write_seconds = 0;
};

struct restore_report {
  int tokens = 0;                    ///< that the sequence now has room for, restored or missing
  std::size_t bytes = 0;             ///< read
  std::size_t raw_bytes = 0;         ///< of the same tokens' pages
  std::vector<int> levels;           ///< of each chunk, the coarsest that a page of it holds; -1 = no page holds any
  std::vector<missing_run> missing;  ///< whole pages within `tokens`, in order: to be computed
  std::vector<missing_run>
      coarser;  ///< restored, but a refinement is damaged (degraded) or not stored (level_not_present)
  std::vector<missing_run> unread;  ///< behind `tokens`, where the store failed to say whether it has them
  int degraded_pages = 0;           ///< restored at a coarser level than stored: a refinement is damaged
  std::vector<std::byte> note;      ///< as in located_prefix
  double read_seconds = 0, decode_seconds = 0;
};

/// One object of a prefix.
struct located_chunk {
  int begin = 0, end = 0;  ///< tokens
  sluice::digest key{}, exact_key{};
  bool there = false;                                ///< the store gave something under this name
  sluice::status state = sluice::status::not_found;  ///< of reading the first bytes and of the index in them
  std::string detail{};                              ///< the store's own words on that
  std::vector<std::byte> head;                       ///< as far as it has been read
  std::uint64_t exact_bytes = 0;                     ///< of the exact copy; 0 = there is none, or nobody asked
  sluice::frame_index index;

  int levels() const { return index.header().levels_present; }
  /// Bytes of the object up to a level.
  std::size_t size_at(int level) const {
    return sizeof(sluice::stream::object_header) + std::size_t(index.size_at(std::min(level, levels() - 1)));
  }
};

struct located_prefix {
  std::vector<located_chunk> chunks;
  std::vector<std::byte> note;  ///< what was left beside the last chunk, see note_of(); empty = nothing
};

/// What belongs to the identity of a cache besides the model.
struct prefix_options {
  sluice::dtype kv = sluice::dtype::f16;  ///< of the pages that caches are computed in and restored to
  std::string salt{};                     ///< keeps apart what is equal by all else: tenants, adapters
  int chunk_tokens = 256;                 ///< of an object; whoever looks for it has to say the same
  /// What chunks hold; of hidden states, the sequences that are saved and filled are those.
  sluice::stream::payload holds = sluice::stream::payload::kv;
  /// Whose caches they are, where another model of this shape made them (a fine-tune, other weights): model::identity_of().
  std::optional<sluice::digest> made_by{};
};

class prefix_cache {
 public:
  using codec = sluice::codec::balanced;
  using exact = sluice::codec::exact;
  static constexpr int chunk_tokens = prefix_options{}.chunk_tokens;  ///< unless the options say otherwise

  /// Threads each get an encoder and a decoder. Errors: throws std::runtime_error where the profile is not the model's.
  prefix_cache(const model& net, sluice::profile profile, store& where, thread_pool& pool, prefix_options options = {});

  const sluice::profile& profile() const noexcept { return profile_; }
  /// Tokens of a chunk, and chunks of so many tokens.
  int tokens_of_chunk() const noexcept { return chunk_tokens_; }
  int chunks_of(int tokens) const noexcept { return (tokens + chunk_tokens_ - 1) / chunk_tokens_; }

  /// Encodes the first ids.size() tokens of the sequence, with `levels` passes, and stores what the store lacks; with
  /// `exact_copies` every bit of them as well. What is there is read and checked, tile by tile: it stays if it is sound and
  /// not coarser, and is replaced if not, never by less than it holds. `steps`: of what is encoded, where somebody has
  /// measured. Errors: throws std::runtime_error.
  save_report save(std::span<const std::int32_t> ids, const sequence& seq, int levels, bool exact_copies = false,
                   const sluice::document_steps& steps = {});

  /// Looks for the chunks of these tokens, and for the sizes of exact copies, within the time given; what has not come by
  /// then counts as not stored (timed_out). Chunks end at multiples of tokens_of_chunk() and where the tokens do.
  located_prefix locate(std::span<const std::int32_t> ids, bool exact_copies = false, const patience& wait = {});

  /// Fills an empty sequence with the longest stored prefix of these tokens, decoded at a level. Pages that an object
  /// fails to fill (damaged, cut short, another's) are reported and have to be computed by the caller: see compute().
  restore_report restore(std::span<const std::int32_t> ids, sequence& seq, int level);

  /// The name of these tokens' last object.
  std::string name_of(std::span<const std::int32_t> ids) const;
  /// The name of the note that is kept beside it.
  std::string note_of(std::span<const std::int32_t> ids) const { return name_of(ids) + ".json"; }

  /// Seconds that one thread needs to decode one value of the first `tokens` tokens, at the finest level. Leaves the
  /// sequence as it was, but for what coding loses.
  double measure_decoding(sequence& seq, int tokens);

 private:
  std::size_t raw_bytes(int tokens, const sequence& seq) const noexcept;
  std::size_t head_bytes(int tokens) const noexcept;
  std::vector<located_chunk> chunks_of(std::span<const std::int32_t> ids) const;
  template <class Codec>
  sluice::status check(const sluice::frame_header& h, const located_chunk& c) const noexcept;
  template <class Codec>
  std::size_t put_missing(std::span<const std::int32_t> ids, std::span<const located_chunk> chunks,
                          sluice::digest located_chunk::*key, const sequence& seq, int levels,
                          const sluice::document_steps& steps, std::vector<sluice::encoder<Codec>>& encoders,
                          save_report& report);
  void decode(std::span<const std::int32_t> ids, std::span<const located_chunk> chunks, std::span<const piece> objects,
              sequence& seq, int level, restore_report& report);

  sluice::profile profile_;
  std::uint64_t fingerprint_;
  sluice::digest identity_;
  std::string salt_;
  int chunk_tokens_;
  store* store_;
  thread_pool* pool_;
  std::vector<sluice::encoder<codec>> encoders_;  // one per thread
  std::vector<sluice::encoder<exact>> exact_encoders_;
  std::vector<sluice::decoder<codec>> decoders_;
};

/// Computes the tokens that restore() could not fill, as far up as they are missing.
inline void compute(model& net, std::span<const std::int32_t> ids, sequence& seq,
                    const std::vector<missing_run>& runs) {
  for (const missing_run& r : runs)
    net.forward(ids.subspan(std::size_t(r.position), std::size_t(r.tokens)), seq,
                {.position = r.position, .end_layer = r.end_layer});
}

/// Adds tokens to the last run where they continue it for the same reason; the words are those of the first.
inline void append(std::vector<missing_run>& runs, missing_run r) {
  if (!runs.empty() && runs.back().position + runs.back().tokens == r.position && runs.back().why == r.why &&
      runs.back().end_layer == r.end_layer)
    runs.back().tokens += r.tokens;
  else
    runs.push_back(std::move(r));
}

}  // namespace engine
