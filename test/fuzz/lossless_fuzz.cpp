// SPDX-License-Identifier: Apache-2.0
// Input: type, rows, columns (2 bytes), then bytes that are decoded as a tile, on all instruction sets alike, and that
// are encoded as the elements of one.
#include <sluice/codec/entropy/split_exponent/lossless.hpp>
#include <support/isas.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

namespace {
void require(bool fact) {
  if (!fact) std::abort();
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 4) return 0;
  const auto type = static_cast<sluice::dtype>(data[0] % 6);
  const int rows = data[1] % 65, n = (data[2] | data[3] << 8) % 290;
  const auto row = static_cast<std::size_t>(n * sluice::size_of(type));
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(4);
  std::vector<std::byte> workspace;

  sluice::status expected{};
  std::vector<std::byte> first;
  for (const sluice::isa on : isas::all) {
    std::vector<std::byte> out(row * static_cast<std::size_t>(rows));
    const sluice::status s = sluice::lossless_decode(type, rows, n, bytes, out.data(), row, workspace, on);
    require(s == sluice::status::ok || s == sluice::status::truncated || s == sluice::status::corrupt_tile);
    if (on == isas::all[0]) expected = s, first = out;
    require(s == expected && (s != sluice::status::ok || out == first));
  }

  std::vector<std::byte> elements(row * static_cast<std::size_t>(rows)), back(elements.size());
  for (std::size_t i = 0; i < elements.size() && !bytes.empty(); ++i) elements[i] = bytes[i % bytes.size()];
  std::vector<std::byte> coded(sluice::lossless_max_size(type, rows, n));
  const std::size_t used = sluice::lossless_encode(type, rows, n, elements.data(), row, coded, workspace);
  require((used == 0) == elements.empty());
  coded.resize(used);
  coded.shrink_to_fit();
  require(sluice::lossless_decode(type, rows, n, coded, back.data(), row, workspace) == sluice::status::ok);
  require(back == elements);
  return 0;
}
