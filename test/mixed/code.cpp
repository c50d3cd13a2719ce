// SPDX-License-Identifier: Apache-2.0
// Compiled twice, with and without sluice::kernels.
#include <mixed/code.hpp>
#include <support/caches.hpp>

namespace {

template <class Codec>
void code_with(const sluice::profile& p, std::span<const sluice::kv_view> views, sluice::isa on,
               std::vector<std::byte>& out) {
  const std::vector<std::byte> frame = caches::encode<Codec>(p, views, {}, on);
  out.insert(out.end(), frame.begin(), frame.end());
  caches::cache back =
      caches::make_cache(p.shape, views[0].tokens, views[0].k.type, caches::engine::llama_cpp, views[0].position);
  const sluice::kv_view& to = back.view();
  if (caches::decode<Codec>(p, frame, {&to, 1}, {}, on).worst == sluice::status::ok)
    out.insert(out.end(), back.bytes().begin(), back.bytes().end());
}

}  // namespace

std::vector<std::byte>
#if SLUICE_LINKS_KERNELS
code_linked
#else
code_compiled
#endif
    (const sluice::profile& p, std::span<const sluice::kv_view> views, sluice::isa on) {
  namespace codec = sluice::codec;
  std::vector<std::byte> out;
  code_with<codec::standard>(p, views, on, out);
  code_with<codec::fixed<4>>(p, views, on, out);
  code_with<codec::plain<8>>(p, views, on, out);
  code_with<codec::exact>(p, views, on, out);
  return out;
}
