// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/checksum.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/status.hpp>
#include <sluice/stream/store/sha256.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

// What a store keeps: one object per chunk, under a name that follows from the model, the codec and every token up to the
// chunk's last. Whoever computed the same prefix finds it; nobody else does.
//
// The rule that keeps a shared store safe: a cache is restored for whoever computes the same key, and nothing in the bytes
// can tell that it belongs to other weights. All that changes a cache has to go into its key:
//
//   model     the weights as they are served (a hash of the file: two quantisations are two models), the arithmetic and the
//             type of the cache where they change it, and the tokenizer, whose ids the tokens are. A name is no identity.
//   salt      what is laid over the weights for some callers (LoRA and other adapters, a steering vector), and what is to
//             be kept apart though it is equal (a tenant: who can measure a hit learns what others have asked).
//   contents  what stands behind placeholder tokens: images, audio, embeddings.

namespace sluice::stream {

/// Something that is no text in a sequence, such as an image: the token ids of positions [begin, end) are placeholders,
/// the cache follows from what `hash` is of (the pixels or embeddings that the model is given, after preprocessing).
struct content {
  std::int64_t begin = 0;  ///< first position, in the sequence
  std::int64_t end = 0;    ///< behind the last one
  digest hash{};           ///< of what stands there
};

/// Names of the chunks of one token sequence, one after the other: each is the hash of the one before and the tokens since.
class chunk_keys {
 public:
  /// `model` identifies the weights and all else that a cache follows from, see above; `fingerprint` is the profile's, 0
  /// for codecs that need none. No two pairs of model and salt share a key; without a salt, keys are as they were before
  /// there was one.
  chunk_keys(std::span<const std::byte> model, std::uint64_t fingerprint, const codec_id& codec,
             std::span<const std::byte> salt = {}) noexcept {
    constexpr char domain[] = "sluice object 2";
    constexpr std::uint8_t version[] = {SLUICE_FORMAT_VERSION_MAJOR, SLUICE_FORMAT_VERSION_MINOR};
    sha256 h;
    h.add(std::as_bytes(std::span(domain)));
    h.add(model.size()).add(model).add(fingerprint);
    h.add(std::as_bytes(std::span(version))).add(std::as_bytes(std::span(&codec, 1)));
    if (!salt.empty()) h.add(salt.size()).add(salt);
    key_ = h.finish();
  }

  /// The name of the chunk that holds these tokens, after all chunks passed so far. Does not move on. `contents` are the
  /// whole sequence's, by rising `begin`, the same list for every chunk: each counts from the chunk that it begins in on.
  /// A list in another order or cut otherwise gives other keys, never another content's.
  digest peek(std::span<const std::int32_t> tokens, std::span<const content> contents = {}) const noexcept {
    sha256 h;
    h.add(key_).add(tokens.size());
    for (const std::int32_t t : tokens) h.add(std::uint64_t(std::uint32_t(t)));
    const std::int64_t end = position_ + std::int64_t(tokens.size());
    std::uint64_t begun = 0;
    for (const content& c : contents) begun += c.begin < end;
    if (begun > 0) h.add(begun);
    for (const content& c : contents)
      if (c.begin < end) h.add(std::uint64_t(c.begin)).add(std::uint64_t(c.end)).add(c.hash);
    return h.finish();
  }

  /// The same, and moves past the chunk.
  digest next(std::span<const std::int32_t> tokens, std::span<const content> contents = {}) noexcept {
    key_ = peek(tokens, contents);
    position_ += std::int64_t(tokens.size());
    return key_;
  }

 private:
  digest key_{};
  std::int64_t position_ = 0;  // of the next chunk's first token
};

/// The 64 hexadecimal digits that a key is written as.
inline std::string to_hex(const digest& key) {
  constexpr char digits[] = "0123456789abcdef";
  std::string s;
  for (const std::byte b : key) {
    s += digits[std::to_integer<int>(b >> 4)];
    s += digits[std::to_integer<int>(b & std::byte{15})];
  }
  return s;
}

/// In front of the frame of a stored object: says which key it was put under, so that an object which a store gives for
/// another key, or a file that was moved, is found out. Truncating the frame leaves it valid.
struct object_header {
  std::uint32_t magic;     ///< object_magic
  std::uint32_t version;   ///< of this header: 1
  digest key;              ///< that the object was put under
  std::uint32_t reserved;  ///< zero
  std::uint32_t checksum;  ///< of the 44 bytes before
};
static_assert(sizeof(object_header) == 48);

/// The first four bytes of an object, "SLCO", as a little-endian number.
inline constexpr std::uint32_t object_magic = 0x4f434c53;

/// The header of the object with this key.
inline object_header make_object_header(const digest& key) noexcept {
  object_header h{object_magic, 1, key, 0, 0};
  h.checksum = checksum(&h, offsetof(object_header, checksum), object_magic);
  return h;
}

/// The frame inside an object, which may still be truncated or damaged: decode it to know.
/// Errors: truncated, not_a_frame (no object at all), wrong_version, corrupt_header, wrong_key.
inline result<std::span<const std::byte>> open_object(std::span<const std::byte> object, const digest& key) noexcept {
  object_header h;
  if (object.size() < sizeof h) return status::truncated;
  std::memcpy(&h, object.data(), sizeof h);
  if (h.magic != object_magic) return status::not_a_frame;
  if (h.checksum != checksum(&h, offsetof(object_header, checksum), object_magic)) return status::corrupt_header;
  if (h.version != 1 || h.reserved != 0) return status::wrong_version;
  if (h.key != key) return status::wrong_key;
  return object.subspan(sizeof h);
}

}  // namespace sluice::stream
