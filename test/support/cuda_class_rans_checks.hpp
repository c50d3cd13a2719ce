// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans.hpp>
#include <sluice/codec/quantize/embedded.hpp>
#include <sluice/cuda/entropy/class_rans.cuh>
#include <sluice/format/frame.hpp>
#include <sluice/model/profile.hpp>

#include <doctest/doctest.h>
#include <support/device.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <span>
#include <string>
#include <tuple>
#include <vector>

/// The entropy stage of class_rans on a GPU, or on the emulator, against the decoder of the CPU: the same integers, the
/// same refusals, and nothing written that is not the stage's.
namespace class_rans_checks {

using namespace sluice;
using bytes = std::vector<std::byte>;
using cuda::piece;

inline constexpr plane planes[] = {plane::key, plane::value};

/// What the kernel reads of a model, and no more. Without `described` a tile has to say all classes itself.
inline bytes image_of(const profile& p, bool described) {
  cuda::model_head head{};
  std::vector<cuda::group_model> groups;
  bytes classes;
  head.passes = head.depth = p.passes;
  head.layers = p.shape.num_layers();
  for (int l = 0; l < p.shape.num_layers(); ++l)
    for (const plane which : planes) {
      const plane_profile& q = p.of(l, which);
      for (int g = 0; g < q.groups(); ++g) {
        cuda::group_model m{};
        m.width = q.width_of(g);
        m.ld = detail::padded(m.width);
        m.classes_at = described && !q.classes.empty() ? 16 + classes.size() : 0;
        if (m.classes_at) {
          const std::size_t at = classes.size();
          classes.resize(at + std::size_t(m.ld + 15) / 16 * 16);
          std::memcpy(&classes[at], &q.classes[std::size_t(g) * std::size_t(q.group_width)], std::size_t(m.width));
        }
        head.max_width = std::max(head.max_width, m.ld);
        groups.push_back(m);
      }
    }
  const auto aligned = [](std::size_t n) { return (n + 15) / 16 * 16; };
  head.strands = std::int32_t(groups.size());
  head.groups_at = aligned(sizeof head);
  const std::size_t classes_at = aligned(head.groups_at + groups.size() * sizeof groups[0]);
  for (cuda::group_model& m : groups)
    if (m.classes_at) m.classes_at += classes_at - 16;
  head.class_tables_at = classes_at + aligned(classes.size());
  head.size = head.class_tables_at + cuda::class_tables_bytes;
  bytes image(head.size);
  std::memcpy(image.data(), &head, sizeof head);
  if (!groups.empty()) std::memcpy(&image[head.groups_at], groups.data(), groups.size() * sizeof groups[0]);
  if (!classes.empty()) std::memcpy(&image[classes_at], classes.data(), classes.size());
  cuda::pack_class_tables(&image[head.class_tables_at]);
  return image;
}

/// A tile whose sections lie somewhere in the bytes of a frame.
struct item {
  group_place place;
  int count = 0, exact = 0, level = 0;
  bool step = false;  ///< whether it has a step of its own
  piece entropy[max_passes];

  int rows() const { return count - exact; }
  sluice::tile tile(const bytes& frame) const {
    sluice::tile t;
    t.place = place;
    t.level = level;
    t.envelope.count = count;
    t.envelope.exact = exact;
    for (int p = 0; p < max_passes; ++p) {
      auto& to = (p ? t.refinements[p - 1] : t.envelope.base).bytes[int(section::entropy)];
      if (entropy[p].size) to = {reinterpret_cast<const std::uint8_t*>(&frame[entropy[p].at]), entropy[p].size};
    }
    return t;
  }
};

/// Some tiles of one model, and the bytes that they lie in.
struct tiles {
  const profile* p;
  bool described = true;  ///< whether the codec's transform lets a profile describe coefficients
  bytes frame = bytes(16, std::byte{0x5a});
  std::vector<item> items{};

  piece append(std::span<const std::uint8_t> section) {
    const piece at{frame.size(), std::uint32_t(section.size())};
    const auto* b = reinterpret_cast<const std::byte*>(section.data());
    frame.insert(frame.end(), b, b + section.size());
    return section.empty() ? piece{} : at;
  }
};

/// All tiles of a frame at every level that it has of them.
inline tiles tiles_of(const profile& p, const bytes& frame, bool described) {
  tiles all{&p, described, frame, {}};
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  const auto* start = reinterpret_cast<const std::uint8_t*>(all.frame.data());
  const auto place = [start](std::span<const std::uint8_t> s) {
    return s.empty() ? piece{} : piece{std::uint64_t(s.data() - start), std::uint32_t(s.size())};
  };
  for (int k = 0; k < index.token_tiles(); ++k)
    for (int l = 0; l < p.shape.num_layers(); ++l)
      for (const plane which : planes)
        for (int g = 0; g < p.of(l, which).groups(); ++g) {
          const tile_key key{l, which, k, g};
          item it;
          it.place = place_of(p.shape, p.of(l, which).group_width, l, which, g);
          const int levels = index.levels_of(index.ordinal(0, key));
          for (int pass = 0; pass < levels; ++pass) {
            const auto b = tile_bytes(index, all.frame, index.ordinal(pass, key));
            REQUIRE(b.has_value());
            tile_envelope e;
            tile_sections s;
            if (pass) {
              REQUIRE(parse_refinement(*b, s) == status::ok);
            } else {
              if (b->empty()) break;
              REQUIRE(parse_tile(*b, index.tokens_of(k), index.row_bytes(key), e) == status::ok);
              s = e.base;
              it.count = e.count;
              it.exact = e.exact;
              it.step = !s[section::quantizer].empty();
            }
            it.entropy[pass] = place(s[section::entropy]);
            it.level = pass;
            all.items.push_back(it);
          }
        }
  return all;
}

/// What became of a tile.
struct outcome {
  status state = status::ok;
  int live = 0, written = 0;         ///< columns: those not all zero, those that the coder wrote
  std::vector<std::int16_t> values;  ///< [rows][ld]
  std::vector<detail::coefficient_correction> corrections;
};

inline outcome on_host(const tiles& all, const item& it, class_rans::decoder& decoder) {
  outcome o;
  const sluice::tile t = it.tile(all.frame);
  const plane_profile& q = all.p->of(it.place.layer, it.place.plane);
  decoded_symbols s;
  s.tile = &t;
  s.calibrated = all.described && !q.classes.empty() && !it.step;
  s.passes = all.p->passes;
  s.ld = detail::padded(it.place.width());
  s.live = it.place.width();
  o.values.assign(std::size_t(it.rows()) * std::size_t(s.ld), 0);
  s.values = o.values.data();
  if (it.rows() == 0) {
    for (int pass = 0; pass <= it.level; ++pass)
      if (it.entropy[pass].size) s.state = status::corrupt_tile;
  } else {
    decoder.decode({&s, 1});
  }
  o.state = s.state;
  o.live = s.live;
  o.corrections = s.corrections;
  return o;
}

/// How the kernel is run besides the tiles.
struct setting {
  cuda::class_rans_shape shape = cuda::shape_class_rans(233472);
  std::size_t offset = 0;  ///< of the frame from an address that is aligned
  bool as_it_is = false;   ///< whether blocks of threads are of this very shape
};

inline std::vector<outcome> on_device(const tiles& all, const setting& how) {
  const bytes image = image_of(*all.p, all.described);
  cuda::model_head head;
  std::memcpy(&head, image.data(), sizeof head);
  std::vector<cuda::strand> strands;
  std::uint64_t at = 64;
  const detail::per_group<int> groups(*all.p, [](const plane_profile&, int) { return 0; });
  for (const item& it : all.items) {
    cuda::strand s{};
    s.count = std::uint16_t(it.count);
    s.exact = std::uint16_t(it.exact);
    s.level = it.level;
    s.group = std::int32_t(groups.index(it.place));
    s.live = -1;
    if (it.step) s.quantizer = {0, 4};
    std::copy(std::begin(it.entropy), std::end(it.entropy), std::begin(s.entropy));
    for (piece& e : s.exceptions) e = {~std::uint64_t{0}, 77};
    s.values_at = at;
    at += 64 + std::uint64_t(it.rows()) * std::uint64_t(detail::padded(it.place.width())) * 2;
    strands.push_back(s);
  }
  device_buffer<std::byte> image_there(image), workspace(at), frame_there(all.frame.size() + how.offset);
  frame_there.upload(all.frame, how.offset);
  cuda::open_request request{};
  request.asked.frame = frame_there.data() + how.offset;
  request.asked.size = all.frame.size();
  device_buffer<cuda::open_request> requests(std::vector<cuda::open_request>{request});
  device_buffer<cuda::strand> strands_there(strands);
  const cuda::decode_state d{
      image_there.data(), workspace.data(), requests.data(), strands_there.data(), 1, std::int32_t(strands.size()), 0};
  REQUIRE(cuda::allow_class_rans(how.shape) == status::ok);
  const int parts = cuda::class_rans_parts(head.max_width);
  if (how.as_it_is)
    REQUIRE(cuda::launch_class_rans(d, parts, how.shape, nullptr) == status::ok);
  else
    REQUIRE(cuda::decode_class_rans(d, parts, how.shape, nullptr) == status::ok);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  strands = strands_there.download();
  const bytes after = workspace.download();

  std::vector<outcome> results;
  for (std::size_t i = 0; i < strands.size(); ++i) {
    const cuda::strand& s = strands[i];
    const item& it = all.items[i];
    outcome o;
    o.state = s.state;
    o.live = s.live;
    const int ld = detail::padded(it.place.width());
    o.values.resize(std::size_t(it.rows()) * std::size_t(ld));
    if (!o.values.empty()) std::memcpy(o.values.data(), &after[s.values_at], 2 * o.values.size());
    const std::size_t begin = s.values_at - 64, end = s.values_at + 2 * o.values.size();
    bool beside = false;
    for (std::size_t k = begin; k < begin + 64; ++k) beside |= after[k] != std::byte{0x7f};
    for (std::size_t k = end; k < std::min(end + 64, after.size()); ++k) beside |= after[k] != std::byte{0x7f};
    CHECK_FALSE(beside);
    for (int pass = 0; s.state == status::ok && pass < max_passes; ++pass) {
      const piece& e = s.exceptions[pass];
      if (pass > it.level) CHECK(e.size == 0);
      REQUIRE(e.size % sizeof(exception) == 0);
      REQUIRE((e.size == 0 || (e.at < all.frame.size() && e.size <= all.frame.size() - e.at)));
      for (std::uint32_t k = 0; k < e.size; k += sizeof(exception)) {
        exception x;
        std::memcpy(&x, &all.frame[e.at + k], sizeof x);
        o.corrections.push_back(
            {x.row, x.coefficient, float(x.correction) * float(detail::power_of_3(it.level - pass))});
      }
    }
    results.push_back(std::move(o));
  }
  return results;
}

/// How many were refused.
inline int check(const tiles& all, const setting& how = {}) {
  class_rans::decoder decoder(*all.p, isa::best);
  const std::vector<outcome> got = on_device(all, how);
  int refused = 0, wrong_states = 0, wrong_values = 0, wrong_live = 0, wrong_corrections = 0, wrong_beyond = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const item& it = all.items[i];
    const outcome wanted = on_host(all, it, decoder);
    wrong_states += got[i].state != wanted.state;
    refused += wanted.state != status::ok;
    if (wanted.state != status::ok || got[i].state != status::ok) continue;
    if (it.rows() > 0) wrong_live += got[i].live != wanted.live;
    const int ld = detail::padded(it.place.width()), written = detail::padded(wanted.live);
    bool values = true, beyond = true;
    for (int r = 0; r < it.rows(); ++r)
      for (int c = 0; c < ld; ++c) {
        const auto at = std::size_t(r) * std::size_t(ld) + std::size_t(c);
        values &= c >= written || got[i].values[at] == wanted.values[at];
        beyond &= c < written || (got[i].values[at] == 0x7f7f && wanted.values[at] == 0);
      }
    wrong_values += !values;
    wrong_beyond += !beyond;
    const auto key = [](const detail::coefficient_correction& c) { return std::tuple(c.row, c.coefficient, c.value); };
    wrong_corrections +=
        !std::equal(got[i].corrections.begin(), got[i].corrections.end(), wanted.corrections.begin(),
                    wanted.corrections.end(), [&](const auto& a, const auto& b) { return key(a) == key(b); });
  }
  CHECK(wrong_states == 0);
  CHECK(wrong_values == 0);
  CHECK(wrong_live == 0);
  CHECK(wrong_corrections == 0);
  CHECK(wrong_beyond == 0);
  return refused;
}

inline bytes read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE_MESSAGE(in.good(), path);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto* p = reinterpret_cast<const std::byte*>(text.data());
  return {p, p + text.size()};
}

/// The frames of released versions that class_rans codes.
inline void golden_frames(const std::string& folder) {
  constexpr const char* frames[][2] = {{"standard", "small"},       {"standard_cut", "small"},
                                       {"standard_later", "small"}, {"standard_truncated", "small"},
                                       {"uncalibrated", "plain"},   {"smollm2", "smollm2"},
                                       {"hybrid", "hybrid"}};
  for (const auto& names : frames) {
    const std::string frame = names[0], model = names[1];
    CAPTURE(frame);
    const result<profile> p = profile::parse(read(folder + model + ".profile"));
    REQUIRE(p.has_value());
    const tiles all = tiles_of(*p, read(folder + frame + ".slc"), true);
    CHECK(!all.items.empty());
    CHECK(check(all) == 0);
  }
}

/// A made-up model of one layer: K of one width in one group, V of another in groups of its own.
inline profile made_up(std::mt19937& random, int passes, int width_k, int width_v, bool calibrated) {
  profile p = profile::uncalibrated(model_shape{{{1, width_k, width_v}}, {}}, passes, 0);
  const bool tidy = random() % 2;  // classes that fall, so that coarse passes code fewer blocks
  for (plane_profile& q : p.planes)
    for (int i = 0; calibrated && i < q.width; ++i)
      q.classes.push_back(std::uint8_t(
          !tidy && random() % 5 == 0 ? random() : random() % 4 * 64 + unsigned(std::max(0, 40 - 48 * i / q.width))));
  return p;
}

/// Numbers of about the size that classes say, or of another where `tuned` is false.
inline symbols numbers(std::mt19937& random, const profile& p, plane which, int rows, int made, bool tuned) {
  symbols s;
  const plane_profile& q = p.of(0, which);
  s.place = place_of(p.shape, q.group_width, 0, which, 0);
  s.rows = rows;
  s.width = s.place.width();
  s.ld = detail::padded(s.width);
  s.passes = p.passes;
  s.made = made;
  s.calibrated = !q.classes.empty();
  s.finest.assign(std::size_t(rows) * std::size_t(s.ld), 0);
  std::normal_distribution<double> normal;
  for (int c = 0; c < s.width; ++c) {
    const double w =
        q.classes.empty() ? double(random() % 50) : double(q.classes[std::size_t(c)] % 64) + (tuned ? 0 : 5);
    const double sigma = w == 0 ? 0 : std::exp2((w - 16) / 4);
    for (int r = 0; r < rows; ++r) {
      const double x = normal(random) * sigma * (random() % 512 == 0 ? 40 : 1);
      s.finest[std::size_t(r) * std::size_t(s.ld) + std::size_t(c)] = std::int16_t(std::clamp(x, -32000.0, 32000.0));
    }
  }
  embedded<max_passes - 1>::encoder(isa::best).split(s);
  return s;
}

/// Its sections, one item a level; false where the encoder keeps such a tile exact.
inline bool add(tiles& all, std::mt19937& random, symbols s) {
  class_rans::encoder encoder(*all.p, isa::best);
  tile_writer w;
  const int made = s.made, rows = s.rows;
  if (encoder.encode(s, w) != status::ok) return false;
  item it;
  it.place = s.place;
  it.exact = int(random() % 3);
  it.count = rows + it.exact;
  it.step = !s.calibrated && all.described && random() % 2;
  for (int pass = 0; pass < made; ++pass) {
    all.frame.resize(all.frame.size() + random() % 20, std::byte{0xa5});
    if (rows > 0) it.entropy[pass] = all.append(w.at(pass, section::entropy));  // else nobody asks the encoder
    it.level = pass;
    all.items.push_back(it);
  }
  return true;
}

/// Tiles of all shapes: depths, widths, classes of the profile, moved and of the tile's own.
inline void round_trips(unsigned seed, int rounds, const setting& how) {
  std::mt19937 random(seed);
  constexpr int widths[] = {1, 32, 33, 64, 100, 192, 256, 257, 384, 512, 1024, 1100};
  int tiles_made = 0;
  for (int round = 0; round < rounds; ++round) {
    const int passes = 1 + int(random() % max_passes);
    const profile p = made_up(random, passes, widths[random() % 12], widths[random() % 9], random() % 4 != 0);
    tiles all{&p};
    for (int i = 0; i < 8; ++i) {
      const plane which = planes[random() % 2];
      const int rows = random() % 4 ? int(1 + random() % 24) : int(random() % 3);
      symbols s = numbers(random, p, which, rows, 1 + int(random() % unsigned(passes)), random() % 2);
      if (random() % 8 == 0) s.calibrated = false;
      tiles_made += add(all, random, std::move(s));
    }
    CAPTURE(round);
    const int refused = check(all, how);
    CHECK(refused == 0);
  }
  CHECK(tiles_made > 4 * rounds);
}

/// The values that cost most under the classes of a profile, which takes the most bytes a row can.
inline symbols expensive(std::mt19937& random, const profile& p, plane which, int rows) {
  symbols s = numbers(random, p, which, rows, p.passes, true);
  const plane_profile& q = p.of(0, which);
  for (int c = 0; c < s.width; ++c) {
    const std::uint8_t cls = q.classes[std::size_t(c)];
    const int back = p.passes - 1, limit = detail::clip_limit(cls, back);
    std::vector<int> dearest;
    float most = 0;
    for (int base = -limit; base <= limit; ++base)
      for (int r = back ? -1 : 0; r <= (back ? 1 : 0); ++r) {
        const float bits = detail::bits_base(cls, back, base) + (back ? detail::bits_ternary(cls, 0, base, r) : 0);
        if (bits < most || bits >= detail::exception_bits) continue;
        if (bits > most) dearest.clear();
        most = bits;
        dearest.push_back(back ? 3 * base + r : base);
      }
    for (int row = 0; row < rows; ++row)
      s.finest[std::size_t(row) * std::size_t(s.ld) + std::size_t(c)] =
          std::int16_t(dearest.empty() ? 0 : dearest[random() % dearest.size()]);
  }
  embedded<max_passes - 1>::encoder(isa::best).split(s);
  return s;
}

/// The longest tile and the widest head that there can be.
inline void extremes(unsigned seed, const setting& how) {
  std::mt19937 random(seed);
  for (const auto& [rows, width] : {std::pair{4096, 32}, {2, 16384}, {3, 1024}}) {
    const profile p = made_up(random, 3, width, 20, true);
    tiles all{&p};
    CHECK(add(all, random, numbers(random, p, plane::key, rows, 3, true)));
    CHECK(check(all, how) == 0);
  }
  // Wider than what deltas are for: the classes stay.
  for (int passes : {1, 2}) {
    profile p = made_up(random, passes, 1280, 20, false);
    for (plane_profile& q : p.planes)
      for (int i = 0; i < q.width; ++i)
        q.classes.push_back(std::uint8_t(random() % 4 * 64 + (passes == 2 ? 2
                                                              : i < 640   ? 44 + random() % 20
                                                                          : 16 + random() % 48)));
    tiles all{&p};
    CHECK(add(all, random, expensive(random, p, plane::key, 24)));
    CHECK(all.items.back().entropy[passes - 1].size > 24 * 5 * (passes == 1 ? 256 : 100));
    CHECK(check(all, how) == 0);
  }
}

/// What encoders do not write, or hardly ever, and decoders have to judge: exceptions at the edges, sizes of parts, codes
/// that go on where there is none.
inline void corners(unsigned seed, const setting& how) {
  std::mt19937 random(seed);
  const int rows = 3;
  int accepted = 0, refused = 0;
  for (int width : {40, 300, 600}) {
    const profile p = made_up(random, 3, width, 20, false);
    tiles sound{&p}, all{&p};
    REQUIRE(add(sound, random, numbers(random, p, plane::key, rows, 3, true)));
    const item whole = sound.items.back();
    const auto section_of = [&](int pass) {
      const auto* from = reinterpret_cast<const std::uint8_t*>(sound.frame.data()) + whole.entropy[pass].at;
      return std::vector<std::uint8_t>(from, from + whole.entropy[pass].size);
    };
    const auto changed = [&](int pass, const std::vector<std::uint8_t>& s) {
      all.frame.resize(all.frame.size() + random() % 5);
      item it = whole;
      for (int i = 0; i < 3; ++i) it.entropy[i] = all.append(i == pass ? s : section_of(i));
      all.items.push_back(it);
    };
    for (int pass = 0; pass < 3; ++pass) {
      class_section c;
      const std::vector<std::uint8_t> before = section_of(pass);
      REQUIRE(c.parse(before, pass, rows, width));
      for (const exception& e : {exception{0, 0, 5}, exception{rows - 1, std::uint16_t(width - 1), -70000},
                                 exception{rows, 0, 1}, exception{0, std::uint16_t(width), 1}}) {
        class_section with = c;
        std::vector<std::uint8_t> out;
        with.exceptions = {reinterpret_cast<const std::uint8_t*>(&e), sizeof e};
        with.write(out);
        changed(pass, out);
      }
      // The sizes of the parts stand in front of the code: one more byte behind the last, or one moved to it.
      std::vector<std::uint8_t> longer(before);
      longer.push_back(0);
      changed(pass, longer);
      if (width > 256) {
        std::vector<std::uint8_t> moved(before);
        const std::size_t sizes = std::size_t(c.code.data() - before.data());
        --moved[sizes];
        ++moved[sizes + 4];
        changed(pass, moved);
        moved[sizes + 7] = 0xff;
        changed(pass, moved);
      }
    }
    const int no = check(all, how);
    refused += no;
    accepted += int(all.items.size()) - no;
  }
  CHECK(accepted >= 3 * 3 * 2);
  CHECK(refused >= 3 * 3 * 3);

  // A base pass that codes nothing and still goes on, of a tile and of one of its parts.
  for (int alive : {0, 8}) {
    profile p = made_up(random, 2, 320, 20, false);
    for (plane_profile& q : p.planes)
      for (int i = 0; i < q.width; ++i) q.classes.push_back(std::uint8_t(i < 32 * alive ? 30 : 10));
    REQUIRE(detail::live(10, 0));
    REQUIRE(!detail::live(10, 1));
    tiles all{&p};
    symbols s = numbers(random, p, plane::key, rows, 2, true);
    REQUIRE(add(all, random, std::move(s)));
    if (alive == 0) {
      std::vector<std::uint8_t> base;
      if (all.items[1].entropy[0].size) {
        const auto* from = reinterpret_cast<const std::uint8_t*>(all.frame.data()) + all.items[1].entropy[0].at;
        base.assign(from, from + all.items[1].entropy[0].size);
        base[0] |= class_section::with_next;
      } else {
        base = {class_section::with_next};
      }
      all.items[0].entropy[0] = all.items[1].entropy[0] = all.append(base);
    }
    CHECK(check(all, how) == 0);
  }
}

/// Sections that somebody has changed: refused where a host refuses, else the same integers.
inline void mutations(unsigned seed, int rounds, int count, const setting& how) {
  std::mt19937 random(seed);
  int refused = 0, made = 0;
  for (int round = 0; round < rounds; ++round) {
    const int passes = 1 + int(random() % 4);
    const int width = random() % 4 == 0 ? 300 : int(1 + random() % 70);
    const profile p = made_up(random, passes, width, 40, random() % 3 != 0);
    tiles sound{&p}, all{&p};
    while (sound.items.size() < 24)
      add(sound, random, numbers(random, p, planes[random() % 2], 1 + int(random() % 5), passes, random() % 2));
    while (int(all.items.size()) < count) {
      item it = sound.items[random() % sound.items.size()];
      for (int pass = 0; pass <= it.level; ++pass) {
        const auto* from = reinterpret_cast<const std::uint8_t*>(sound.frame.data()) + it.entropy[pass].at;
        std::vector<std::uint8_t> s(from, from + it.entropy[pass].size);
        if (random() % unsigned(it.level + 1) == 0 || pass == it.level) {
          const auto place = [&] {
            return s.empty() ? 0
                             : (random() % 3 ? random() % std::min<std::size_t>(s.size(), 40) : random() % s.size());
          };
          switch (random() % 8) {
            case 0:
              if (!s.empty()) s[place()] ^= std::uint8_t(1u << random() % 8);
              break;
            case 1:
              if (!s.empty()) s[0] ^= std::uint8_t(1u << random() % 4);
              break;
            case 2:
              if (!s.empty()) s.resize(random() % s.size());
              break;
            case 3: s.push_back(std::uint8_t(random())); break;
            case 4:
              if (!s.empty()) s[place()] = std::uint8_t(random());
              break;
            case 5:
              if (!s.empty()) s.erase(s.begin() + std::ptrdiff_t(place()));
              break;
            case 6: s.insert(s.begin() + std::ptrdiff_t(place()), std::uint8_t(random())); break;
            default:
              if (random() % 2) s.clear();
              break;
          }
        }
        all.frame.resize(all.frame.size() + random() % 3, std::byte{0});
        it.entropy[pass] = all.append(s);
      }
      if (random() % 16 == 0) it.step = !it.step;
      if (random() % 16 == 0) it.count += int(random() % 3) - 1;
      if (it.rows() < 0) it.count = it.exact;
      all.items.push_back(it);
    }
    CAPTURE(round);
    refused += check(all, how);
    made += int(all.items.size());
  }
  CHECK(refused > made / 4);
  CHECK(refused < made - made / 20);
}

}  // namespace class_rans_checks
