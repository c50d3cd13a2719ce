// SPDX-License-Identifier: Apache-2.0
// Saved states of llama.cpp (examples/llama_cpp), written here as llama.cpp writes them, of a real cache.
#include <../examples/llama_cpp/slot.hpp>

#include <doctest/doctest.h>
#include <support/captures.hpp>
#include <support/llama_states.hpp>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using llama_states::cell;
using llama_states::form;
using bytes = std::vector<std::byte>;

const captures::memory& sample() {
  static const captures::memory m = captures::load(captures::sample);
  return m;
}
const profile& known() {
  static const profile p = profile::load(captures::sample_profile).value();
  return p;
}

std::vector<cell> run(std::int64_t tokens, std::vector<std::int32_t> sequences = {0}, std::int32_t position = 0) {
  std::vector<cell> cells;
  for (std::int64_t t = 0; t < tokens; ++t) cells.push_back({position + std::int32_t(t), sequences, position + t});
  return cells;
}
std::vector<int> all_layers() {
  std::vector<int> l;
  for (int i = 0; i < 30; ++i) l.push_back(i);
  return l;
}
form plain(std::int64_t tokens = 256) {
  form f;
  f.streams = {run(tokens)};
  f.layers = {all_layers()};
  return f;
}

// Root of the mean squared difference of rows of K and V, relative to what they are.
double distance(const bytes& a, const bytes& b) {
  const auto s = slot::parse(a), t = slot::parse(b);
  REQUIRE((s && t));
  double sum = 0, all = 0;
  for (std::size_t p = 0; p < s->parts.size(); ++p)
    for (const auto* planes : {&s->parts[p].k, &s->parts[p].v})
      for (const slot::rows& r : *planes) {
        const std::size_t size = std::size_t(r.row) * s->parts[p].positions.size();
        const auto one = [&](const bytes& x, std::size_t i) {
          return load_element(x.data() + r.at + i, slot::detail::float_type(r.type));
        };
        for (std::size_t i = 0; i < size && slot::detail::is_float(r.type);
             i += std::size_t(slot::block_of(r.type).bytes)) {
          const double x = double(one(a, i)), d = x - double(one(b, i));
          sum += d * d, all += x * x;
        }
        std::vector<float> x(32), y(32);
        for (std::size_t i = 0; i < size && r.type == slot::type_q8_0; i += 34) {
          slot::detail::load_q8_0(a.data() + r.at + i, x.data(), 32);
          slot::detail::load_q8_0(b.data() + r.at + i, y.data(), 32);
          for (int j = 0; j < 32; ++j) {
            const double d = double(x[std::size_t(j)]) - double(y[std::size_t(j)]);
            sum += d * d, all += double(x[std::size_t(j)]) * double(x[std::size_t(j)]);
          }
        }
      }
  return std::sqrt(sum / all);
}

// The bytes that are no rows.
bytes skeleton(const bytes& b) {
  const auto s = slot::parse(b);
  REQUIRE(s.has_value());
  bytes out;
  slot::detail::each_piece(*s, [&](std::uint64_t at, std::uint64_t n) {
    out.insert(out.end(), b.begin() + std::ptrdiff_t(at), b.begin() + std::ptrdiff_t(at + n));
  });
  return out;
}

}  // namespace

TEST_CASE("slot: all that llama.cpp writes comes back bit for bit") {
  std::vector<form> forms;
  for (const auto kind : {form::slot, form::session, form::sequence_bytes, form::context_bytes})
    for (const bool turns : {true, false}) {
      form f = plain(40);
      f.kind = kind, f.turns = turns, f.version = turns ? 4 : 3;
      forms.push_back(f);
    }
  for (const std::int32_t type : {slot::type_f32, slot::type_bf16, slot::type_q8_0, 2}) {
    form f = plain(33);
    f.type = type, f.turn = type == slot::type_q8_0 ? 64 : 0;
    forms.push_back(f);
    if (type == slot::type_f32 || type == slot::type_bf16) f.v_trans = true, forms.push_back(f);
  }
  form f = plain(70);  // two sequences that share a beginning, in one stream; an empty stream; no V; places in an image
  f.kind = form::session;
  f.streams = {run(20, {0, 1}), {}};
  for (const cell& c : run(30, {1}, 20)) f.streams[0].push_back(c);
  for (const cell& c : run(25, {0}, 20)) f.streams[0].push_back(c);
  std::shuffle(f.streams[0].begin(), f.streams[0].end(), std::mt19937(7));
  forms.push_back(f);
  f.streams = {run(30), run(20, {1})};
  forms.push_back(f);
  f = plain(40), f.values = false, forms.push_back(f);
  f = plain(40), f.cell_extra = 8, forms.push_back(f);
  f = plain(40), f.cell_extra = 12, f.v_trans = true, forms.push_back(f);
  f = plain(40), f.recurrent_layers = 6, forms.push_back(f);  // a hybrid
  f = plain(40), f.layers = {{5, 11}, {0, 1, 2, 3, 4}}, forms.push_back(f);
  f = plain(0), forms.push_back(f);  // no cells

  for (std::size_t i = 0; i < forms.size(); ++i) {
    CAPTURE(i);
    const bytes state = llama_states::write(forms[i], sample().view);
    const auto parsed = slot::parse(state);
    REQUIRE(parsed.has_value());
    CHECK(parsed->size == state.size());
    CHECK(parsed->how.values == (forms[i].values || parsed->parts.empty()));
    for (const int threads : {1, 3}) {
      slot::options o;
      o.lossless = true, o.threads = threads;
      const auto packed = slot::pack(state, nullptr, o);
      REQUIRE(packed.has_value());
      if (forms[i].type == slot::type_f16 && !parsed->parts.empty())
        CHECK(double(packed->size()) < 0.95 * double(state.size()));
      const auto back = slot::unpack(*packed, nullptr, o);
      REQUIRE(back.has_value());
      CHECK(*back == state);
    }
  }
}

TEST_CASE("slot: level 1 is a ninth, and the same whatever the layout") {
  double errors[2] = {};
  for (const bool interleaved : {false, true}) {
    rope turned = sample().shape.ropes[0];
    turned.pairing = interleaved ? rope_pairing::interleaved : rope_pairing::half;
    const captures::memory cache = captures::rotated(sample(), {turned});
    for (const bool trans : {false, true}) {
      form f = plain();
      f.v_trans = trans;
      const bytes state = llama_states::write(f, cache.view);
      const auto packed = slot::pack(state, &known());  // finds the order of pairs
      REQUIRE(packed.has_value());
      CHECK(double(state.size()) / double(packed->size()) > 8.2);
      slot::options o;
      o.threads = 2, o.pairs = turned.pairing;
      CHECK(*slot::pack(state, &known(), o) == *packed);
      const auto header = slot::read_header(*packed);
      REQUIRE(header.has_value());
      CHECK(header->pairs == turned.pairing);
      const auto back = slot::unpack(*packed, &known(), o);
      REQUIRE(back.has_value());
      CHECK(skeleton(*back) == skeleton(state));
      const double e = distance(state, *back);
      CHECK(e < 0.25);
      if (!trans) errors[interleaved] = e;
      CHECK(e == doctest::Approx(errors[interleaved]).epsilon(1e-3));
    }
  }
  CHECK(errors[1] == doctest::Approx(errors[0]).epsilon(0.02));
}

TEST_CASE("slot: finer levels are larger and nearer, without calibration too") {
  const bytes state = llama_states::write(plain(), sample().view);
  const profile bare = profile::uncalibrated(known().shape);
  for (const profile* p : {&known(), &bare}) {
    double before = 1;
    std::size_t size = 0;
    for (int level = 0; level < 4; ++level) {
      slot::options o;
      o.level = level;
      const auto packed = slot::pack(state, p, o);
      REQUIRE(packed.has_value());
      const auto back = slot::unpack(*packed, p == &bare ? nullptr : p);  // an uncalibrated profile travels with it
      REQUIRE(back.has_value());
      const double e = distance(state, *back);
      CHECK(e < before);
      CHECK(packed->size() > size);
      before = e, size = packed->size();
    }
  }
}

TEST_CASE("slot: q8_0, turned or not, said or not") {
  for (const int turn : {0, 64})
    for (const bool said : {true, false}) {
      CAPTURE(turn);
      CAPTURE(said);
      form f = plain();
      f.type = slot::type_q8_0, f.turn = turn, f.turns = said, f.version = said ? 4 : 3;
      const bytes state = llama_states::write(f, sample().view);
      const auto packed = slot::pack(state, &known());
      REQUIRE(packed.has_value());
      CHECK(double(state.size()) / double(packed->size()) > 4.2);
      if (!said) CHECK(slot::read_header(*packed)->turned == (turn != 0));
      const auto back = slot::unpack(*packed, &known());
      REQUIRE(back.has_value());
      CHECK(skeleton(*back) == skeleton(state));
      CHECK(distance(state, *back) < 0.25);
    }
}

TEST_CASE("slot: several sequences are found by position, windows by layer") {
  form f = plain();
  f.kind = form::session;
  f.streams = {run(100, {0, 1})};
  for (const cell& c : run(156, {1}, 100)) f.streams[0].push_back(c);
  for (const cell& c : run(80, {0}, 100)) f.streams[0].push_back(c);
  std::shuffle(f.streams[0].begin(), f.streams[0].end(), std::mt19937(11));
  bytes state = llama_states::write(f, sample().view);
  auto packed = slot::pack(state, &known());
  REQUIRE(packed.has_value());
  CHECK(double(state.size()) / double(packed->size()) > 7.5);
  auto back = slot::unpack(*packed, &known());
  REQUIRE(back.has_value());
  CHECK(distance(state, *back) < 0.25);

  profile windows = known();
  f = plain();
  f.layers = {{}, {}};
  for (int l = 0; l < 30; ++l) {
    const bool sliding = l % 6 != 5;
    windows.shape.layers[std::size_t(l)].window = sliding ? 100 : 0;
    f.layers[sliding].push_back(l);
  }
  state = llama_states::write(f, sample().view);
  packed = slot::pack(state, &windows);
  REQUIRE(packed.has_value());
  CHECK(double(state.size()) / double(packed->size()) > 7.5);
  back = slot::unpack(*packed, &windows);
  REQUIRE(back.has_value());
  CHECK(distance(state, *back) < 0.25);
  CHECK(slot::pack(state, &known()).status() == status::wrong_shape);
}

TEST_CASE("slot: types that no codec with loss takes are kept") {
  form f = plain(40);
  f.type = 2;
  const bytes state = llama_states::write(f, sample().view);
  const auto packed = slot::pack(state, &known());
  REQUIRE(packed.has_value());
  CHECK(*slot::unpack(*packed, nullptr) == state);
}

TEST_CASE("slot: what does not fit is refused") {
  const bytes state = llama_states::write(plain(), sample().view);
  CHECK(slot::pack(state, nullptr).status() == status::invalid_argument);
  profile other = profile::uncalibrated(model_shape::uniform(30, 4, 64));
  CHECK(slot::pack(state, &other).status() == status::wrong_shape);
  rope turned = sample().shape.ropes[0];
  turned.base *= 10;
  const captures::memory elsewhere = captures::rotated(sample(), {turned});
  const bytes wrong = llama_states::write(plain(), elsewhere.view);
  CHECK(slot::pack(wrong, &known()).status() == status::profile_does_not_fit);

  // Only the profile that it was packed with opens it.
  const auto packed = slot::pack(state, &known());
  REQUIRE(packed.has_value());
  profile changed = known();
  changed.of(3, plane::key).mean[5] ^= 1;
  CHECK(slot::unpack(*packed, &changed).status() == status::wrong_profile);
  CHECK(slot::unpack(*packed, nullptr).status() == status::wrong_profile);
  CHECK(slot::unpack(*packed, &*with_pairs(known(), rope_pairing::interleaved)).has_value());
}

TEST_CASE("slot: bad states have a name, wherever they end") {
  form f = plain(6);
  f.layers = {{0, 7}};
  for (const bool trans : {false, true}) {
    f.v_trans = trans;
    const bytes state = llama_states::write(f, sample().view);
    REQUIRE(slot::parse(state).has_value());
    for (std::size_t n = 0; n < state.size(); n += n < 400 ? 1 : 97) {
      CAPTURE(n);
      const auto s = slot::parse(std::span(state).first(n));
      REQUIRE_FALSE(s.has_value());
      CHECK((s.status() == status::truncated || s.status() == status::parse_error));
      if (n >= 16 && n < 400) CHECK(s.status() == status::truncated);
    }
    // Every word of the head in turn becomes a hostile one.
    const auto hostile = {0u, 1u, 0x7fffffffu, 0xffffffffu, 0x80000000u, 0x00010000u};
    for (std::size_t at = 0; at + 4 <= 400; at += 4)
      for (const std::uint32_t x : hostile) {
        bytes bad = state;
        std::memcpy(bad.data() + at, &x, 4);
        const auto s = slot::parse(bad);
        if (!s) continue;
        slot::options o;
        o.lossless = true;
        const auto packed = slot::pack(bad, nullptr, o);
        REQUIRE(packed.has_value());
        CHECK(*slot::unpack(*packed, nullptr) == bad);
      }
  }
  bytes state = llama_states::write(f, sample().view);
  const std::uint32_t version = 7;
  std::memcpy(state.data() + 4, &version, 4);
  CHECK(slot::parse(state).status() == status::wrong_version);
}

TEST_CASE("slot: damage to a packed state is found") {
  const bytes state = llama_states::write(plain(24), sample().view);
  slot::options o;
  o.lossless = true;
  for (const bool lossless : {true, false}) {
    o.lossless = lossless;
    const bytes packed = slot::pack(state, &known(), o).value();
    std::mt19937 random(3);
    for (int i = 0; i < 200; ++i) {
      bytes bad = packed;
      bad[random() % bad.size()] ^= std::byte(1 + random() % 255);
      CHECK_FALSE(slot::unpack(bad, &known()).has_value());
      CHECK_FALSE(slot::unpack(std::span(packed).first(random() % packed.size()), &known()).has_value());
    }
    bytes longer = packed;
    longer.push_back(std::byte{0});
    CHECK_FALSE(slot::unpack(longer, &known()).has_value());
  }
}

// States stay; what is packed of them is written anew with a new version of the format.
TEST_CASE("slot: make the fuzzer's seeds" * doctest::skip()) {
  const std::string folder = SLUICE_SOURCE_DIR "/test/fuzz/corpus/slot/";
  const profile model = profile::uncalibrated(model_shape::uniform(2, 3, 64));
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const bool coarse = name.starts_with("coarse_");
    if (!coarse && !name.starts_with("packed_")) continue;
    std::ifstream in(folder + name.substr(7), std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    REQUIRE(text.size() > 1);
    const auto state = std::as_bytes(std::span(text)).subspan(1);
    slot::options o;
    o.lossless = !coarse;
    const auto packed = slot::pack(state, coarse ? &model : nullptr, o);
    REQUIRE(packed);
    std::ofstream out(entry.path(), std::ios::binary);
    out.put(1).write(reinterpret_cast<const char*>(packed->data()), std::streamsize(packed->size()));
    REQUIRE(out.good());
  }
}
