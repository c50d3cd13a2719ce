// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/rans/rans.hpp>

#include <doctest/doctest.h>
#include <support/isas.hpp>
#include <support/rans_checks.hpp>

#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <vector>

namespace {

using namespace sluice::detail;
using sluice::isa;
namespace reference = rans_reference;
using reference::below;

constexpr unsigned seed = 20250712;

struct host_coder {
  isa on;
  const char* name() const { return to_string(on); }
  template <alphabet A>
  void decode(std::span<decode_job> jobs) const {
    A == alphabet::values   ? decode_base(jobs, on)
    : A == alphabet::digits ? decode_ternary(jobs, on)
                            : decode_symbols(jobs, on);
  }
  template <alphabet A>
  void encode(std::span<encode_job> jobs) const {
    A == alphabet::values   ? encode_base(jobs, on)
    : A == alphabet::digits ? encode_ternary(jobs, on)
                            : encode_symbols(jobs, on);
  }
};

}  // namespace

TEST_CASE("rans: values, digits and symbols come back; bytes are the reference's on every instruction set") {
  MESSAGE("seed ", seed);
  for (const isa on : isas::all) {
    const host_coder coder{on};
    std::mt19937 random(seed);
    CAPTURE(coder.name());
    rans_checks::round_trips<alphabet::values>(coder, random, 220);
    rans_checks::round_trips<alphabet::digits>(coder, random, 60);
    rans_checks::round_trips<alphabet::symbols>(coder, random, 60);
  }
}

TEST_CASE("rans: the reference decodes what it encodes") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (int i = 0; i < 20; ++i) {
    const int blocks = 1 + below(random, 8), rows = below(random, 20);
    const rans_checks::stream<alphabet::values> s(random, blocks, rows);
    reference::decoder d(s.bytes, s.blocks * s.rows);
    REQUIRE(d.started());
    int wrong = 0;
    for (int row = 0; row < s.rows; ++row)
      for (int b = 0; b < s.blocks; ++b) {
        std::int16_t v[32];
        reference::decode_base(d, s.tables[static_cast<std::size_t>(b)], v);
        wrong += std::memcmp(v, &s.values[static_cast<std::size_t>(row * s.stride + 32 * b)], sizeof v) != 0;
      }
    CHECK(wrong == 0);
    CHECK(d.finished());
  }
}

TEST_CASE("rans: damaged streams are noticed; whatever they hold, nothing else is touched") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (const isa on : isas::all) {
    const host_coder coder{on};
    CAPTURE(coder.name());
    for (int i = 0; i < 6; ++i) {
      rans_checks::damage<alphabet::values>(coder, random);
      rans_checks::damage<alphabet::digits>(coder, random);
      rans_checks::damage<alphabet::symbols>(coder, random);
    }
  }
}

TEST_CASE("rans: streams decode alike in any company") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (const isa on : isas::all) {
    const host_coder coder{on};
    CAPTURE(coder.name());
    rans_checks::company<alphabet::values>(coder, random, 13);
    rans_checks::company<alphabet::digits>(coder, random, 13);
    rans_checks::company<alphabet::symbols>(coder, random, 13);
  }
}

TEST_CASE("rans: a code goes on with the states of another one") {
  MESSAGE("seed ", seed);
  for (const isa on : isas::all) {
    const host_coder coder{on};
    std::mt19937 random(seed);
    CAPTURE(coder.name());
    rans_checks::handed_on<alphabet::values>(coder, random, 60);
    rans_checks::handed_on<alphabet::digits>(coder, random, 60);
    rans_checks::handed_on<alphabet::symbols>(coder, random, 60);
  }
}

TEST_CASE("rans: what cannot be coded is refused, and idle tables are not read") {
  MESSAGE("seed ", seed);
  for (const isa on : isas::all) {
    const host_coder coder{on};
    std::mt19937 random(seed);
    CAPTURE(coder.name());
    rans_checks::idle_digits(coder, random);
    rans_checks::expressible(coder, random, 200);
    rans_checks::refusals(coder, random);
  }
}

TEST_CASE("rans: tables from frequencies") {
  base_block b;
  set_dead(b);
  CHECK(b.symbols == 1);
  const std::uint16_t f[] = {100, 0, 150, 6};
  set_lane(b, 3, f);
  CHECK(b.symbols == 4);
  CHECK(int{b.threshold[0][3]} == 99);
  CHECK(int{b.threshold[1][3]} == 99);
  CHECK(int{b.threshold[2][3]} == 249);
  CHECK(int{b.threshold[3][3]} == 255);
  CHECK(int{b.threshold[0][4]} == 255);
  const std::uint16_t all[] = {256};
  set_lane(b, 5, all);
  CHECK(int{b.threshold[0][5]} == 255);
  const reference::interval last = reference::interval_of(reference::base_table(b, 3), 3);
  CHECK(last.start == 250);
  CHECK(last.freq == 6);
}
