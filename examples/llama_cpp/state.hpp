// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/status.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

// What llama.cpp saves: where K and V of every cell lie among the bytes. The bytes are untrusted, and no count among them
// is believed before it was compared with the bytes that are left.
// Sources: llama.cpp src/llama-context.cpp (files), src/llama-kv-cache.cpp and src/llama-memory-recurrent.cpp (state_write).

namespace slot {

static_assert(std::endian::native == std::endian::little, "states are read in place");

/// Elements and bytes of a block of a ggml type.
struct block_size {
  std::uint32_t elements = 0, bytes = 0;
};

/// ggml's numbers of the element types that slots are coded in; others are kept as bytes.
constexpr std::int32_t type_f32 = 0, type_f16 = 1, type_q8_0 = 8, type_bf16 = 30;

/// {0, 0} for types that are kept as bytes.
constexpr block_size block_of(std::int32_t type) noexcept {
  switch (type) {
    case type_f32: return {1, 4};
    case type_f16:
    case type_bf16: return {1, 2};
    case type_q8_0: return {32, 34};
  }
  return {};
}

/// K or V of one layer: a row for each cell, one after the other; where V is transposed, an element of all cells after the
/// other.
struct rows {
  std::int32_t type = -1;
  std::uint64_t at = 0;   ///< first byte
  std::uint64_t row = 0;  ///< bytes of a cell
};

/// The cells of one stream of one cache. A cache with a sliding window stands behind the one without.
struct part {
  int cache = 0;  ///< of the model: 0, or 1 = the layers with a sliding window
  bool v_trans = false;
  int turn[2] = {-1, -1};  ///< size of the Hadamard matrices that heads of K and V are turned with; -1 = unsaid
  std::vector<std::int32_t> positions;   ///< of cells, in the order of their rows
  std::vector<std::uint32_t> sequences;  ///< cells with equal numbers belong to the same sequences
  std::vector<rows> k, v;                ///< of each layer of the cache; `v` is empty where no layer keeps any
};

/// What the bytes do not say, and what parse() found by trying.
struct reading {
  std::uint8_t cell_extra = 0;  ///< bytes of a cell's place in an image (M-RoPE models)
  bool values = true;           ///< layers have V
  bool turns = true;            ///< caches name the matrices that heads are turned with; those of 2026 do
};

/// A state that was read.
struct state {
  std::uint64_t size = 0;
  reading how;
  std::vector<std::int32_t> tokens;  ///< files name them
  std::string architecture;          ///< whole contexts name it
  std::vector<part> parts;           ///< those that hold cells
};

namespace detail {

constexpr std::uint32_t sequence_file = 0x67677371;  // "ggsq", versions 3 and 4
constexpr std::uint32_t session_file = 0x6767736e;   // "ggsn", versions 9 to 11
constexpr std::uint32_t sequence_data = 0xaf143cd8;  // llama_state_seq_get_data

// Reads a state, or its skeleton: all bytes but the rows, which then count as if they were there.
class cursor {
 public:
  cursor(std::span<const std::byte> in, std::uint64_t size, bool skeleton)
      : in_(in), rows_left_(size - in.size()), skeleton_(skeleton) {}

  template <class T>
  T get() {
    T x{};
    if (take(sizeof x)) std::memcpy(&x, in_.data() + at_ - sizeof x, sizeof x);
    return x;
  }
  bool take(std::uint64_t n) {
    if (failed_ || n > in_.size() - at_) return fail(sluice::status::truncated);
    at_ += std::size_t(n);
    return true;
  }
  bool take_rows(std::uint64_t n) {
    if (!skeleton_) return take(n);
    if (failed_ || n > rows_left_) return fail(sluice::status::truncated);
    rows_left_ -= n, rows_ += n;
    return true;
  }
  bool fail(sluice::status s) {
    if (!failed_) failed_ = true, why_ = s;
    return false;
  }

  std::uint64_t at() const noexcept { return at_ + rows_; }
  std::uint64_t left() const noexcept { return in_.size() - at_; }
  std::uint64_t rows_left() const noexcept { return skeleton_ ? rows_left_ : left(); }
  const std::byte* here() const noexcept { return in_.data() + at_; }
  bool ok() const noexcept { return !failed_; }
  sluice::status why() const noexcept { return failed_ ? why_ : sluice::status::ok; }

 private:
  std::span<const std::byte> in_;
  std::size_t at_ = 0;
  std::uint64_t rows_ = 0, rows_left_;
  bool skeleton_, failed_ = false;
  sluice::status why_ = sluice::status::ok;
};

constexpr std::uint32_t most_streams = 4096, most_layers = 4096, most_sequences = 4096;

inline bool read_cells(cursor& in, std::uint32_t cells, std::uint8_t extra, part& p) {
  std::map<std::vector<std::int32_t>, std::uint32_t> known;
  std::vector<std::int32_t> ids;
  if (cells > in.left() / 8) return in.fail(sluice::status::truncated);
  p.positions.reserve(cells), p.sequences.reserve(cells);
  for (std::uint32_t i = 0; i < cells && in.ok(); ++i) {
    const auto position = in.get<std::int32_t>();
    const auto n = in.get<std::uint32_t>();
    if (in.ok() && (position < 0 || n > most_sequences)) return in.fail(sluice::status::parse_error);
    in.take(extra);
    ids.clear();
    for (std::uint32_t j = 0; j < n && in.ok(); ++j) {
      ids.push_back(in.get<std::int32_t>());
      if (in.ok() && (ids.back() < 0 || ids.back() >= std::int32_t(most_sequences)))
        return in.fail(sluice::status::parse_error);
    }
    p.positions.push_back(position);
    p.sequences.push_back(known.try_emplace(ids, std::uint32_t(known.size())).first->second);
  }
  return in.ok();
}

inline bool read_rows(cursor& in, bool transposed, rows& r, std::uint64_t cells) {
  r.type = in.get<std::int32_t>();
  const std::uint64_t element = transposed ? in.get<std::uint32_t>() : 1;
  const std::uint64_t length = transposed ? in.get<std::uint32_t>() : in.get<std::uint64_t>();
  if (!in.ok()) return false;
  const block_size block = block_of(r.type);
  if (r.type < 0 || r.type > 255 || element == 0 || element > 4096 || length == 0 || length >= 1u << 31 ||
      (block.bytes && (transposed ? element != block.bytes : length % block.bytes != 0)))
    return in.fail(sluice::status::parse_error);
  r.row = element * length;
  r.at = in.at();
  if (r.row > in.rows_left() / cells) return in.fail(sluice::status::truncated);
  return in.take_rows(r.row * cells);
}

// One cache: all its streams. llama_kv_cache::state_write
inline bool read_cache(cursor& in, const reading& how, int number, std::vector<part>& out) {
  const auto streams = in.get<std::uint32_t>();
  if (in.ok() && (streams == 0 || streams > most_streams)) return in.fail(sluice::status::parse_error);
  for (std::uint32_t s = 0; s < streams && in.ok(); ++s) {
    const auto cells = in.get<std::uint32_t>();
    if (cells == 0) continue;
    part p;
    p.cache = number;
    if (!read_cells(in, cells, how.cell_extra, p)) return false;
    const auto transposed = in.get<std::uint32_t>(), layers = in.get<std::uint32_t>();
    if (in.ok() && (transposed > 1 || layers == 0 || layers > most_layers)) return in.fail(sluice::status::parse_error);
    p.v_trans = transposed == 1;
    for (int& turn : p.turn)
      if (how.turns) {
        const auto n = in.get<std::uint32_t>();
        if (n > 65536 || (n & (n - 1))) return in.fail(sluice::status::parse_error);
        turn = int(n);
      }
    for (std::uint32_t l = 0; l < layers && in.ok(); ++l) read_rows(in, false, p.k.emplace_back(), cells);
    for (std::uint32_t l = 0; l < layers && how.values && in.ok(); ++l)
      read_rows(in, p.v_trans, p.v.emplace_back(), cells);
    if (in.ok()) out.push_back(std::move(p));
  }
  return in.ok();
}

// What a recurrent model keeps, to the end of the state; nothing of it is coded. llama_memory_recurrent::state_write
inline bool read_recurrent(cursor& in) {
  const auto cells = in.get<std::uint32_t>();
  part p;
  if (cells && !read_cells(in, cells, 0, p)) return false;
  const auto transposed = in.get<std::uint32_t>(), layers = in.get<std::uint32_t>();
  if (in.ok() && (transposed != 0 || layers == 0 || layers > most_layers)) return in.fail(sluice::status::parse_error);
  for (std::uint32_t i = 0; i < 2 * layers && in.ok() && in.left(); ++i) {
    const auto type = in.get<std::int32_t>();
    const auto row = in.get<std::uint64_t>();
    if (!in.ok()) return false;
    if (type < 0 || type > 255 || row == 0) return in.fail(sluice::status::parse_error);
    if (cells && row > in.left() / cells) return in.fail(sluice::status::truncated);
    in.take(row * cells);
  }
  return in.ok() && in.left() == 0 ? true : in.fail(sluice::status::parse_error);
}

inline sluice::result<state> read_as(cursor in, const reading& how) {
  state s;
  s.how = how;
  const auto begin = in;
  const auto magic = in.get<std::uint32_t>();
  if (!in.ok()) return in.why();
  const bool file = magic == sequence_file || magic == session_file;
  if (file) {
    const auto version = in.get<std::uint32_t>(), n = in.get<std::uint32_t>();
    if (!in.ok()) return in.why();
    if (magic == sequence_file ? version < 3 || version > 4 : version < 9 || version > 11)
      return sluice::status::wrong_version;
    if (n > in.left() / 4) return sluice::status::truncated;
    s.tokens.resize(n);
    if (n) std::memcpy(s.tokens.data(), in.here(), std::size_t{n} * 4);
    in.take(std::uint64_t{n} * 4);
  } else if (magic == sequence_data) {
    in.get<std::int32_t>();
  } else {
    in = begin;
  }
  if (magic != sequence_file && magic != sequence_data) {  // a whole context
    const auto n = in.get<std::uint32_t>();
    if (!in.ok() || n == 0 || n > 64) return file && !in.ok() ? in.why() : sluice::status::parse_error;
    const auto* text = reinterpret_cast<const char*>(in.here());
    if (!in.take(n)) return in.why();
    s.architecture.assign(text, n);
    for (const char c : s.architecture)
      if (c < 0x21 || c > 0x7e) return sluice::status::parse_error;
  }
  if (in.left() == 0) return sluice::status::truncated;
  for (int cache = 0; in.left(); ++cache) {
    cursor attempt = in;
    std::vector<part> parts = s.parts;
    if (cache < 2 && read_cache(attempt, how, cache, s.parts)) {
      in = attempt;
      continue;
    }
    s.parts = std::move(parts);
    const sluice::status why = cache < 2 ? attempt.why() : sluice::status::parse_error;
    attempt = in;
    if (!read_recurrent(attempt))
      return why == sluice::status::truncated ? why : attempt.why() == sluice::status::truncated ? attempt.why() : why;
    in = attempt;
  }
  if (in.rows_left() != 0) return sluice::status::parse_error;
  s.size = in.at();
  return s;
}

inline sluice::result<state> read_skeleton(std::span<const std::byte> skeleton, std::uint64_t size,
                                           const reading& how) {
  if (size < skeleton.size()) return sluice::status::corrupt_header;
  return read_as(cursor(skeleton, size, true), how);
}

// The state's bytes without rows, in pieces: f(offset, size).
template <class F>
void each_piece(const state& s, const F& f) {
  std::uint64_t at = 0;
  for (const part& p : s.parts)
    for (const auto* planes : {&p.k, &p.v})
      for (const rows& r : *planes) {
        if (r.at > at) f(at, r.at - at);
        at = r.at + r.row * p.positions.size();
      }
  if (s.size > at) f(at, s.size - at);
}

}  // namespace detail

/// Reads what llama.cpp writes: files of llama_state_seq_save_file (llama-server's slots) and llama_state_save_file, and
/// the bytes of llama_state_seq_get_data and llama_state_get_data.
/// Errors: parse_error (no such state), wrong_version, truncated.
inline sluice::result<state> parse(std::span<const std::byte> bytes) {
  std::optional<sluice::status> first;
  for (const bool values : {true, false})
    for (const std::uint8_t extra : {std::uint8_t{0}, std::uint8_t{8}, std::uint8_t{12}})
      for (const bool turns : {true, false}) {
        auto s = detail::read_as(detail::cursor(bytes, bytes.size(), false), {extra, values, turns});
        if (s || s.status() == sluice::status::wrong_version) return s;
        if (!first || *first == sluice::status::parse_error) first = s.status();
      }
  return *first;
}

}  // namespace slot
