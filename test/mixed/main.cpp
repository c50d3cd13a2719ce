// SPDX-License-Identifier: Apache-2.0
// A program of both kinds of translation unit: each does what the other does.
#include <mixed/code.hpp>
#include <support/caches.hpp>
#include <support/isas.hpp>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

namespace {

std::vector<std::byte> read(const char* path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto* p = reinterpret_cast<const std::byte*>(text.data());
  return {p, p + text.size()};
}

}  // namespace

int main() {
  const auto p = sluice::profile::parse(read(SLUICE_SOURCE_DIR "/test/golden/smollm2.profile"));
  if (!p) return std::puts("no profile"), 1;
  const caches::cache c = caches::make_cache(p->shape, 16, sluice::dtype::f16, caches::engine::dense, 64);
  const sluice::kv_view view = c.view();
  const auto frame = read(SLUICE_SOURCE_DIR "/test/golden/smollm2_exact.slc");
  if (caches::decode<sluice::codec::exact>(*p, frame, {&view, 1}).worst != sluice::status::ok)
    return std::puts("no cache"), 1;
  for (const sluice::isa on : isas::all) {
    const auto compiled = code_compiled(*p, {&view, 1}, on), linked = code_linked(*p, {&view, 1}, on);
    if (compiled != linked || compiled.empty()) return std::puts("they differ"), 1;
  }
  return 0;
}
