// SPDX-License-Identifier: Apache-2.0
// Whatever the bytes: index, truncation and every decoder end with a status, write nothing outside the view, a frame cut
// after a level decodes as the whole frame does at that level, and one that was cut to fit is no more damaged.
// The first byte says how (support/fuzz_models.hpp). Frames of four layers go to a hybrid model.
// `sluice_tests --test-case="fuzz seeds: make" --no-skip` writes the seeds anew.
#include <sluice/codec/budget.hpp>
#include <sluice/sluice.hpp>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <support/caches.hpp>
#include <support/frames.hpp>
#include <support/fuzz_models.hpp>
#include <vector>

namespace {

using namespace sluice;
using fuzz_models::known;

void require(bool fact) {
  if (!fact) std::abort();
}

template <class Codec>
void decode_hybrid(std::span<const std::byte> frame, std::uint8_t how) {
  static decoder<Codec> d(known().hybrid);
  const caches::mixed_cache c = fuzz_models::hybrid_pages(how);
  const page_status done =
      d.decode(frame, c.views(), {.level = how >> 3 & 7, .position = how & 4 ? 100 : -1, .side = {known().ids}});
  require(done.damaged <= done.tiles && done.degraded <= done.tiles && done.outside <= done.tiles);
  require(done.coarser + done.degraded <= done.tiles);
  if (done.tiles == 0)
    for (const kv_view& v : c.views())
      caches::for_each_element(
          v, [&](plane, auto, auto, auto, auto, const std::byte* x) { require(*x == caches::cache::untouched); });
}

template <class Codec>
void decode(std::span<const std::byte> frame, const profile& p, std::uint8_t how) {
  static decoder<Codec> decoders[2] = {decoder<Codec>(known().plain), decoder<Codec>(known().tuned)};
  decoder<Codec>& d = decoders[&p == &known().tuned];
  const dtype type = how & 128 ? dtype::bf16 : dtype::f16;
  caches::cache a = caches::make_cache(known().shape, 23, type, caches::engine::vllm_nhd, how & 4 ? 100 : 0);
  const kv_view v = how & 64 ? a.view().slice(3, 18) : a.view();
  const int level = how >> 3 & 7;
  status pages[2];
  const page_status done =
      d.decode(frame, v, {.level = level, .position = how & 4 ? 100 : -1, .side = {known().ids}, .pages = pages});
  require(done.damaged <= done.tiles && done.degraded <= done.tiles && done.outside == 0);
  require((done.worst == status::ok) == (pages[0] == status::ok && pages[1] == status::ok) ||
          done.worst != status::ok || pages[0] == status::absent || pages[1] == status::absent);

  std::vector<std::byte> cut(frame.begin(), frame.end());
  const result<std::size_t> size = truncate(cut, level);
  if (!size) return;
  cut.resize(*size);
  cut.shrink_to_fit();
  caches::cache b = caches::make_cache(known().shape, 23, type, caches::engine::vllm_nhd, how & 4 ? 100 : 0);
  const kv_view w = how & 64 ? b.view().slice(3, 18) : b.view();
  const page_status again = d.decode(cut, w, {.position = how & 4 ? 100 : -1, .side = {known().ids}});
  require(again.worst == done.worst && again.damaged == done.damaged && a.bytes() == b.bytes());

  // Cut to fit: no larger, still a frame, and nothing is damaged that was not.
  const std::size_t budget = cut.size() - cut.size() / 4;
  const result<std::size_t> fits = truncate_to(cut, budget, how & 8 ? &p : nullptr);
  if (!fits || done.tiles == 0) return;
  require(*fits <= budget);
  cut.resize(*fits);
  cut.shrink_to_fit();
  const page_status smaller = d.decode(cut, w, {.position = how & 4 ? 100 : -1, .side = {known().ids}});
  require(smaller.damaged <= done.damaged && smaller.degraded <= done.degraded && smaller.tiles == done.tiles);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::uint8_t how = data[0];
  const auto given = std::as_bytes(std::span(data, size)).subspan(1);
  std::vector<std::byte> frame(given.begin(), given.end());
  const profile& p = how & 2 ? known().tuned : known().plain;
  if (how & 1 && frame.size() >= sizeof(frame_header)) {
    frame_header h = frames::load<frame_header>(frame, 0);
    if (h.fingerprint != 0)
      codec::with_codec(h.codec, [&]<class Codec>() {
        static const std::uint64_t prints[] = {fingerprint_of<Codec>(known().plain),
                                               fingerprint_of<Codec>(known().tuned),
                                               fingerprint_of<Codec>(known().hybrid)};
        h.fingerprint = prints[h.layers == 4 ? 2 : &p == &known().tuned];
      });
    frames::store(frame, 0, h);
    frames::fix_checksums(frame);
  }
  frame_index index;
  if (index.parse(frame) != status::ok) return 0;
  require(index.payload_offset() <= frame.size());
  for (std::size_t i = 0; i < index.tiles_per_pass() * index.header().passes; ++i)
    require(index.range(i).begin <= index.range(i).end && index.range(i).end <= index.header().frame_size);
  codec::with_codec(index.header().codec, [&]<class Codec>() {
    if (index.header().layers == 4)
      decode_hybrid<Codec>(frame, how);
    else
      decode<Codec>(frame, p, how);
  });
  return 0;
}
