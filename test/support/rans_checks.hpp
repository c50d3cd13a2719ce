// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/rans/tables.hpp>

#include <doctest/doctest.h>
#include <support/rans_reference.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <type_traits>
#include <vector>

// What must hold for every coder, on a CPU or as kernels. A coder has name(), decode<A>(jobs) and encode<A>(jobs).
namespace rans_checks {

using namespace sluice::detail;
namespace reference = rans_reference;
using reference::below;

// One code with its tables, its data, and its bytes as the reference has them.
template <alphabet A>
struct stream {
  using block = std::conditional_t<A == alphabet::digits, ternary_block, base_block>;

  int blocks = 0, rows = 0;
  std::int64_t stride = 0;
  std::vector<block> tables;
  std::vector<std::int16_t> values;   // base: values; ternary: 3c + r
  std::vector<std::int16_t> parents;  // ternary
  std::vector<std::int8_t> digits;    // ternary
  std::vector<std::uint8_t> symbols;
  std::vector<reference::block_steps> steps;
  std::vector<std::uint8_t> bytes;

  stream(std::mt19937& random, int blocks_, int rows_, int max_symbols = rans_max_symbols, int max_digits = 4)
      : blocks(blocks_), rows(rows_), stride(32 * blocks_ + below(random, 9)) {
    const auto cells = static_cast<std::size_t>(rows * stride);
    values.assign(cells, 0), parents.assign(cells, 0), digits.assign(cells, 0), symbols.assign(cells, 0);
    for (int b = 0; b < blocks; ++b)
      if constexpr (A == alphabet::digits)
        tables.push_back(reference::random_ternary(random));
      else
        tables.push_back(reference::random_base(random, max_symbols, max_digits));
    for (int row = 0; row < rows; ++row)
      for (int b = 0; b < blocks; ++b) {
        const auto at = static_cast<std::size_t>(row * stride + 32 * b);
        for (int lane = 0; lane < 32; ++lane) fill(random, tables[static_cast<std::size_t>(b)], lane, at);
        const block& t = tables[static_cast<std::size_t>(b)];
        if constexpr (A == alphabet::values) reference::append_base(steps, t, &values[at]);
        if constexpr (A == alphabet::digits) reference::append_ternary(steps, t, &parents[at], &digits[at]);
        if constexpr (A == alphabet::symbols) reference::append_symbols(steps, t, &symbols[at]);
      }
    bytes = reference::encode(steps);
  }

  void fill(std::mt19937& random, const block& b, int lane, std::size_t at) {
    const std::size_t i = at + static_cast<std::size_t>(lane);
    if constexpr (A == alphabet::values) {
      values[i] = reference::random_value(random, b, lane);
    } else if constexpr (A == alphabet::digits) {
      const int kind = below(random, 8);
      parents[i] = static_cast<std::int16_t>(kind < 3 ? 0 : kind < 7 ? below(random, 41) - 20 : below(random, 65536));
      const int s = reference::random_symbol(random, reference::digit_table(b, lane, parents[i]));
      digits[i] = static_cast<std::int8_t>(reference::digit_of(s, parents[i]));
      values[i] = static_cast<std::int16_t>(3 * parents[i] + digits[i]);
    } else {
      symbols[i] = static_cast<std::uint8_t>(reference::random_symbol(random, reference::base_table(b, lane)));
    }
  }

  encode_job encoder(std::vector<std::uint8_t>& scratch) const {
    scratch.assign(encoded_bound(blocks, rows, A == alphabet::values ? rans_max_digits : 0), 0);
    encode_job j;
    j.tables = tables.data();
    j.blocks = blocks, j.rows = rows;
    j.values = A == alphabet::digits ? parents.data() : values.data();
    j.digits = digits.data(), j.symbols = symbols.data();
    j.stride = stride;
    j.scratch = scratch.data(), j.capacity = scratch.size();
    return j;
  }
};

// Where a decoder writes, with what must not change around it.
template <alphabet A>
struct output {
  static constexpr std::int16_t untouched = 0x5a5a;
  std::vector<std::int16_t> values;
  std::vector<std::uint8_t> symbols;
  std::unique_ptr<std::uint8_t[]> bytes;  // of their exact size, for sanitizers to see what is read

  output(const stream<A>& s, const std::vector<std::uint8_t>& from, decode_job& j)
      : values(s.values.size() + 32, untouched),
        symbols(s.values.size() + 32, 0x5a),
        bytes(new std::uint8_t[from.size()]) {
    std::copy(from.begin(), from.end(), bytes.get());
    if (A == alphabet::digits)
      for (int row = 0; row < s.rows; ++row)
        for (int i = 0; i < 32 * s.blocks; ++i) {
          const auto at = static_cast<std::size_t>(row * s.stride + i);
          values[at] = s.parents[at];
        }
    j = {};
    j.tables = s.tables.data();
    j.bytes = bytes.get(), j.size = static_cast<std::uint32_t>(from.size());
    j.blocks = s.blocks, j.rows = s.rows;
    j.values = values.data(), j.symbols = symbols.data();
    j.stride = s.stride;
    j.ok = true;
  }

  bool right(const stream<A>& s) const { return differences(s, true) == 0; }
  bool within_bounds(const stream<A>& s) const { return differences(s, false) == 0; }

 private:
  int differences(const stream<A>& s, bool inside) const {
    int wrong = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const bool coded = s.stride > 0 && static_cast<std::int64_t>(i) % s.stride < 32 * s.blocks &&
                         static_cast<std::int64_t>(i) / s.stride < s.rows;
      if (!coded)
        wrong += values[i] != untouched || symbols[i] != 0x5a;
      else if (inside)
        wrong += A == alphabet::symbols ? symbols[i] != s.symbols[i] : values[i] != s.values[i];
    }
    return wrong;
  }
};

template <alphabet A, class Coder>
void round_trips(const Coder& coder, std::mt19937& random, int times) {
  for (int i = 0; i < times; ++i) {
    const int blocks = i < 4 ? i : below(random, 9), rows = i < 6 ? i / 2 : below(random, i % 16 == 0 ? 301 : 24);
    const int max_symbols = 1 + i % rans_max_symbols;
    CAPTURE(i);
    CAPTURE(blocks);
    CAPTURE(rows);
    const stream<A> s(random, blocks, rows, max_symbols);
    std::vector<std::uint8_t> scratch;
    encode_job e = s.encoder(scratch);
    coder.template encode<A>({&e, 1});
    REQUIRE(e.ok);
    CHECK(std::vector<std::uint8_t>(e.bytes, e.bytes + e.size) == s.bytes);
    CHECK(e.bytes + e.size == scratch.data() + scratch.size());
    decode_job j;
    const output<A> out(s, s.bytes, j);
    coder.template decode<A>({&j, 1});
    CHECK(j.ok);
    CHECK(out.right(s));
  }
}

// A code that a decoder accepts is the one that encoding its values gives, but for the length of its tail: each step can
// be undone.
template <alphabet A, class Coder>
void damage(const Coder& coder, std::mt19937& random) {
  const stream<A> s(random, 1 + below(random, 3), 1 + below(random, 12));
  const auto attempt = [&](const std::vector<std::uint8_t>& bytes) {
    decode_job j;
    const output<A> out(s, bytes, j);
    coder.template decode<A>({&j, 1});
    CHECK(out.within_bounds(s));
    if (j.ok) {
      stream<A> again = s;
      for (std::size_t i = 0; i < again.values.size(); ++i) {
        again.digits[i] = static_cast<std::int8_t>(static_cast<std::int16_t>(out.values[i] - 3 * s.parents[i]));
        again.values[i] = out.values[i], again.symbols[i] = out.symbols[i];
      }
      std::vector<std::uint8_t> scratch;
      encode_job e = again.encoder(scratch);
      coder.template encode<A>({&e, 1});
      REQUIRE(e.ok);
      const std::vector<std::uint8_t> same(e.bytes, e.bytes + e.size);
      CHECK((same == bytes || same[rans_state_bytes] != bytes[rans_state_bytes]));
    }
    return j.ok;
  };
  CHECK(attempt(s.bytes));
  for (std::size_t n = 0; n < s.bytes.size(); ++n)
    CHECK_FALSE(attempt(std::vector<std::uint8_t>(s.bytes.begin(), s.bytes.begin() + static_cast<std::ptrdiff_t>(n))));
  std::vector<std::uint8_t> longer = s.bytes;
  for (int n = 0; n < 40; ++n) {
    longer.push_back(static_cast<std::uint8_t>(random()));
    CHECK_FALSE(attempt(longer));
  }
  for (int n = 0; n < 60; ++n) {
    std::vector<std::uint8_t> bad = s.bytes;
    for (int k = below(random, 3); k >= 0; --k)
      bad[static_cast<std::size_t>(below(random, static_cast<int>(bad.size())))] = static_cast<std::uint8_t>(random());
    attempt(bad);
  }
  for (int n = 0; n < 20; ++n) {
    std::vector<std::uint8_t> noise(rans_state_bytes + static_cast<std::size_t>(below(random, 200)));
    for (auto& b : noise) b = static_cast<std::uint8_t>(random());
    attempt(noise);
  }
}

template <alphabet A, class Coder>
void company(const Coder& coder, std::mt19937& random, int most) {
  for (int count = 0; count <= most; ++count) {
    std::vector<stream<A>> streams;
    for (int i = 0; i < count; ++i) {
      const int blocks = below(random, 9), rows = below(random, i % 4 == 3 ? 90 : 12);
      streams.emplace_back(random, blocks, rows);
    }
    const int broken = count > 2 ? below(random, count) : -1;
    std::vector<decode_job> jobs(streams.size());
    std::vector<output<A>> out;
    for (std::size_t i = 0; i < streams.size(); ++i) out.emplace_back(streams[i], streams[i].bytes, jobs[i]);
    if (broken >= 0) jobs[static_cast<std::size_t>(broken)].size -= 1;
    coder.template decode<A>(jobs);
    for (std::size_t i = 0; i < streams.size(); ++i) {
      CHECK(jobs[i].ok == (static_cast<int>(i) != broken));
      if (jobs[i].ok) CHECK(out[i].right(streams[i]));
      CHECK(out[i].within_bounds(streams[i]));
    }
  }
}

// Two codes of one set of states are one code that was cut.
template <alphabet A, class Coder>
void handed_on(const Coder& coder, std::mt19937& random, int times) {
  for (int i = 0; i < times; ++i) {
    const stream<A> s(random, below(random, 5), below(random, 20)), t(random, below(random, 5), below(random, 20));
    std::vector<reference::block_steps> both = s.steps;
    both.insert(both.end(), t.steps.begin(), t.steps.end());
    const std::vector<std::uint8_t> one = reference::encode(both, std::min<std::size_t>(t.steps.size(), rans_max_tail));

    std::uint8_t states[rans_state_bytes];
    std::vector<std::uint8_t> scratch[2];
    encode_job first = s.encoder(scratch[0]), second = t.encoder(scratch[1]);
    first.states = second.states = states;
    first.goes_on = second.continues = true;
    coder.template encode<A>({&second, 1});
    REQUIRE(second.ok);
    coder.template encode<A>({&first, 1});
    REQUIRE(first.ok);
    std::vector<std::uint8_t> cut(first.bytes, first.bytes + first.size);
    const std::vector<std::uint8_t> rest(second.bytes, second.bytes + second.size);
    std::vector<std::uint8_t> joined(cut.begin(), cut.begin() + rans_state_bytes);
    joined.push_back(rest[0]);
    joined.insert(joined.end(), cut.begin() + rans_state_bytes, cut.end());
    joined.insert(joined.end(), rest.begin() + 1, rest.end());
    CHECK(joined == one);

    for (bool sound : {true, false}) {
      if (!sound) cut[static_cast<std::size_t>(2 * below(random, 32))] ^= 1;
      decode_job begin, end;
      const output<A> a(s, cut, begin), b(t, rest, end);
      begin.states = end.states = states;
      begin.goes_on = end.continues = true;
      coder.template decode<A>({&begin, 1});
      coder.template decode<A>({&end, 1});
      CHECK((begin.ok && end.ok && a.right(s) && b.right(t)) == sound);
      CHECK(a.within_bounds(s));
      CHECK(b.within_bounds(t));
    }
    std::uint8_t none[rans_state_bytes] = {};  // no states that a code can begin with
    decode_job j;
    const output<A> out(t, rest, j);
    j.states = none;
    j.continues = true;
    coder.template decode<A>({&j, 1});
    CHECK_FALSE(j.ok);
  }
}

// Digit tables of lanes without digits are not read.
template <class Coder>
void idle_digits(const Coder& coder, std::mt19937& random) {
  stream<alphabet::values> s(random, 4, 10);
  for (base_block& b : s.tables)
    for (int k = 0; k < rans_max_digits; ++k)
      for (int lane = 0; lane < rans_lanes; ++lane)
        if (k >= b.lane_digits[lane]) set_lane(b.digit[k], lane, {}, {});
  decode_job j;
  const output<alphabet::values> out(s, s.bytes, j);
  coder.template decode<alphabet::values>({&j, 1});
  CHECK(j.ok);
  CHECK(out.right(s));
}

// What a table cannot express is refused, every other value coded.
template <class Coder>
void expressible(const Coder& coder, std::mt19937& random, int times) {
  for (int i = 0; i < times; ++i) {
    stream<alphabet::values> s(random, 1, 1, 5);
    stream<alphabet::digits> t(random, 1, 1);
    const auto at = static_cast<std::size_t>(below(random, 32));
    const int near = below(random, 15) - 7, far = below(random, 65536);
    const int wild[] = {near, INT16_MIN, INT16_MAX, far};
    s.values[at] = static_cast<std::int16_t>(wild[i % 4]);
    t.digits[at] = static_cast<std::int8_t>(below(random, 9) - 4);
    std::vector<reference::block_steps> steps;
    reference::append_base(steps, s.tables[0], s.values.data());
    bool possible = true;
    for (const auto& step : steps[0]) possible &= step[at].freq > 0;
    const reference::lane_table d = reference::digit_table(t.tables[0], static_cast<int>(at), t.parents[at]);
    const int digit = t.digits[at];
    const bool coded =
        digit >= -1 && digit <= 1 && interval_of(d, reference::digit_symbol(digit, t.parents[at])).freq > 0;
    std::vector<std::uint8_t> scratch;
    encode_job e = s.encoder(scratch);
    coder.template encode<alphabet::values>({&e, 1});
    CHECK(e.ok == possible);
    CHECK((e.bytes != nullptr) == possible);
    if (possible) CHECK(std::vector<std::uint8_t>(e.bytes, e.bytes + e.size) == reference::encode(steps));
    e = t.encoder(scratch);
    coder.template encode<alphabet::digits>({&e, 1});
    CHECK(e.ok == coded);
  }
}

// Impossible jobs are refused before anything is written.
template <class Coder>
void refusals(const Coder& coder, std::mt19937& random) {
  using values = output<alphabet::values>;
  const stream<alphabet::values> s(random, 2, 5);
  const auto refused = [&](auto&& change) {
    stream<alphabet::values> t = s;
    decode_job j;
    values out(t, t.bytes, j);
    std::vector<std::uint8_t> scratch;
    encode_job e = t.encoder(scratch);
    change(t, j, e);
    j.tables = e.tables = t.tables.data();
    coder.template decode<alphabet::values>({&j, 1});
    coder.template encode<alphabet::values>({&e, 1});
    CHECK_FALSE(j.ok);
    CHECK_FALSE(e.ok);
    CHECK(e.bytes == nullptr);
    CHECK(out.values == std::vector<std::int16_t>(out.values.size(), values::untouched));
  };
  using job = decode_job;
  refused([](auto& t, job&, encode_job&) { t.tables[1].symbols = 0; });
  refused([](auto& t, job&, encode_job&) { t.tables[1].symbols = rans_max_symbols + 1; });
  refused([](auto& t, job&, encode_job&) { t.tables[1].digits = rans_max_digits + 1; });
  refused([](auto&, job& j, encode_job& e) { j.blocks = e.blocks = rans_max_blocks + 1; });
  refused([](auto&, job& j, encode_job& e) { j.blocks = e.blocks = -1; });
  refused([](auto&, job& j, encode_job& e) { j.rows = e.rows = -1; });
  refused([](auto& t, job& j, encode_job& e) {
    j.size = rans_state_bytes;
    e.capacity = encoded_bound(t.blocks, t.rows, std::max(t.tables[0].digits, t.tables[1].digits)) - 1;
  });
  for (int lane = 0; lane < rans_lanes; ++lane) {
    decode_job j;
    values out(s, s.bytes, j);
    out.bytes[static_cast<std::size_t>(2 * lane + 1)] = 0;
    coder.template decode<alphabet::values>({&j, 1});
    CHECK_FALSE(j.ok);
    CHECK(out.values == std::vector<std::int16_t>(out.values.size(), values::untouched));
  }
}

template <class Coder>
void everything(const Coder& coder, unsigned seed, int extent) {
  CAPTURE(coder.name());
  std::mt19937 random(seed);
  round_trips<alphabet::values>(coder, random, 22 * extent);
  round_trips<alphabet::digits>(coder, random, 6 * extent);
  round_trips<alphabet::symbols>(coder, random, 6 * extent);
  for (int i = 0; 2 * i < extent; ++i) {
    damage<alphabet::values>(coder, random);
    damage<alphabet::digits>(coder, random);
    damage<alphabet::symbols>(coder, random);
  }
  company<alphabet::values>(coder, random, 3 + extent);
  company<alphabet::digits>(coder, random, 3 + extent);
  company<alphabet::symbols>(coder, random, 3 + extent);
  handed_on<alphabet::values>(coder, random, 4 * extent);
  handed_on<alphabet::digits>(coder, random, 2 * extent);
  handed_on<alphabet::symbols>(coder, random, 2 * extent);
  idle_digits(coder, random);
  expressible(coder, random, 20 * extent);
  refusals(coder, random);
}

}  // namespace rans_checks
