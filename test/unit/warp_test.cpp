// SPDX-License-Identifier: Apache-2.0
// Every operation of the 32-lane machines against one lane's arithmetic.
#include <sluice/codec/rans/tables.hpp>
#include <sluice/warp/host.hpp>

#define SLUICE_BODY <support/warp_steps.inl>
#include <sluice/warp/foreach_target.inl>

#include <doctest/doctest.h>
#include <support/rans_reference.hpp>

#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

namespace {

using namespace sluice::detail;
namespace reference = rans_reference;
using reference::below;

constexpr unsigned seed = 20250713;

// The functions of warp_steps.inl of one instruction set.
struct machine {
  const char* name;
  std::size_t (*values)(int, const std::uint8_t (*)[32], std::uint8_t*, const std::uint8_t*, std::size_t, std::int16_t*,
                        std::uint8_t*);
  std::size_t (*symbols)(int, const std::uint8_t (*)[32], std::uint8_t*, const std::uint8_t*, std::size_t,
                         std::int16_t*, std::uint8_t*);
  int (*searched)(int);
  void (*digit)(const ternary_block&, std::uint8_t*, const std::uint8_t*, std::size_t, std::int16_t*);
  std::size_t (*push)(const std::uint8_t (*)[32], int, const std::uint8_t*, std::uint8_t*, std::uint8_t*);
  void (*thirds)(const std::int16_t*, std::int16_t*, std::int16_t*, std::int16_t*);
  bool (*select)(const std::uint8_t*, int, std::int16_t*, const std::int16_t*);
  void (*states)(const std::uint8_t*, bool&, bool&, bool&);
  void (*load)(const std::uint8_t*, std::int16_t*, std::int16_t*);
};

#define SLUICE_TEST_MACHINE(isa)                                                                                     \
  machine {                                                                                                          \
#isa, isa::warp_steps::decode_step < alphabet::values>, isa::warp_steps::decode_step < alphabet::symbols>,       \
        isa::warp_steps::searched, isa::warp_steps::digit_step, isa::warp_steps::push_step, isa::warp_steps::thirds, \
        isa::warp_steps::select_step, isa::warp_steps::states_step, isa::warp_steps::load_step                       \
  }

std::vector<machine> machines() {
  std::vector<machine> all{SLUICE_TEST_MACHINE(portable)};
#if SLUICE_X86_TARGETS
  if (sluice::usable_isa(sluice::isa::avx2) == sluice::isa::avx2) all.push_back(SLUICE_TEST_MACHINE(avx2));
  if (sluice::usable_isa(sluice::isa::avx512) == sluice::isa::avx512) all.push_back(SLUICE_TEST_MACHINE(avx512));
#elif SLUICE_ARM_TARGETS
  all.push_back(SLUICE_TEST_MACHINE(neon));
#endif
  return all;
}

struct lanes16 {
  std::uint8_t bytes[64];
  unsigned operator[](int i) const { return bytes[2 * i] + 256u * bytes[2 * i + 1]; }
  void set(int i, unsigned x) {
    bytes[2 * i] = static_cast<std::uint8_t>(x & 255);
    bytes[2 * i + 1] = static_cast<std::uint8_t>(x >> 8);
  }
};

lanes16 random_states(std::mt19937& random) {
  lanes16 s;
  const int spread = below(random, 3);
  for (int i = 0; i < 32; ++i)
    s.set(i, static_cast<unsigned>(256 + below(random, spread == 0 ? 600 : spread == 1 ? 9000 : 65280)));
  return s;
}

}  // namespace

TEST_CASE("warp: a decoding step finds symbols, scales states and takes bytes in lane order") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (const machine& m : machines()) {
    CAPTURE(m.name);
    for (int thresholds = 1; thresholds < rans_max_symbols; ++thresholds) {
      const int count = m.searched(thresholds);
      CAPTURE(count);
      for (int times = 0; times < 30; ++times) {
        base_block b;
        set_dead(b);
        b.symbols = static_cast<std::uint8_t>(count + 1);
        for (int lane = 0; lane < 32; ++lane)
          set_lane(b, lane, reference::random_frequencies(random, 1 + below(random, count + 1)));
        const lanes16 before = random_states(random);
        std::unique_ptr<std::uint8_t[]> bytes(new std::uint8_t[64]);
        for (int i = 0; i < 64; ++i) bytes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(random());
        for (bool raw : {false, true}) {
          lanes16 x = before;
          std::int16_t values[32] = {};
          std::uint8_t symbols[32] = {};
          const std::size_t used =
              (raw ? m.symbols : m.values)(count, b.threshold, x.bytes, bytes.get(), 64, values, symbols);
          std::size_t next = 0;
          int wrong = 0;
          for (int lane = 0; lane < 32; ++lane) {
            const auto d = reference::base_table(b, lane);
            const int slot = static_cast<int>(before[lane] & 255), s = reference::symbol_of_slot(d, slot);
            const auto v = reference::interval_of(d, s);
            unsigned want = static_cast<unsigned>(v.freq) * (before[lane] >> 8) + static_cast<unsigned>(slot - v.start);
            if (want < 256) want = want << 8 | bytes[next++];
            wrong += x[lane] != want || (raw ? symbols[lane] != s : values[lane] != reference::value_of(s));
          }
          CHECK(wrong == 0);
          CHECK(used == next);
        }
      }
    }
  }
}

TEST_CASE("warp: every slot of every frequency") {
  for (const machine& m : machines()) {
    CAPTURE(m.name);
    int wrong = 0;
    for (int freq = 1; freq <= 256; ++freq) {
      base_block b;
      set_dead(b);
      const std::uint16_t f[] = {static_cast<std::uint16_t>(freq), static_cast<std::uint16_t>(256 - freq)};
      for (int lane = 0; lane < 32; ++lane) set_lane(b, lane, f);
      for (unsigned first = 0; first < 256; first += 32) {
        lanes16 x;
        for (int lane = 0; lane < 32; ++lane) x.set(lane, 0xff00u + first + static_cast<unsigned>(lane));
        const std::uint8_t bytes[32] = {};
        std::int16_t values[32];
        m.values(1, b.threshold, x.bytes, bytes, sizeof bytes, values, nullptr);
        for (unsigned lane = 0; lane < 32; ++lane) {
          const unsigned slot = first + lane, f0 = static_cast<unsigned>(freq);
          const unsigned want = slot < f0 ? f0 * 255 + slot : (256 - f0) * 255 + slot - f0;
          wrong += values[lane] != (slot < f0 ? 0 : -1);
          if (want >= 256) wrong += x[static_cast<int>(lane)] != want;
        }
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("warp: ternary digits turn with the sign of what they refine") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (const machine& m : machines()) {
    CAPTURE(m.name);
    for (int times = 0; times < 300; ++times) {
      const ternary_block b = reference::random_ternary(random);
      const lanes16 before = random_states(random);
      lanes16 x = before;
      std::uint8_t bytes[32];
      for (auto& v : bytes) v = static_cast<std::uint8_t>(random());
      std::int16_t values[32], parents[32];
      for (auto& v : values)
        v = static_cast<std::int16_t>(times % 8 == 0 ? below(random, 65536) : below(random, 5) - 2);
      std::memcpy(parents, values, sizeof values);
      m.digit(b, x.bytes, bytes, sizeof bytes, values);
      int wrong = 0, next = 0;
      for (int lane = 0; lane < 32; ++lane) {
        const auto d = reference::digit_table(b, lane, parents[lane]);
        const int slot = static_cast<int>(before[lane] & 255), s = reference::symbol_of_slot(d, slot);
        const auto v = reference::interval_of(d, s);
        unsigned want = static_cast<unsigned>(v.freq) * (before[lane] >> 8) + static_cast<unsigned>(slot - v.start);
        if (want < 256) want = want << 8 | bytes[next++];
        wrong += x[lane] != want;
        wrong += values[lane] != static_cast<std::int16_t>(3 * parents[lane] + reference::digit_of(s, parents[lane]));
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("warp: encoding divides exactly and writes bytes in lane order") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (const machine& m : machines()) {
    CAPTURE(m.name);
    int wrong = 0;
    // Quotients right at and around every multiple of every frequency.
    for (unsigned freq = 1; freq <= 256; ++freq) {
      base_block b;
      set_dead(b);
      const std::uint16_t f[] = {static_cast<std::uint16_t>(freq), static_cast<std::uint16_t>(256 - freq)};
      for (int lane = 0; lane < 32; ++lane) set_lane(b, lane, f);
      const std::uint8_t symbols[32] = {};
      for (unsigned q = 1; q < 256; q += 10) {
        lanes16 x, before;
        for (unsigned lane = 0; lane < 32; ++lane)
          x.set(static_cast<int>(lane), std::max(256u, std::min((q + lane / 3) * freq + lane % 3 - 1, 65535u)));
        before = x;
        std::uint8_t out[64];
        const std::size_t n = m.push(b.threshold, 1, symbols, x.bytes, out + 64);
        std::size_t at = 64 - n;
        for (int lane = 0; lane < 32; ++lane) {
          unsigned want = before[lane];
          if (want >= 256 * freq) {
            wrong += out[at++] != (want & 255);
            want >>= 8;
          }
          wrong += x[lane] != want / freq * 256 + want % freq;
        }
        wrong += at != 64;
      }
    }
    CHECK(wrong == 0);
    for (int times = 0; times < 300; ++times) {
      base_block b;
      set_dead(b);
      for (int lane = 0; lane < 32; ++lane)
        set_lane(b, lane, reference::random_frequencies(random, 1 + below(random, 16)));
      lanes16 x = random_states(random), before = x;
      std::uint8_t symbols[32], out[64];
      for (int lane = 0; lane < 32; ++lane)
        symbols[lane] = static_cast<std::uint8_t>(reference::random_symbol(random, reference::base_table(b, lane)));
      const std::size_t n = m.push(b.threshold, b.symbols - 1, symbols, x.bytes, out + 64);
      std::size_t at = 64 - n;
      wrong = 0;
      for (int lane = 0; lane < 32; ++lane) {
        const auto v = reference::interval_of(reference::base_table(b, lane), symbols[lane]);
        const auto freq = static_cast<unsigned>(v.freq);
        unsigned want = before[lane];
        if (want >= 256 * freq) {
          wrong += out[at++] != (want & 255);
          want >>= 8;
        }
        wrong += x[lane] != want / freq * 256 + want % freq + static_cast<unsigned>(v.start);
      }
      CHECK(wrong == 0);
      CHECK(at == 64);
    }
  }
}

TEST_CASE("warp: thirds, symbols, selections and loads of every value") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (const machine& m : machines()) {
    CAPTURE(m.name);
    int wrong = 0;
    for (int first = INT16_MIN; first <= INT16_MAX; first += 32) {
      std::int16_t v[32], parent[32], digit[32], symbol[32];
      for (int i = 0; i < 32; ++i) v[i] = static_cast<std::int16_t>(first + i);
      m.thirds(v, parent, digit, symbol);
      for (int i = 0; i < 32; ++i) {
        wrong += parent[i] != (v[i] + (v[i] < 0 ? -1 : 1)) / 3 || digit[i] != v[i] - 3 * parent[i];
        wrong += digit[i] < -1 || digit[i] > 1;
        wrong += static_cast<std::uint16_t>(symbol[i]) != reference::symbol_of(v[i]);
      }
    }
    CHECK(wrong == 0);
    for (int times = 0; times < 100; ++times) {
      std::uint8_t lanes[32];
      std::int16_t yes[32], no[32], got[32], plain[32], with_sign[32];
      for (int i = 0; i < 32; ++i) {
        lanes[i] = static_cast<std::uint8_t>(below(random, 5));
        yes[i] = static_cast<std::int16_t>(random()), no[i] = static_cast<std::int16_t>(random());
      }
      const int n = 1 + below(random, 5);
      std::memcpy(got, yes, sizeof got);
      const bool some = m.select(lanes, n, got, no);
      bool expected = false;
      for (int i = 0; i < 32; ++i) {
        expected |= lanes[i] >= n;
        CHECK(got[i] == (lanes[i] >= n ? yes[i] : no[i]));
        lanes[i] = static_cast<std::uint8_t>(random());
      }
      CHECK(some == expected);
      m.load(lanes, plain, with_sign);
      for (int i = 0; i < 32; ++i) {
        CHECK(plain[i] == lanes[i]);
        CHECK(with_sign[i] == static_cast<std::int8_t>(lanes[i]));
      }
    }
  }
}

TEST_CASE("warp: states below 256 and states at home are seen in any lane") {
  for (const machine& m : machines()) {
    CAPTURE(m.name);
    lanes16 x;
    bool valid = false, home = false, liftable = false;
    for (int lane = 0; lane < 32; ++lane) x.set(lane, 256);
    m.states(x.bytes, valid, home, liftable);
    CHECK(valid);
    CHECK(home);
    CHECK(liftable);
    for (int lane = 0; lane < 32; ++lane)
      for (unsigned other : {0u, 255u, 257u, 512u, 1u, 65279u, 65280u, 65535u}) {
        x.set(lane, other);
        m.states(x.bytes, valid, home, liftable);
        CHECK(valid == (other >= 256));
        CHECK(liftable == (other < 65280));
        CHECK_FALSE(home);
        x.set(lane, 256);
      }
  }
}
