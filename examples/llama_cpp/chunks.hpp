// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "plan.hpp"
#include "state.hpp"

#include <sluice/codec/instances.hpp>
#include <sluice/status.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <system_error>
#include <thread>
#include <vector>

// One chunk of a state to a frame and back, and many of them on several threads.

namespace slot::detail {

// Runs work(worker, i) for i in [begin, end) on several threads, worker a number below `threads`.
template <class F>
void share(int threads, std::size_t begin, std::size_t end, const F& work) {
  const int n = int(std::min<std::size_t>(std::size_t(std::max(threads, 1)), end - begin));
  std::atomic<std::size_t> next{begin};
  const auto run = [&](int worker) {
    for (std::size_t i; (i = next.fetch_add(1)) < end;) work(worker, i);
  };
  std::vector<std::thread> others;
  try {
    for (int w = 1; w < n; ++w) others.emplace_back(run, w);
  } catch (const std::system_error&) {  // no more threads: those that are there do it
  }
  run(0);
  for (std::thread& t : others) t.join();
}

// The coders of one thread. Those of the exact codec, which cost nothing to make, are made for each chunk.
template <template <class> class Coder>
class coders {
 public:
  template <class F>
  auto with(const part_plan& p, const F& f) {
    if (p.how == coding::exact) {
      Coder<sluice::codec::exact> coder(*p.profile);
      return f(coder);
    }
    if (!standard_) standard_ = std::make_unique<Coder<sluice::codec::standard>>(*p.profile);
    return f(*standard_);
  }

 private:
  std::unique_ptr<Coder<sluice::codec::standard>> standard_;
};

template <class C>
using encoder_of = sluice::encoder<C>;
template <class C>
using decoder_of = sluice::decoder<C>;

inline sluice::status encode_chunk(const state& s, const plan& plan, const chunk& c, std::byte* bytes, bool turned,
                                   int levels, coders<encoder_of>& coders, std::vector<std::byte>& out) try {
  const part& p = s.parts[std::size_t(c.part)];
  const part_plan& how = plan.parts[std::size_t(c.part)];
  out.clear();
  if (c.verbatim) {
    each_run(p, how, c, bytes, [&](const std::byte* from, std::size_t n) { out.insert(out.end(), from, from + n); });
    return sluice::status::ok;
  }
  const auto encode = [&](std::span<const sluice::kv_view> views) {
    return coders.with(how, [&](auto& encoder) {
      out.resize(encoder.max_size(views));
      const auto n = encoder.encode(views, out, {.levels = levels});
      if (n) out.resize(*n);
      return n.status();
    });
  };
  if (how.how == coding::quantised) {
    dense_chunk dense(p, how, c, turned);
    dense.load(bytes);
    return encode(dense.views());
  }
  std::vector<sluice::kv_view> views;
  views_of(p, how, c, bytes, views);
  return encode(views);
} catch (const std::bad_alloc&) {
  return sluice::status::out_of_memory;
}

inline sluice::status decode_chunk(const state& s, const plan& plan, const chunk& c, std::span<const std::byte> frame,
                                   bool turned, coders<decoder_of>& coders, std::byte* bytes) try {
  const part& p = s.parts[std::size_t(c.part)];
  const part_plan& how = plan.parts[std::size_t(c.part)];
  if (c.verbatim) {
    std::size_t at = 0;
    bool fits = true;
    each_run(p, how, c, bytes, [&](std::byte* to, std::size_t n) {
      if ((fits = fits && n <= frame.size() - at)) std::memcpy(to, frame.data() + at, n), at += n;
    });
    return fits && at == frame.size() ? sluice::status::ok : sluice::status::truncated;
  }
  const auto decode = [&](std::span<const sluice::kv_view> views) {
    return coders.with(how, [&](auto& decoder) {
      const auto done = decoder.decode(frame, views, {.sequence_end = c.position + c.tokens});
      return done.worst;
    });
  };
  if (how.how == coding::quantised) {
    dense_chunk dense(p, how, c, turned);
    const sluice::status s2 = decode(dense.views());
    if (s2 == sluice::status::ok) dense.store(bytes);
    return s2;
  }
  std::vector<sluice::kv_view> views;
  views_of(p, how, c, bytes, views);
  return decode(views);
} catch (const std::bad_alloc&) {
  return sluice::status::out_of_memory;
}

}  // namespace slot::detail
