// SPDX-License-Identifier: Apache-2.0
// Reads that are asked of a second source: what wins, what is left in the caller's buffer, and how often it happens. Sources
// in virtual time, which write to a buffer for as long as it is theirs and never after.
#include <doctest/doctest.h>
#include <sluice/stream/store/sources/hedged.hpp>
#include <sluice/stream/store/sources/memory.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace sluice;
using namespace sluice::stream;

struct virtual_clock {
  double* now;
  double operator()() const noexcept { return *now; }
};

std::vector<std::byte> noise(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> b(n);
  for (std::byte& x : b) x = std::byte(random() & 255);
  return b;
}

// What becomes of one read: the first byte after `delay`, the last one `transfer` later; then `state` after `bytes` of them.
struct fate {
  double delay = 0, transfer = 0;
  status state = status::ok;
  std::size_t bytes = SIZE_MAX;  // of those that are asked for
  bool damaged = false;          // of reads that fail: the bytes are not the object's
};

// Buffers that somebody may write to.
using owners = std::vector<std::span<std::byte>>;

class slow_source {
 public:
  std::map<std::string, std::vector<std::byte>, std::less<>> objects;
  std::function<fate()> next = [] { return fate(); };
  std::size_t sent = 0;  // bytes
  int submitted = 0;

  slow_source(double& now, owners& owned) : now_(&now), owned_(&owned) {}
  result<std::uint64_t> size(std::string_view key) {
    if (!objects.contains(key)) return detail_.clear(), status::not_found;
    return std::uint64_t{objects.find(key)->second.size()};
  }
  status put(std::string_view key, std::span<const std::byte> b) {
    objects[std::string(key)] = {b.begin(), b.end()};
    return status::ok;
  }
  std::string_view detail() const { return detail_; }
  ticket submit(const read_request& r) {
    for (const std::span<std::byte> o : *owned_)
      REQUIRE((r.buffer.data() + r.buffer.size() <= o.data() || o.data() + o.size() <= r.buffer.data()));
    if (!r.buffer.empty()) owned_->push_back(r.buffer);
    ++submitted;
    read x{++last_, r, std::string(r.key), next(), *now_, 0};
    const auto found = objects.find(r.key);
    const std::size_t all = found == objects.end() ? 0 : found->second.size();
    const std::size_t there = r.offset < all ? std::min(all - std::size_t(r.offset), r.buffer.size()) : 0;
    if (found == objects.end())
      x.what = {x.what.delay, 0, status::not_found, 0, false};
    else if (there < r.buffer.size() && x.what.state == status::ok)
      x.what.state = status::wrong_length;
    x.what.bytes = x.what.state == status::ok ? r.buffer.size() : std::min(x.what.bytes, there);
    reads_.push_back(std::move(x));
    return last_;
  }
  std::size_t arrived(ticket t) {
    for (read& r : reads_)
      if (r.which == t) return write(r), r.written;
    return 0;
  }
  std::size_t cancel(ticket t) {
    const std::size_t n = arrived(t);
    for (std::size_t i = 0; i < reads_.size(); ++i)
      if (reads_[i].which == t) release(i);
    return n;
  }
  std::size_t poll(std::span<completion> done, double seconds) {
    const double until = *now_ + seconds;
    double first = until;
    for (const read& r : reads_) first = std::min(first, std::max(end(r), *now_));
    *now_ = first;
    std::size_t n = 0;
    for (std::size_t i = 0; i < reads_.size() && n < done.size();) {
      write(reads_[i]);
      if (end(reads_[i]) > *now_) {
        ++i;
        continue;
      }
      done[n] = {reads_[i].which, reads_[i].what.state, reads_[i].what.bytes};
      if (done[n].state != status::ok) done[n].detail = detail_ = "fate";
      ++n;
      release(i);
    }
    return n;
  }
  bool idle() const { return reads_.empty(); }

 private:
  struct read {
    ticket which;
    read_request request;
    std::string key;
    fate what;
    double asked;
    std::size_t written;
  };
  static double end(const read& r) { return r.asked + r.what.delay + r.what.transfer; }
  void write(read& r) {
    const double passed = *now_ - r.asked - r.what.delay;
    const double share = end(r) <= *now_       ? 1
                         : passed < 0          ? 0
                         : r.what.transfer > 0 ? std::min(passed / r.what.transfer, 1.0)
                                               : 1;
    const std::size_t n = std::size_t(share * double(r.what.bytes));
    if (n > r.written) sent += n - r.written;
    const auto found = objects.find(r.key);
    for (; r.written < n; ++r.written)
      r.request.buffer[r.written] =
          r.what.damaged ? std::byte{0xEE} : found->second[std::size_t(r.request.offset) + r.written];
  }
  void release(std::size_t i) {
    std::erase_if(*owned_, [&](auto o) { return o.data() == reads_[i].request.buffer.data(); });
    reads_.erase(reads_.begin() + std::ptrdiff_t(i));
  }

  double* now_;
  owners* owned_;
  std::vector<read> reads_;
  std::string detail_;
  ticket last_ = 0;
};
static_assert(byte_source<slow_source>);

struct pair_of_sources {
  double now = 0;
  owners owned;
  slow_source primary{now, owned}, second{now, owned};
  using hedged = hedged_source<slow_source, slow_source, virtual_clock>;
  hedged make(const hedge_options& o = {}) { return {primary, second, o, {&now}}; }
};

completion wait(auto& source) {
  completion c;
  for (int i = 0; i < 1000; ++i)
    if (source.poll({&c, 1}, 1)) return c;
  FAIL("no completion");
  return c;
}

}  // namespace

TEST_CASE("a late read is asked of the second, and the sooner answer counts") {
  pair_of_sources p;
  const auto a = noise(1000, 1);
  auto s = p.make({.start_seconds = 0.1});
  REQUIRE(s.put("a", a) == status::ok);
  CHECK(p.second.objects.at("a") == a);
  std::vector<std::byte> buffer(1000);
  SUBCASE("the primary is in time") {
    p.primary.next = [] { return fate{0.05, 0.05}; };
    const ticket t = s.submit({"a", 0, buffer});
    CHECK(wait(s).which == t);
    CHECK(p.second.submitted == 0);
    CHECK(p.now == doctest::Approx(0.1));
  }
  SUBCASE("the primary is silent") {
    p.primary.next = [] { return fate{1000}; };
    p.second.next = [] { return fate{0.05}; };
    const ticket t = s.submit({"a", 0, buffer});
    const completion c = wait(s);
    CHECK(c.which == t);
    CHECK(c.state == status::ok);
    CHECK(c.bytes == 1000);
    CHECK(p.now < 0.1 * 1.13 + 0.05 + 0.003);
    CHECK(s.totals().second_won == 1);
    CHECK(p.primary.idle());  // was cancelled
  }
  SUBCASE("the primary is late and yet sooner") {
    p.primary.next = [] { return fate{0.15}; };
    p.second.next = [] { return fate{0.2}; };
    s.submit({"a", 0, buffer});
    CHECK(wait(s).state == status::ok);
    CHECK(s.totals().hedged == 1);
    CHECK(s.totals().second_won == 0);
    CHECK(p.second.idle());
  }
  SUBCASE("the primary falls silent in the middle: the second's bytes are all of the answer") {
    p.primary.next = [] { return fate{0.01, 1000, status::connection_lost, 900, true}; };
    p.second.next = [] { return fate{0.05}; };
    const ticket t = s.submit({"a", 0, buffer});
    completion none;
    CHECK(s.poll({&none, 1}, 0.02) == 0);
    CHECK(s.arrived(t) == p.primary.sent);
    CHECK(wait(s).state == status::ok);
  }
  SUBCASE("the primary has no such object: the second is asked at once, into the buffer itself") {
    p.primary.objects.clear();
    s.submit({"a", 0, buffer});
    CHECK(wait(s).state == status::ok);
    CHECK(p.now == 0);
    CHECK(s.size("a").value() == 1000);
    CHECK(s.totals().failed_over == 1);
  }
  CHECK(buffer == a);
  CHECK(p.owned.empty());
}

TEST_CASE("where both fail the status is the primary's and the words are both's") {
  pair_of_sources p;
  auto s = p.make();
  REQUIRE(s.put("a", noise(1000, 1)) == status::ok);
  p.primary.next = [] { return fate{0, 0, status::connection_lost, 0}; };
  p.second.next = [] { return fate{0, 0, status::refused, 0}; };
  std::vector<std::byte> buffer(1000);
  s.submit({"a", 0, buffer});
  const completion c = wait(s);
  CHECK(c.state == status::connection_lost);
  CHECK(c.detail == "fate; the second: refused by the store: fate");
  CHECK(s.detail() == c.detail);
  CHECK(s.size("b").status() == status::not_found);
  CHECK(s.detail().empty());
  // An object that ends too early keeps what there is of it, whichever has more.
  p.primary.next = p.second.next = [] { return fate(); };
  p.primary.objects["a"].resize(300);
  p.second.objects["a"].resize(700);
  s.submit({"a", 0, buffer});
  const completion shorter = wait(s);
  CHECK(shorter.state == status::wrong_length);
  CHECK(shorter.bytes == 700);
  CHECK(std::equal(buffer.begin(), buffer.begin() + 700, p.second.objects["a"].begin()));
}

TEST_CASE("patience follows the primary's slow answers, not its stalls") {
  pair_of_sources p;
  auto s = p.make({.start_seconds = 0.05});
  REQUIRE(s.put("a", noise(100, 1)) == status::ok);
  std::vector<std::byte> buffer(100);
  std::mt19937 rng(5);
  const auto reads = [&](int n) {
    const auto before = s.totals().hedged;
    for (int i = 0; i < n; ++i) {
      s.submit({"a", 0, buffer});
      CHECK(wait(s).state == status::ok);
    }
    return double(s.totals().hedged - before) / n;
  };
  // One in ten stalls for a second; the others take 10 ms, give or take.
  p.primary.next = [&] { return fate{rng() % 10 ? 0.009 + 1e-5 * double(rng() % 200) : 1.0}; };
  p.second.next = [] { return fate{0.01}; };
  reads(200);
  CHECK(reads(400) < 0.25);
  CHECK(s.late_seconds() < 0.02);
  // A primary that is slower for good, though not than the second: it is waited for again, after a while.
  p.primary.next = [&] { return fate{0.045 + 1e-5 * double(rng() % 200)}; };
  p.second.next = [] { return fate{0.1}; };
  reads(200);
  CHECK(reads(400) < 0.15);
  CHECK(s.late_seconds() > 0.04);
}

TEST_CASE("reads in a row: those behind a read that is under way are not late, those behind a silent one are") {
  pair_of_sources p;
  auto s = p.make({.start_seconds = 0.1});
  REQUIRE(s.put("a", noise(1000, 1)) == status::ok);
  std::vector<std::vector<std::byte>> buffers(5, std::vector<std::byte>(1000));
  int number = 0;
  p.primary.next = [&] { return fate{0.09 * ++number}; };  // one after the other
  for (auto& b : buffers) s.submit({"a", 0, b});
  for (std::size_t i = 0; i < buffers.size(); ++i) CHECK(wait(s).state == status::ok);
  CHECK(s.totals().hedged == 0);
  p.primary.next = [&] { return fate{1000}; };
  for (auto& b : buffers) s.submit({"a", 0, b});
  for (std::size_t i = 0; i < buffers.size(); ++i) CHECK(wait(s).state == status::ok);
  CHECK(s.totals().hedged == 5);
  CHECK(p.owned.empty());
}

TEST_CASE("memory of second answers is bounded: late reads wait for their turn") {
  pair_of_sources p;
  auto s = p.make({.start_seconds = 0.1, .memory_bytes = 1500});
  REQUIRE(s.put("a", noise(1000, 1)) == status::ok);
  p.primary.next = [] { return fate{1000}; };
  p.second.next = [] { return fate{0.05}; };
  std::vector<std::vector<std::byte>> buffers(3, std::vector<std::byte>(1000));
  for (auto& b : buffers) s.submit({"a", 0, b});
  completion c;
  CHECK(s.poll({&c, 1}, 0.14) == 0);
  CHECK(s.totals().hedged == 1);
  for (std::size_t i = 0; i < buffers.size(); ++i) CHECK(wait(s).state == status::ok);
  for (auto& b : buffers) CHECK(b == p.primary.objects.at("a"));
}

TEST_CASE("whatever two sources do, every read ends once and holds what it says") {
  for (unsigned seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    std::mt19937 rng(seed);
    const auto uniform = [&](double a, double b) { return std::uniform_real_distribution<double>(a, b)(rng); };
    pair_of_sources p;
    for (int k = 0; k < 6; ++k) {
      const std::string key(1, char('a' + k));
      const auto whole = noise(rng() % 3000, unsigned(rng()));
      for (slow_source* s : {&p.primary, &p.second}) {
        auto copy = whole;
        if (rng() % 4 == 0) copy.resize(copy.size() / 2);  // of a tier that holds less
        if (rng() % 5) s->objects[key] = copy;
      }
    }
    const double bad = uniform(0, 0.6);
    const auto fates = [&] {
      fate f{std::exp(uniform(-7, 1)), rng() % 2 ? std::exp(uniform(-7, 0)) : 0};
      if (uniform(0, 1) < bad) {
        const status how[] = {status::timed_out, status::connection_lost, status::wrong_length, status::io_error};
        f.state = how[rng() % 4];
        f.bytes = rng() % 3 ? rng() % 2000 : 0;
        f.damaged = rng() % 2;
      }
      if (rng() % 10 == 0) f.delay = 50;
      return f;
    };
    p.primary.next = p.second.next = fates;
    hedge_options o;
    o.memory_bytes = rng() % 8000;
    o.floor_seconds = uniform(0, 0.05);
    auto s = p.make(o);
    struct asked {
      ticket which;
      std::string key;
      std::size_t offset;
      std::vector<std::byte> buffer;
      int ends = 0;
      bool cancelled = false;
    };
    std::vector<asked> all(100);
    std::size_t begun = 0, open = 0;
    while (begun < all.size() || open > 0) {
      if (begun < all.size() && rng() % 3) {
        asked& a = all[begun++];
        a.key = std::string(1, char('a' + rng() % 7));  // one of them is nowhere
        a.offset = rng() % 1500;
        a.buffer.assign(rng() % 4 ? rng() % 1500 : 0, std::byte{0x55});
        a.which = s.submit({a.key, a.offset, a.buffer});
        ++open;
        continue;
      }
      if (begun > 0 && rng() % 8 == 0) {
        asked& a = all[rng() % begun];
        if (a.ends || a.cancelled) continue;
        const std::size_t n = s.arrived(a.which);
        CHECK(n <= a.buffer.size());
        s.cancel(a.which);
        a.cancelled = true;
        --open;
        const auto before = a.buffer;
        p.now += 1;  // whoever still thinks the buffer is his
        CHECK(a.buffer == before);
        continue;
      }
      completion done[3];
      const std::size_t n = s.poll(done, rng() % 2 ? uniform(0, 0.2) : 0);
      for (std::size_t i = 0; i < n; ++i) {
        const auto found = std::find_if(all.begin(), all.begin() + std::ptrdiff_t(begun),
                                        [&](const asked& a) { return a.which == done[i].which; });
        REQUIRE(found != all.begin() + std::ptrdiff_t(begun));
        CHECK_FALSE(found->cancelled);
        CHECK(++found->ends == 1);
        --open;
        CHECK(done[i].bytes <= found->buffer.size());
        if (done[i].state != status::ok) continue;
        CHECK(done[i].bytes == found->buffer.size());
        bool right = found->buffer.empty();
        for (slow_source* x : {&p.primary, &p.second})
          if (const auto at = x->objects.find(found->key); at != x->objects.end())
            right = right || (at->second.size() >= found->offset + found->buffer.size() &&
                              std::equal(found->buffer.begin(), found->buffer.end(),
                                         at->second.begin() + std::ptrdiff_t(found->offset)));
        CHECK(right);
      }
    }
    completion none;
    CHECK(s.poll({&none, 1}, 100) == 0);
    for (const asked& a : all) CHECK(a.ends + a.cancelled == 1);
    CHECK(p.owned.empty());
    CHECK(p.primary.idle());
    CHECK(p.second.idle());
    CHECK(s.totals().unused_bytes <= p.primary.sent + p.second.sent);
  }
}

TEST_CASE("two stores in memory, of which one lacks what the other has") {
  memory_source a, b;
  hedged_source s(a, b);
  const auto x = noise(5000, 1), y = noise(70, 2);
  REQUIRE(a.put("x", x) == status::ok);
  REQUIRE(b.put("y", y) == status::ok);
  CHECK(read_object(s, "x", 1).value() == x);
  CHECK(read_object(s, "y", 1).value() == y);
  CHECK(read_object(s, "z", 1).status() == status::not_found);
  hedged_source one(a, b, {.put_both = false});
  REQUIRE(one.put("z", x) == status::ok);
  CHECK(b.size("z").status() == status::not_found);
  memory_source full(10);
  hedged_source strict(a, full);
  CHECK(strict.put("w", x) == status::no_space);
  CHECK(strict.detail().find("; the second: no space left: 5000 bytes do not fit") != std::string_view::npos);
}
