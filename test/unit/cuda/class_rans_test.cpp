// SPDX-License-Identifier: Apache-2.0
// The entropy stage of class_rans on the emulator, and the tables and the plan that it runs on.
#include <cuda_on_host.hpp>

#include <sluice/codec/any_codec.hpp>

#include <doctest/doctest.h>
#include <support/captures.hpp>
#include <support/cuda_class_rans_checks.hpp>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

namespace {

using namespace sluice;
namespace checks = class_rans_checks;

constexpr unsigned seed = 20251129;

// The symbol of a slot, where it begins and how many slots it has, from thresholds as the format says it.
struct place {
  int symbol, begin, slots;
};
place place_of_slot(const std::uint8_t* last, int count, int slot) {
  int symbol = 0;
  while (symbol < count && slot > last[symbol]) ++symbol;
  const int begin = symbol ? last[symbol - 1] + 1 : 0, end = symbol < count ? last[symbol] + 1 : 256;
  return {symbol, begin, end - begin};
}

}  // namespace

TEST_CASE("class_rans kernel: tables say what the thresholds say") {
  std::vector<std::byte> packed(cuda::class_tables_bytes);
  cuda::pack_class_tables(packed.data());
  const auto image = std::make_unique<cuda::class_tables_image>();
  std::memcpy(image.get(), packed.data(), packed.size());
  int wrong = 0;
  for (int c = 0; c < 256; ++c) {
    const detail::class_tables& t = detail::class_table[c];
    const cuda::class_lut& lut = image->base[c];
    for (int slot = 0; slot < 256; ++slot) {
      const place p = place_of_slot(t.base, 15, slot);
      const std::uint32_t w = lut.word[slot];
      const int value = p.symbol % 2 ? -(p.symbol + 1) / 2 : p.symbol / 2;
      wrong += (w & 255) != unsigned(p.slots - 1) || (w >> 8 & 255) != unsigned(slot - p.begin) ||
               std::int16_t(w >> 16) != value;
      for (int nonzero = 0; nonzero < 2; ++nonzero)
        for (int parent : {0, 1, -1, 300, -32768}) {
          if (nonzero != (parent != 0)) continue;
          const place d = place_of_slot(nonzero ? t.nonzero : t.zero, 2, slot);
          const cuda::ternary_row& row = image->ternary[nonzero][c];
          const auto h = cuda::find_digit(cuda::state_bias | 0xab00u | unsigned(slot), {row.cc, row.f});
          const int r = d.symbol == 0 ? 0 : (d.symbol == 1) == (parent >= 0) ? -1 : 1;
          wrong += (h.entry & 255) != unsigned(d.slots - 1) || (h.entry >> 8 & 255) != unsigned(slot - d.begin) ||
                   cuda::refined(parent, 3, h) != 3 * parent + r;
        }
    }
    for (int k = 0; k < 4; ++k) {
      const bool there = k < t.digits;
      wrong += lut.digit[k].factor != (there ? 3u : 1u) ||
               lut.digit[k].row != (there ? 8u * detail::class_at(std::uint8_t(c), k) : 0u);
    }
    CHECK(wrong == 0);
    CHECK((image->facts[c] & cuda::class_digits) == t.digits);
    CHECK(((image->facts[c] & cuda::class_alive) != 0) == detail::live(std::uint8_t(c), 0));
    if (!detail::live(std::uint8_t(c), 0)) CHECK(std::memcmp(&lut, &image->base[0], sizeof lut) == 0);
  }
  CHECK(image->ternary[0][0].cc == 0);
  CHECK(image->ternary[1][0].f == 255);
}

TEST_CASE("class_rans kernel: places of classes in a set") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 50; ++round) {
    cuda::class_set s{};
    std::vector<int> members;
    for (int c = 0; c < 256; ++c)
      if (random() % 100 < unsigned(2 * round)) {
        s.word[c / 32] |= 1u << c % 32;
        members.push_back(c);
      }
    for (int c = 0; c < 256; ++c) {
      const auto at = std::lower_bound(members.begin(), members.end(), c);
      CHECK(cuda::place_in(s, c) == at - members.begin());
      CHECK(cuda::has(s, c) == (at != members.end() && *at == c));
    }
  }
}

TEST_CASE("class_rans kernel: two blocks of threads fit a multiprocessor") {
  constexpr std::size_t h100 = 233472, a100 = 167936;
  static_assert(cuda::shape_class_rans(h100).slots >= 80 && cuda::shape_class_rans(a100).slots >= 50);
  for (std::size_t of_multiprocessor : {std::size_t{65536}, std::size_t{102400}, a100, h100, 10 * h100}) {
    const cuda::class_rans_shape s = cuda::shape_class_rans(of_multiprocessor);
    CHECK(s.slots >= 0);
    CHECK(s.slots <= cuda::most_slots);
    CHECK(s.shared ==
          std::size_t(cuda::class_rans_shape::luts_at(s.warps)) + std::size_t(s.slots) * sizeof(cuda::class_lut));
    CHECK(s.shared <= cuda::max_shared);
    CHECK((s.slots == 0 || 2 * (s.shared + cuda::reserved_shared) <= of_multiprocessor));
    CHECK((s.slots == cuda::most_slots ||
           2 * (s.shared + sizeof(cuda::class_lut) + cuda::reserved_shared) > of_multiprocessor));
  }
  CHECK(cuda::shape_class_rans(a100).shared <= cuda::max_shared_sm80);
  const cuda::class_rans_shape whole = cuda::shape_class_rans(a100);
  for (const auto& [work, warps] :
       {std::pair{1, 1}, {255, 1}, {256, 2}, {1024, 8}, {2047, 8}, {2048, 16}, {1 << 20, 16}}) {
    const cuda::class_rans_shape s = cuda::shape_for(whole, work);
    CHECK(s.warps == warps);
    CHECK(s.slots >= whole.slots);
    CHECK(s.shared == whole.shared);
    CHECK(std::size_t(cuda::class_rans_shape::luts_at(s.warps)) + std::size_t(s.slots) * sizeof(cuda::class_lut) <=
          s.shared);
  }
  CHECK(cuda::class_rans_parts(32) == 1);
  CHECK(cuda::class_rans_parts(256) == 1);
  CHECK(cuda::class_rans_parts(257) == 2);
  CHECK(cuda::class_rans_parts(16384) == 64);
}

TEST_CASE("class_rans kernel: every strand has its turn, those of a group together") {
  for (int groups : {1, 2, 7, 60})
    for (int strands : {1, 2, 14, 60, 420, 421}) {
      std::vector<int> turns(std::size_t(strands), 0);
      int changes = 0;
      for (int n = 0; n < strands; ++n) {
        const int s = cuda::strand_in_turn(n, strands, groups);
        REQUIRE((s >= 0 && s < strands));
        ++turns[std::size_t(s)];
        changes += n > 0 && s % groups != cuda::strand_in_turn(n - 1, strands, groups) % groups;
      }
      CHECK(std::count(turns.begin(), turns.end(), 1) == strands);
      if (strands % groups == 0) CHECK(changes == groups - 1);
    }
}

TEST_CASE("class_rans kernel: golden frames at every level") {
  checks::golden_frames(SLUICE_SOURCE_DIR "/test/golden/");
}

TEST_CASE("class_rans kernel: a real cache at every level, under its profile and without") {
  const captures::memory cache = captures::load(captures::sample);
  const profile profiles[] = {captures::known(), profile::uncalibrated(cache.shape)};
  for (const profile& p : profiles) {
    const auto encoder = make_encoder(preset_named("standard")->id, p);
    REQUIRE(encoder);
    checks::bytes frame(encoder->max_size(cache.view));
    const auto size = encoder->encode(cache.view, frame);
    REQUIRE(size.has_value());
    frame.resize(*size);
    checks::tiles all = checks::tiles_of(p, frame, true);
    REQUIRE(all.items.size() >= 2 * 30 * 4);
    std::erase_if(all.items, [](const checks::item& it) { return it.place.layer % 7 != 3; });
    CHECK(checks::check(all, {.offset = 5}) == 0);
  }
}

TEST_CASE("class_rans kernel: tiles of all shapes, any order of threads") {
  MESSAGE("seed ", seed);
  for (const auto how : {cuda_on_host::order::up, cuda_on_host::order::down, cuda_on_host::order::random}) {
    cuda_on_host::the_machine.how = how;
    checks::round_trips(seed + unsigned(how), 4, {.offset = unsigned(how) * 7});
    checks::round_trips(seed + 3 + unsigned(how), 4, {.offset = unsigned(how) * 7, .as_it_is = true});
  }
  cuda_on_host::the_machine.how = cuda_on_host::order::up;
}

TEST_CASE("class_rans kernel: the most tokens, and the widest head") {
  MESSAGE("seed ", seed);
  checks::extremes(seed, {});
}

TEST_CASE("class_rans kernel: what encoders hardly write") {
  MESSAGE("seed ", seed);
  checks::corners(seed, {.offset = 11});
}

TEST_CASE("class_rans kernel: classes without slots") {
  MESSAGE("seed ", seed);
  for (int slots : {0, 1, 7}) {
    CAPTURE(slots);
    checks::setting how;
    how.as_it_is = true;
    how.shape.slots = slots;
    how.shape.shared =
        std::size_t(cuda::class_rans_shape::luts_at(how.shape.warps)) + std::size_t(slots) * sizeof(cuda::class_lut);
    checks::round_trips(seed + 10 + unsigned(slots), 4, how);
  }
}

TEST_CASE("class_rans kernel: changed sections are refused where a host refuses") {
  MESSAGE("seed ", seed);
  checks::mutations(seed, 8, 500, {.offset = 3, .as_it_is = true});
}
