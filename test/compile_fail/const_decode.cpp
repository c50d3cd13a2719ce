// expect: no matching function for call to .*decode|no matching member function for call to 'decode'
// SPDX-License-Identifier: Apache-2.0
#include <sluice/sluice.hpp>

#ifdef SLUICE_GOOD
using byte = std::byte;
#else
using byte = const std::byte;
#endif

sluice::page_status decode_into(const sluice::profile& profile, std::span<const std::byte> frame, byte* k, byte* v) {
  sluice::decoder<> decoder(profile);
  return decoder.decode(frame, sluice::layouts::dense(k, v, {2, 1, 32, 32, 64}, 64));
}
int main() {}
