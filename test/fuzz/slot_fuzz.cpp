// SPDX-License-Identifier: Apache-2.0
// Saved states of llama.cpp and packed ones, both untrusted. The first byte says what the rest is:
// 0: a state. What is read comes back bit for bit from a lossless packing, and from one with loss with what is no row.
// 1: a packed state. 2: the same, its checksum made right. It is unpacked, or refused with a status.
#include <sluice/sluice.hpp>

#include <../examples/llama_cpp/slot.hpp>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

namespace {

using bytes = std::vector<std::byte>;

void require(bool fact) {
  if (!fact) std::abort();
}

const sluice::profile& model() {
  static const sluice::profile p = sluice::profile::uncalibrated(sluice::model_shape::uniform(2, 3, 64));
  return p;
}

bytes skeleton(const bytes& b) {
  const auto s = slot::parse(b);
  require(s.has_value());
  bytes out;
  slot::detail::each_piece(*s, [&](std::uint64_t at, std::uint64_t n) {
    out.insert(out.end(), b.begin() + std::ptrdiff_t(at), b.begin() + std::ptrdiff_t(at + n));
  });
  return out;
}

void state(const bytes& given) {
  const auto s = slot::parse(given);
  if (!s) {
    require(s.status() == sluice::status::parse_error || s.status() == sluice::status::truncated ||
            s.status() == sluice::status::wrong_version);
    return;
  }
  require(s->size == given.size());
  slot::options o;
  o.lossless = true;
  const auto packed = slot::pack(given, nullptr, o);
  require(packed.has_value());
  const auto back = slot::unpack(*packed, nullptr);
  require(back && *back == given);

  o.lossless = false;
  const auto coarse = slot::pack(given, &model(), o);
  if (!coarse) return;  // of another shape
  const auto near = slot::unpack(*coarse, nullptr);
  require(near && near->size() == given.size() && skeleton(*near) == skeleton(given));
}

// Makes the checksum of a packed state right, as far as its own sizes allow.
void mend(bytes& packed) {
  if (packed.size() < slot::detail::header_size + 8) return;
  std::uint64_t skeleton = 0;
  std::uint32_t profile = 0, chunks = 0;
  std::memcpy(&skeleton, packed.data() + 24, 8);
  std::memcpy(&profile, packed.data() + 40, 4);
  std::memcpy(&chunks, packed.data() + 44, 4);
  std::span<const std::byte> rest = std::span<const std::byte>(packed).subspan(slot::detail::header_size);
  rest = rest.first(rest.size() - 8);
  if (profile > rest.size() || skeleton > rest.size() - profile) return;
  slot::detail::running_checksum sum;
  const auto take = [&](std::size_t n) {
    sum.add(rest.first(n));
    rest = rest.subspan(n);
  };
  sum.add(std::span<const std::byte>(packed).first(slot::detail::header_size));
  if (profile) take(profile);
  take(std::size_t(skeleton));
  for (std::uint32_t i = 0, n = 0; i < chunks; ++i) {
    if (rest.size() < 4) return;
    std::memcpy(&n, rest.data(), 4);
    take(4);
    if (n > rest.size()) return;
    take(n);
  }
  const std::uint64_t value = sum.value();
  std::memcpy(packed.data() + packed.size() - 8, &value, 8);
}

void packed(bytes given, bool mended) {
  if (mended) mend(given);
  const auto h = slot::read_header(given);
  if (!h || h->size > 1u << 22) return;
  bytes out(std::size_t(h->size));
  for (const sluice::profile* p : {static_cast<const sluice::profile*>(nullptr), &model()})
    if (slot::unpack(*h, p, out) == sluice::status::ok)
      require(slot::detail::read_skeleton(h->skeleton, h->size, h->how).has_value());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1 || size > 1 << 18) return 0;
  const auto given = std::as_bytes(std::span(data, size)).subspan(1);
  const bytes copy(given.begin(), given.end());
  if (data[0] % 3 == 0)
    state(copy);
  else
    packed(copy, data[0] % 3 == 2);
  return 0;
}
