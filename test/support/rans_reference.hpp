// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/rans/tables.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

// The coder as its description has it, one lane after the other, and random tables and data to run it on.
namespace rans_reference {

using namespace sluice::detail;

// One lane's distribution.
struct lane_table {
  int count = 0;  // thresholds
  int t[rans_max_symbols - 1] = {};
};

struct interval {
  int start = 0, freq = 256;
};

inline interval interval_of(const lane_table& d, int symbol) {
  if (symbol < 0 || symbol > d.count) return {0, 0};
  const int start = symbol == 0 ? 0 : d.t[symbol - 1] + 1;
  return {start, (symbol < d.count ? d.t[symbol] + 1 : 256) - start};
}
inline int symbol_of_slot(const lane_table& d, int slot) {
  int s = 0;
  for (int k = 0; k < d.count; ++k) s += slot > d.t[k];
  return s;
}
inline lane_table base_table(const base_block& b, int lane) {
  lane_table d{b.symbols - 1, {}};
  for (int k = 0; k < d.count; ++k) d.t[k] = b.threshold[k][lane];
  return d;
}
inline lane_table digit_table(const ternary_block& b, int lane, int parent) {
  const auto& t = parent == 0 ? b.zero : b.nonzero;
  return {2, {t[0][lane], t[1][lane]}};
}

inline int value_of(int symbol) { return (symbol >> 1) ^ -(symbol & 1); }
inline int symbol_of(int value) { return value < 0 ? -2 * value - 1 : 2 * value; }
inline int digit_of(int symbol, int parent) {
  const int r = symbol == 0 ? 0 : symbol == 1 ? -1 : 1;
  return parent < 0 ? -r : r;
}
inline int digit_symbol(int digit, int parent) {
  const int r = parent < 0 ? -digit : digit;
  return r == 0 ? 0 : r < 0 ? 1 : 2;
}

// What a code holds, in the decoder's order: blocks of steps.
using step = std::array<interval, rans_lanes>;
using block_steps = std::vector<step>;
using states = std::array<std::uint32_t, rans_lanes>;

// Bytes in front of which a block's steps are put, backwards.
inline void push(const block_steps& block, states& x, std::vector<std::uint8_t>& reversed) {
  for (std::size_t i = block.size(); i-- > 0;)
    for (std::size_t lane = rans_lanes; lane-- > 0;) {
      const auto f = static_cast<std::uint32_t>(block[i][lane].freq);
      if (x[lane] >= 256 * f) {
        reversed.push_back(static_cast<std::uint8_t>(x[lane] & 255));
        x[lane] >>= 8;
      }
      x[lane] = x[lane] / f * 256 + x[lane] % f + static_cast<std::uint32_t>(block[i][lane].start);
    }
}

// As many of the last blocks as the states take without a byte and with room for 256 more.
inline std::size_t tail_of(const std::vector<block_steps>& blocks, states& x, std::size_t most) {
  states next = {};
  std::vector<std::uint8_t> bytes;
  std::size_t tail = 0;
  x = next;
  for (std::size_t n = 1; n <= std::min(blocks.size(), most); ++n) {
    push(blocks[blocks.size() - n], next, bytes);
    if (!bytes.empty()) break;
    if (std::all_of(next.begin(), next.end(), [](auto v) { return v < 65536 - 256; })) x = next, tail = n;
  }
  for (std::uint32_t& v : x) v += 256;
  return tail;
}

inline std::vector<std::uint8_t> encode(const std::vector<block_steps>& blocks, std::size_t most_tail = rans_max_tail) {
  states x;
  const std::size_t tail = tail_of(blocks, x, most_tail);
  std::vector<std::uint8_t> reversed;
  for (std::size_t i = blocks.size() - tail; i-- > 0;) push(blocks[i], x, reversed);
  std::vector<std::uint8_t> bytes;
  for (std::uint32_t v : x) {
    bytes.push_back(static_cast<std::uint8_t>(v & 255));
    bytes.push_back(static_cast<std::uint8_t>(v >> 8));
  }
  bytes.push_back(static_cast<std::uint8_t>(tail));
  bytes.insert(bytes.end(), reversed.rbegin(), reversed.rend());
  return bytes;
}

class decoder {
 public:
  decoder(std::span<const std::uint8_t> bytes, int blocks)
      : bytes_(bytes), left_(blocks), ok_(bytes.size() > rans_state_bytes) {
    for (std::size_t i = 0; i < rans_lanes && ok_; ++i) {
      x_[i] = bytes[2 * i] + 256u * bytes[2 * i + 1];
      ok_ = x_[i] >= 256;
    }
    if (ok_) tail_ = bytes[rans_state_bytes];
    ok_ &= tail_ <= blocks;
  }
  bool started() const { return ok_; }
  void begin_block() {
    if (left_-- == tail_)
      for (std::uint32_t& x : x_) x = (x - 256) & 65535;
  }
  std::array<int, rans_lanes> next(const std::array<lane_table, rans_lanes>& tables) {
    std::array<int, rans_lanes> symbols;
    for (std::size_t lane = 0; lane < rans_lanes; ++lane) {
      const int slot = static_cast<int>(x_[lane] & 255);
      symbols[lane] = symbol_of_slot(tables[lane], slot);
      const interval v = interval_of(tables[lane], symbols[lane]);
      x_[lane] = static_cast<std::uint32_t>(v.freq) * (x_[lane] >> 8) + static_cast<std::uint32_t>(slot - v.start);
    }
    for (std::uint32_t& x : x_)
      if (x < 256 && left_ >= tail_) {
        ok_ &= at_ < bytes_.size();
        x = x << 8 | (at_ < bytes_.size() ? bytes_[at_] : 0u);
        ++at_;
      }
    return symbols;
  }
  bool finished() {
    begin_block();
    return ok_ && at_ == bytes_.size() && std::all_of(x_.begin(), x_.end(), [](auto x) { return x == 0; });
  }

 private:
  std::span<const std::uint8_t> bytes_;
  states x_ = {};
  std::size_t at_ = rans_state_bytes + 1;
  int left_, tail_ = 0;
  bool ok_;
};

// The value of a lane at scale 3^k, k = 0..digits; lanes with fewer digits stop early.
inline int coarser(const base_block& b, int lane, int value, int k) {
  for (int i = 0; i < k && i < b.lane_digits[lane]; ++i) value = (value + (value < 0 ? -1 : 1)) / 3;
  return value;
}

inline void append_base(std::vector<block_steps>& blocks, const base_block& b, const std::int16_t* v) {
  block_steps& steps = blocks.emplace_back();
  step s;
  for (int lane = 0; lane < rans_lanes; ++lane)
    s[static_cast<std::size_t>(lane)] =
        interval_of(base_table(b, lane), symbol_of(coarser(b, lane, v[lane], b.digits)));
  steps.push_back(s);
  for (int k = b.digits; k-- > 0;) {
    for (int lane = 0; lane < rans_lanes; ++lane) {
      const int parent = coarser(b, lane, v[lane], k + 1), digit = coarser(b, lane, v[lane], k) - 3 * parent;
      s[static_cast<std::size_t>(lane)] =
          k < b.lane_digits[lane] ? interval_of(digit_table(b.digit[k], lane, parent), digit_symbol(digit, parent))
                                  : interval{};
    }
    steps.push_back(s);
  }
}

inline void append_ternary(std::vector<block_steps>& blocks, const ternary_block& b, const std::int16_t* parent,
                           const std::int8_t* digit) {
  step s;
  for (int lane = 0; lane < rans_lanes; ++lane)
    s[static_cast<std::size_t>(lane)] =
        interval_of(digit_table(b, lane, parent[lane]), digit_symbol(digit[lane], parent[lane]));
  blocks.push_back({s});
}

inline void append_symbols(std::vector<block_steps>& blocks, const base_block& b, const std::uint8_t* symbols) {
  step s;
  for (int lane = 0; lane < rans_lanes; ++lane)
    s[static_cast<std::size_t>(lane)] = interval_of(base_table(b, lane), symbols[lane]);
  blocks.push_back({s});
}

inline void decode_base(decoder& d, const base_block& b, std::int16_t* v) {
  d.begin_block();
  std::array<lane_table, rans_lanes> tables;
  for (int lane = 0; lane < rans_lanes; ++lane) tables[static_cast<std::size_t>(lane)] = base_table(b, lane);
  const auto base = d.next(tables);
  for (int lane = 0; lane < rans_lanes; ++lane)
    v[lane] = static_cast<std::int16_t>(value_of(base[static_cast<std::size_t>(lane)]));
  for (int k = b.digits; k-- > 0;) {
    for (int lane = 0; lane < rans_lanes; ++lane)
      tables[static_cast<std::size_t>(lane)] =
          k < b.lane_digits[lane] ? digit_table(b.digit[k], lane, v[lane]) : lane_table{};
    const auto digits = d.next(tables);
    for (int lane = 0; lane < rans_lanes; ++lane)
      if (k < b.lane_digits[lane])
        v[lane] = static_cast<std::int16_t>(3 * v[lane] + digit_of(digits[static_cast<std::size_t>(lane)], v[lane]));
  }
}

inline void decode_ternary(decoder& d, const ternary_block& b, std::int16_t* v) {
  d.begin_block();
  std::array<lane_table, rans_lanes> tables;
  for (int lane = 0; lane < rans_lanes; ++lane) tables[static_cast<std::size_t>(lane)] = digit_table(b, lane, v[lane]);
  const auto digits = d.next(tables);
  for (int lane = 0; lane < rans_lanes; ++lane)
    v[lane] = static_cast<std::int16_t>(3 * v[lane] + digit_of(digits[static_cast<std::size_t>(lane)], v[lane]));
}

inline void decode_symbols(decoder& d, const base_block& b, std::uint8_t* symbols) {
  d.begin_block();
  std::array<lane_table, rans_lanes> tables;
  for (int lane = 0; lane < rans_lanes; ++lane) tables[static_cast<std::size_t>(lane)] = base_table(b, lane);
  const auto s = d.next(tables);
  for (int lane = 0; lane < rans_lanes; ++lane)
    symbols[lane] = static_cast<std::uint8_t>(s[static_cast<std::size_t>(lane)]);
}

// --- random tables and what they can express ---

inline int below(std::mt19937& random, int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); }

// Frequencies summing to 256, the first at least 1: even, skewed, with gaps, or all on one symbol.
inline std::vector<std::uint16_t> random_frequencies(std::mt19937& random, int symbols) {
  std::vector<std::uint16_t> f(static_cast<std::size_t>(symbols), 0);
  f[0] = 1;
  const int shape = below(random, 4), favourite = below(random, symbols);
  for (int left = 255; left > 0;) {
    const int give = std::min(left, 1 + below(random, shape == 0 ? 4 : 64));
    int to = below(random, symbols);
    if (shape == 1) to = std::min(to, below(random, symbols));
    if (shape == 2 && below(random, 4) != 0) to = favourite;
    if (shape == 3 && to % 3 == 1) to = 0;
    f[static_cast<std::size_t>(to)] = static_cast<std::uint16_t>(f[static_cast<std::size_t>(to)] + give);
    left -= give;
  }
  return f;
}

inline ternary_block random_ternary(std::mt19937& random) {
  ternary_block b;
  set_dead(b);
  for (int lane = 0; lane < rans_lanes; ++lane)
    if (below(random, 8) != 0) set_lane(b, lane, random_frequencies(random, 3), random_frequencies(random, 3));
  return b;
}

inline base_block random_base(std::mt19937& random, int max_symbols = rans_max_symbols,
                              int max_digits = rans_max_digits) {
  base_block b;
  set_dead(b);
  const int symbols = 1 + below(random, max_symbols), digits = below(random, max_digits + 1);
  for (int lane = 0; lane < rans_lanes; ++lane)
    if (below(random, 8) != 0) set_lane(b, lane, random_frequencies(random, 1 + below(random, symbols)));
  for (int lane = 0; lane < rans_lanes; ++lane) {
    b.lane_digits[lane] = static_cast<std::uint8_t>(below(random, digits + 1));
    b.digits = std::max(b.digits, b.lane_digits[lane]);
  }
  for (ternary_block& d : b.digit) d = random_ternary(random);
  return b;
}

// A symbol drawn from the distribution.
inline int random_symbol(std::mt19937& random, const lane_table& d) { return symbol_of_slot(d, below(random, 256)); }

inline std::int16_t random_value(std::mt19937& random, const base_block& b, int lane) {
  int v = value_of(random_symbol(random, base_table(b, lane)));
  for (int k = b.lane_digits[lane]; k-- > 0;)
    v = 3 * v + digit_of(random_symbol(random, digit_table(b.digit[k], lane, v)), v);
  return static_cast<std::int16_t>(v);
}

}  // namespace rans_reference
