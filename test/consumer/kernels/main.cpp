// SPDX-License-Identifier: Apache-2.0
// Built twice, with sluice::kernels and from headers alone: a real cache through two presets on every instruction set.
// Prints a checksum of each frame and of what it decodes to; the one with OTHER also compares.
#include "capture.hpp"

#include <sluice/sluice.hpp>

#include <cstdio>
#include <string>
#include <vector>

namespace {

template <class Codec>
std::string code(const char* name, const sluice::profile& p, cache& source) {
  std::string out;
  for (const sluice::isa on : {sluice::isa::portable, sluice::isa::avx2, sluice::isa::avx512, sluice::isa::neon}) {
    sluice::encoder<Codec> e(p, {.isa = on});
    std::vector<std::byte> frame(e.max_size(source.view()));
    const auto size = e.encode(source.view(), frame);
    if (!size) return {};
    cache back = cache::like(source);
    if (sluice::decoder<Codec>(p, {.isa = on}).decode({frame.data(), *size}, back.view()).worst != sluice::status::ok)
      return {};
    char line[128];
    std::snprintf(line, sizeof line, "%s %d: %zu bytes %08x, decoded %08x\n", name, int(on), *size,
                  unsigned(sluice::checksum(frame.data(), *size, 0)),
                  unsigned(sluice::checksum(back.bytes.data(), back.bytes.size(), 0)));
    out += line;
  }
  return out;
}

}  // namespace

int main() {
  const auto p = sluice::profile::load(DATA "/smollm2.profile");
  cache source;
  if (!p || !source.read(DATA "/smollm2_sample.safetensors", p->shape)) return std::puts("no data"), 1;
  const std::string standard = code<sluice::codec::standard>("standard", *p, source),
                    int4 = code<sluice::codec::int4>("int4", *p, source);
  if (standard.empty() || int4.empty()) return std::puts("not coded"), 1;
  const std::string ours = standard + int4;
  std::fputs(ours.c_str(), stdout);
#ifdef OTHER
  static_assert(SLUICE_LINKS_KERNELS, "this one was to link sluice::kernels");
  std::FILE* const other = popen(OTHER, "r");
  if (!other) return std::puts("the other does not start"), 1;
  std::string theirs(ours.size() + 1, '\0');
  theirs.resize(std::fread(theirs.data(), 1, theirs.size(), other));
  if (pclose(other) != 0 || theirs != ours) return std::printf("from headers alone:\n%s", theirs.c_str()), 1;
  std::printf("sluice %d.%d.%d\n", SLUICE_VERSION_MAJOR, SLUICE_VERSION_MINOR, SLUICE_VERSION_PATCH);
#else
  static_assert(!SLUICE_LINKS_KERNELS, "this one was to compile the bodies");
#endif
  return 0;
}
