// SPDX-License-Identifier: Apache-2.0
// Tiers of memory that a placement policy runs: what is read is what was put, cut to whole levels; tiers hold what they may;
// what is decided is what the simulator decides; nothing is lost on the way from one tier to another, whoever dies.
#include <doctest/doctest.h>
#include <sluice/stream/store/sources/memory.hpp>
#include <sluice/stream/store/sources/tiered.hpp>
#include <sluice/stream/study/placement.hpp>
#include <support/frames.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using namespace sluice::stream;
using bytes_t = std::vector<std::byte>;

struct virtual_clock {
  double* now;
  double operator()() const noexcept { return *now; }
};

bytes_t noise(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  bytes_t b(n);
  for (std::byte& x : b) x = std::byte(random() & 255);
  return b;
}

// An object whose frame has tiles of noise: K and V of one layer, `levels` passes.
bytes_t object_of(std::mt19937& rng, int levels, std::int64_t position = 0) {
  frame_header h{};
  h.magic = frame_magic;
  h.version_major = SLUICE_FORMAT_VERSION_MAJOR;
  h.version_minor = SLUICE_FORMAT_VERSION_MINOR;
  h.header_size = sizeof h;
  h.position = position;
  h.tokens = h.tile_tokens = 16;
  h.layers = h.shape_runs = 1;
  h.passes = h.levels_present = std::uint8_t(levels);
  double nats = std::exp(std::uniform_real_distribution<double>(-6, 0)(rng));
  for (int l = 0; l < levels; ++l, nats /= 3) h.loss[l] = frame_header::loss_code(nats);
  const shape_run run{1, 1, {8, 8}, {8, 8}, {std::uint8_t(dtype::f16), std::uint8_t(dtype::f16)}, 0};
  std::vector<tile_entry> entries;
  std::size_t payload = 0;
  for (int i = 0; i < 2 * levels; ++i)
    payload += entries.emplace_back(tile_entry{std::uint32_t(40 + rng() % 400), 0}).size;
  const std::size_t used = sizeof run + entries.size() * sizeof(tile_entry);
  h.index_size = std::uint32_t((sizeof h + used + 15) / 16 * 16 - sizeof h);
  h.frame_size = sizeof h + h.index_size + payload;
  bytes_t o = noise(sizeof(object_header) + h.frame_size, unsigned(rng()));
  const object_header envelope = make_object_header({});
  std::memcpy(o.data(), &envelope, sizeof envelope);
  std::byte* at = o.data() + sizeof envelope;
  std::memset(at, 0, sizeof h + h.index_size);
  std::memcpy(at, &h, sizeof h);
  std::memcpy(at + sizeof h, &run, sizeof run);
  std::memcpy(at + sizeof h + sizeof run, entries.data(), entries.size() * sizeof(tile_entry));
  frames::fix_checksums(std::span(o).subspan(sizeof envelope));
  frame_index index;
  REQUIRE(index.parse(std::span(o).subspan(sizeof envelope)) == status::ok);
  return o;
}

// What is left of an object with so many levels.
bytes_t cut(bytes_t o, int levels) {
  if (o.size() < 200) return o;  // no frame
  o.resize(sizeof(object_header) + truncate(std::span(o).subspan(sizeof(object_header)), levels - 1).value());
  return o;
}

placed_item item_of(const bytes_t& o, const object_worth& w) { return levels_of(o, o.size(), w).item; }

// A tier in memory that may fail, forget, or be dead: then it says yes and does nothing.
struct bad_memory {
  memory_source memory;
  std::map<std::string, std::size_t, std::less<>> sizes;
  std::size_t used = 0, most = 0;
  double failing = 0;    // share of calls
  long* fuse = nullptr;  // calls that anybody may still make
  bool forgets = true;   // what fails to be read may be gone
  std::mt19937 rng{1};
  std::string words;

  bool fails() { return std::uniform_real_distribution<double>(0, 1)(rng) < failing; }
  bool dead() { return fuse && --*fuse < 0; }
  result<std::uint64_t> size(std::string_view key) {
    if (fails()) return status::connection_lost;
    return memory.size(key);
  }
  status put(std::string_view key, std::span<const std::byte> b) {
    if (dead()) return status::ok;
    if (fails()) return rng() % 2 ? status::connection_lost : status::no_space;
    used += b.size();
    if (const auto at = sizes.find(key); at != sizes.end()) used -= at->second;
    sizes[std::string(key)] = b.size();
    most = std::max(most, used);
    return memory.put(key, b);
  }
  status erase(std::string_view key) {
    if (dead()) return status::ok;
    if (fails()) return status::timed_out;
    if (const auto at = sizes.find(key); at != sizes.end()) {
      used -= at->second;
      sizes.erase(at);
    }
    return memory.erase(key);
  }
  result<std::vector<std::string>> keys() { return memory.keys(); }
  ticket submit(const read_request& r) { return memory.submit(r); }
  std::size_t arrived(ticket t) { return memory.arrived(t); }
  std::size_t cancel(ticket t) { return memory.cancel(t); }
  std::string_view detail() const { return words; }
  std::size_t poll(std::span<completion> done, double seconds) {
    const std::size_t n = memory.poll(done, seconds);
    for (std::size_t i = 0; i < n; ++i)
      if (fails()) {
        done[i].state = forgets && rng() % 2 ? status::not_found : status::connection_lost;
        done[i].bytes = 0;
      }
    return n;
  }
};
static_assert(tier_source<bad_memory> && byte_source<tiered_source<>> && !tier_source<tiered_source<>>);

template <class Policy>
using tiers_of = tiered_source<Policy, bad_memory, virtual_clock>;

// Reads a range; what came, and how it ended.
std::pair<status, bytes_t> read_some(auto& s, std::string_view key, std::size_t offset, std::size_t n) {
  bytes_t b(n, std::byte{0x5A});
  const ticket t = s.submit({key, offset, b});
  completion c;
  for (int i = 0; s.poll({&c, 1}, 0) == 0; ++i) REQUIRE(i < 1000);
  CHECK(c.which == t);
  CHECK(c.bytes <= n);
  b.resize(c.bytes);
  return {c.state, b};
}

constexpr double seconds_a_byte[] = {1e-6, 1e-4, 1e-3};
tiered_options options_of(std::mt19937& rng) {
  tiered_options o;
  o.placement.alpha_seconds_per_nat = std::exp(std::uniform_real_distribution<double>(-3, 6)(rng));
  o.placement.reoptimise_every = 40;
  o.worth.recompute_seconds_per_token = 0.1;
  return o;
}

}  // namespace

TEST_CASE("levels that do not fit go to the slower tier and come back, and an object is one to its readers") {
  double now = 0;
  std::mt19937 rng(3);
  bad_memory fast, slow;
  const bytes_t a = object_of(rng, 3), b = object_of(rng, 3);
  tiers_of<placement_policies::lru_levels> s(
      {{&fast, {double(a.size() + b.size()) * 0.7, 1e6, 0, 0}}, {&slow, {1e6, 1e3, 0, 0}}}, {}, {}, {&now});
  REQUIRE(s.put("a", a) == status::ok);
  now = 10;
  REQUIRE(s.put("b", b) == status::ok);
  CHECK(s.size("a").value() == a.size());
  CHECK(s.tier_of("a", 0) + s.tier_of("b", 0) == 0);
  CHECK(slow.used > 0);
  CHECK(read_object(s, "a", 1).value() == a);
  CHECK(read_object(s, "b", 1).value() == b);
  // The slow tier is gone: what is left is a truncated object that says so.
  now = 20;
  slow.failing = 1;
  slow.forgets = false;
  int gone = 0;
  for (const auto& [key, whole] : {std::pair("a", &a), {"b", &b}}) {
    const auto [state, bytes] = read_some(s, key, 0, whole->size());
    CHECK((state == status::ok || state == status::connection_lost));
    const int n = s.levels(key);
    REQUIRE(n > 0);
    gone += n < 3;
    CHECK(read_object(s, key, 1).value() == cut(*whole, n));
    frame_index index;
    const bytes_t left = read_object(s, key, 1).value();
    REQUIRE(index.parse(std::span(left).subspan(sizeof(object_header))) == status::ok);
    CHECK(index.header().levels_present == n);
    CHECK(sizeof(object_header) + index.size() == left.size());
  }
  CHECK(gone > 0);
  // And when it is back so are they.
  slow.failing = 0;
  now = 40;
  CHECK(read_object(s, "a", 1).value() == a);
  CHECK(read_object(s, "b", 1).value() == b);
}

TEST_CASE("what has no levels is kept whole; names of pieces are refused; what fits nowhere says so") {
  double now = 0;
  bad_memory only;
  tiers_of<placement_policies::truncating> s({{&only, {1000, 1e6, 0, 0}}}, {}, {}, {&now});
  const bytes_t note = noise(100, 1);
  CHECK(s.put("note.json", note) == status::ok);
  CHECK(read_object(s, "note.json", 1).value() == note);
  CHECK(s.put("x.0123abcd.1", note) == status::invalid_argument);
  CHECK(s.put("empty", {}) == status::ok);
  CHECK(s.put("huge", noise(1001, 1)) == status::no_space);
  CHECK(s.size("huge").status() == status::not_found);
  CHECK(read_some(s, "nowhere", 0, 10).first == status::not_found);
  CHECK(read_some(s, "note.json", 50, 100) == std::pair(status::wrong_length, bytes_t(note.begin() + 50, note.end())));
  CHECK(read_some(s, "note.json", 500, 1).first == status::wrong_length);
  CHECK(s.put("note.json", noise(30, 2)) == status::ok);
  CHECK(read_object(s, "note.json", 1).value() == noise(30, 2));
  CHECK(only.used == 30);
}

TEST_CASE(
    "whatever is put and read, in whatever order: prefixes of what was put, within capacities, as the simulator "
    "decides") {
  const auto hold = []<class Policy>() {
    for (unsigned seed = 0; seed < 25; ++seed) {
      CAPTURE(std::string(Policy::name));
      CAPTURE(seed);
      std::mt19937 rng(seed);
      const auto uniform = [&](double a, double b) { return std::uniform_real_distribution<double>(a, b)(rng); };
      double now = 0;
      const std::size_t n = 1 + rng() % 3;
      std::vector<bad_memory> memory(n);
      std::vector<tier<bad_memory>> tiers;
      std::vector<storage_tier> facts;
      for (std::size_t t = 0; t < n; ++t) {
        facts.push_back({uniform(0, 20'000) * double(t + 1), 1 / seconds_a_byte[t], 1e-3 * double(t), 0});
        tiers.push_back({&memory[t], facts.back()});
      }
      const tiered_options o = options_of(rng);
      tiers_of<Policy> s(tiers, o, {}, {&now});
      placement_simulator<Policy> expected(facts, o.placement);
      std::vector<bytes_t> objects;
      for (int i = 0; i < 30; ++i) objects.push_back(object_of(rng, 1 + int(rng() % 5), std::int64_t(rng() % 100)));
      std::size_t largest = 0;
      for (const bytes_t& x : objects) largest = std::max(largest, x.size());
      for (int k = 0; k < 400; ++k) {
        now += 1 + uniform(0, 5);
        const std::size_t i = rng() % (rng() % 2 ? 8 : objects.size());
        const std::string key = std::to_string(i);
        const placed_item item = item_of(objects[i], o.worth);
        const placement_outcome out = expected.access(std::int64_t(i), item, now).value();
        const int level = s.best_level(key);
        CHECK(out.level == level);
        if (level < 0) {
          const status put = s.put(key, objects[i]);
          CHECK((put == status::ok || (put == status::no_space && s.levels(key) == 0)));
        } else {
          CHECK(out.tier == s.tier_of(key, level));
          CHECK(read_some(s, key, 0, std::size_t(item.bytes[std::size_t(level)])) == std::pair(status::ok, [&] {
                  bytes_t whole = cut(objects[i], s.levels(key));
                  whole.resize(std::size_t(item.bytes[std::size_t(level)]));
                  return whole;
                }()));
          s.settle();
        }
        for (std::size_t t = 0; t < n; ++t) {
          CHECK(s.used_bytes(int(t)) == double(memory[t].used));
          CHECK(double(memory[t].used) == doctest::Approx(expected.used_bytes(int(t))));
          CHECK(double(memory[t].used) <= facts[t].capacity_bytes);
          if (Policy::name != placement_policies::evicpress::name)  // which moves everything at once
            CHECK(double(memory[t].most) <= facts[t].capacity_bytes + double(largest));
        }
      }
      const placement_moves &is = s.moves(), &should = expected.totals();
      CHECK(is.accesses == should.accesses);
      CHECK(is.hits == should.hits);
      CHECK(is.dropped == should.dropped);
      CHECK(is.demoted == should.demoted);
      CHECK(is.truncated == should.truncated);
      CHECK(is.moved_bytes == doctest::Approx(should.moved_bytes));
    }
  };
  placement_policies::for_each(hold);
}

TEST_CASE("tiers that fail, forget and come back: never a byte that was not put, and the books are right in the end") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    std::mt19937 rng(seed);
    const auto uniform = [&](double a, double b) { return std::uniform_real_distribution<double>(a, b)(rng); };
    double now = 0;
    std::vector<bad_memory> memory(3);
    std::vector<tier<bad_memory>> tiers;
    for (std::size_t t = 0; t < 3; ++t) {
      memory[t].rng.seed(seed + unsigned(t));
      tiers.push_back({&memory[t], {uniform(2000, 20'000), 1 / seconds_a_byte[t], 1e-3 * double(t), 0}});
    }
    tiered_options o = options_of(rng);
    o.down_seconds = 3;
    tiers_of<placement_policies::truncating> s(tiers, o, {}, {&now});
    std::map<std::string, bytes_t> put;
    std::vector<std::pair<ticket, bytes_t>> open;
    std::map<ticket, std::pair<std::string, std::size_t>> what;
    for (int k = 0; k < 500; ++k) {
      now += uniform(0, 2);
      for (bad_memory& m : memory) {
        m.failing = rng() % 40 == 0 ? uniform(0, 1) : rng() % 10 == 0 ? 0 : m.failing;
        if (rng() % 50 == 0 && !m.sizes.empty()) {  // evicted by the store itself
          const std::string gone = m.sizes.begin()->first;
          m.used -= m.sizes.begin()->second;
          m.sizes.erase(m.sizes.begin());
          CHECK(m.memory.erase(gone) == status::ok);
        }
      }
      const std::string key = std::to_string(rng() % 12);
      if (rng() % 3 == 0) {
        if (rng() % 4 == 0 || !put.contains(key)) put[key] = object_of(rng, 1 + int(rng() % 4));
        const bool busy = std::any_of(what.begin(), what.end(), [&](const auto& w) { return w.second.first == key; });
        if (!busy) (void)s.put(key, put[key]);
        if (busy) put.erase(key);
        if (busy) continue;
      } else if (put.contains(key)) {
        const std::size_t offset = rng() % 2 ? 0 : rng() % 1000;
        open.push_back({0, bytes_t(rng() % 2000, std::byte{0x5A})});
        open.back().first = s.submit({key, offset, open.back().second});
        what[open.back().first] = {key, offset};
      }
      if (rng() % 4 == 0) s.settle();
      if (open.size() > 6 || rng() % 4 == 0) {
        completion done[4];
        for (std::size_t n; (n = s.poll(done, 0)) > 0;)
          for (std::size_t i = 0; i < n; ++i) {
            const auto at = std::find_if(open.begin(), open.end(), [&](auto& x) { return x.first == done[i].which; });
            REQUIRE(at != open.end());
            const auto [name, offset] = what[done[i].which];
            if (put.contains(name)) {
              const bytes_t& whole = put[name];
              bool right = false;
              for (int l = int(item_of(whole, {}).bytes.size()); l > 0 && !right; --l) {
                const bytes_t c = cut(whole, l);
                right = done[i].bytes == 0 ||
                        (c.size() >= offset + done[i].bytes &&
                         std::equal(c.begin() + std::ptrdiff_t(offset),
                                    c.begin() + std::ptrdiff_t(offset + done[i].bytes), at->second.begin()));
              }
              CHECK(right);
              if (done[i].state == status::ok) CHECK(done[i].bytes == at->second.size());
            }
            what.erase(done[i].which);
            open.erase(at);
          }
        CHECK(open.empty());
      }
    }
    for (bad_memory& m : memory) m.failing = 0;
    for (auto& [t, b] : open) s.cancel(t);
    now += 100;
    s.settle();
    for (const auto& [key, whole] : put)
      if (const int n = s.levels(key); n > 0) {
        const auto bytes = read_object(s, key, 1);
        if (bytes) CHECK(*bytes == cut(whole, n));
      }
    now += 100;
    s.settle();
    for (std::size_t t = 0; t < 3; ++t) CHECK(double(memory[t].used) <= tiers[t].facts.capacity_bytes);
  }
}

TEST_CASE("a process that dies at any moment loses nothing on the way, and what lies there is found again") {
  std::size_t found = 0;
  for (long fuse = 0; fuse < 220; ++fuse) {
    CAPTURE(fuse);
    std::mt19937 rng(7);
    double now = 0;
    std::vector<bad_memory> memory(3);
    std::vector<tier<bad_memory>> tiers;
    // The last tier takes everything, so nothing is ever dropped.
    const double capacity[] = {3000, 6000, 1e9};
    for (std::size_t t = 0; t < 3; ++t) {
      tiers.push_back({&memory[t], {capacity[t], 1 / seconds_a_byte[t], 0, 0}});
    }
    std::map<std::string, bytes_t> whole;  // before the process died
    {
      long left = fuse;
      for (bad_memory& m : memory) m.fuse = &left;
      tiers_of<placement_policies::lru> s(tiers, {}, {}, {&now});
      for (int k = 0; k < 60; ++k) {
        now += 2;
        const std::string key = std::to_string(rng() % 10);
        if (!s.levels(key)) {
          const bytes_t o = object_of(rng, 1 + int(rng() % 4));
          CHECK(s.put(key, o) == status::ok);
          if (left >= 0) whole[key] = o;
          if (left < 0) break;
          continue;
        }
        read_some(s, key, 0, std::size_t(s.size(key).value()));
        s.settle();
        if (left < 0) break;
      }
      for (bad_memory& m : memory) m.fuse = nullptr;
    }
    tiers_of<placement_policies::lru> s(tiers, {}, {}, {&now});
    REQUIRE(s.open() == status::ok);
    for (const auto& o : whole) {
      CAPTURE(o.first);
      REQUIRE(s.size(o.first));
      CHECK(read_object(s, o.first, 1).value() == o.second);
      ++found;
    }
    double used = 0, counted = 0;
    for (std::size_t t = 0; t < 3; ++t) {
      CHECK(double(memory[t].used) <= capacity[t]);
      used += double(memory[t].used);
      counted += s.used_bytes(int(t));
    }
    CHECK(used == counted);  // nothing lies there that nobody knows
  }
  CHECK(found > 500);
}

TEST_CASE("what is found again: pieces of other contents, gaps, whole objects that others put, damage") {
  double now = 0;
  std::mt19937 rng(9);
  bad_memory fast, slow;
  const bytes_t a = object_of(rng, 4), b = object_of(rng, 4);
  const auto make = [&] {
    return tiers_of<placement_policies::truncating>({{&fast, {1e6, 1e6, 0, 0}}, {&slow, {1e6, 1e5, 0, 0}}}, {}, {},
                                                    {&now});
  };
  {
    auto s = make();
    REQUIRE(s.put("a", a) == status::ok);
    REQUIRE(s.put("b", b) == status::ok);
  }
  const auto keys = fast.keys().value();
  REQUIRE(keys.size() == 8);
  // Of a, pass 1 is gone; of b, pass 2 lies on the slow tier too and pass 3 is cut short.
  std::string of_b;
  for (const std::string& k : keys) {
    if (k.starts_with("a.") && k.ends_with(".1")) REQUIRE(fast.erase(k) == status::ok);
    const auto bytes = read_object(fast, k, 1);
    if (k.starts_with("b.") && k.ends_with(".2")) REQUIRE(slow.put(k, *bytes) == status::ok);
    if (k.starts_with("b.") && k.ends_with(".3")) REQUIRE(fast.put(of_b = k, std::span(*bytes).first(5)) == status::ok);
  }
  REQUIRE(slow.put("c", a) == status::ok);  // whole
  REQUIRE(slow.put("d.12345678.1", a) == status::ok);
  bytes_t damaged = a;
  damaged[60] ^= std::byte{1};
  REQUIRE(fast.put("e", damaged) == status::ok);
  auto s = make();
  REQUIRE(s.open() == status::ok);
  CHECK(s.open() == status::ok);  // again: what is known stays
  CHECK(read_object(s, "a", 1).value() == cut(a, 1));
  CHECK(read_object(s, "b", 1).value() == cut(b, 3));
  CHECK(read_object(s, "c", 1).value() == a);
  CHECK(read_object(s, "e", 1).value() == damaged);
  CHECK(s.size("d").status() == status::not_found);
  CHECK(s.used_bytes(0) == double(fast.used));
  CHECK(s.used_bytes(1) == double(slow.used));
}
