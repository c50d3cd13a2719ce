// SPDX-License-Identifier: Apache-2.0
// Frames of hidden states with changed bytes, checksums made right: what is handed to a projection lies in the frame, can be
// read, and is all of it where nothing is said to be wrong. The first byte chooses codec and level, then come changes of
// three bytes each: u16 place, u8 difference.
#include <sluice/codec/hidden_decoder.hpp>
#include <sluice/sluice.hpp>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <span>
#include <support/frames.hpp>
#include <vector>

namespace {

using namespace sluice;

constexpr int tokens = 40, layers = 3, dim = 96, position = 7;

void require(bool fact) {
  if (!fact) std::abort();
}

const profile& model() {
  static const profile p = [] {
    model_shape kv = model_shape::uniform(layers, 2, 16);
    kv.layers[1].window = 24;
    return profile::uncalibrated(hidden_shape(kv, dim), 3, 2);
  }();
  return p;
}

template <class Codec>
std::vector<std::byte> sound() {
  std::vector<f16> rows(layers * tokens * dim);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = from_float<f16>(float(i * 7919 % 1021) / 256 - 2);
  const kv_view v = layouts::hidden(reinterpret_cast<std::byte*>(rows.data()), {layers, dim, tokens}, tokens, position);
  encoder<Codec> e(model());
  std::vector<std::byte> frame(e.max_size(v));
  frame.resize(e.encode(v, frame).value());
  return frame;
}

template <class Codec>
void run(std::span<const std::uint8_t> changes, int level) {
  static const std::vector<std::byte> frame = sound<Codec>();
  std::vector<std::byte> changed = frame;
  for (std::size_t i = 0; i + 3 <= changes.size(); i += 3)
    changed[std::size_t(changes[i] | changes[i + 1] << 8) % changed.size()] ^= std::byte{changes[i + 2]};
  frames::fix_checksums(changed);
  hidden_decoder<Codec> d(model());
  std::vector<status> pages(tokens);
  int handed = 0;
  float sum = 0;
  const page_status s =
      d.project(changed,
                [&](int layer, std::int64_t at, int n, const float* rows, std::ptrdiff_t ld) {
                  require(layer >= 0 && layer < layers && at >= 0 && n > 0 && n <= int(max_tile_tokens) && ld == dim);
                  handed += n;
                  for (int i = 0; i < n * dim; ++i) sum += rows[i];
                },
                {.level = level, .pages = pages});
  volatile float used = sum;
  (void)used;
  frame_index index;
  if (s.worst == status::ok && s.outside == 0)
    require(index.parse(changed) == status::ok && handed == layers * int(index.header().tokens));
  if (changed == frame) require(s.worst == status::ok && handed == layers * tokens);
  if (s.tiles == 0) require(handed == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::span changes(data + 1, size - 1);
  const int level = data[0] / 8 % 4;
  switch (data[0] % 5) {
    case 0: run<codec::exact>(changes, level); break;
    case 1: run<codec::uncompressed>(changes, level); break;
    case 2: run<codec::int4>(changes, level); break;
    case 3: run<codec::kivi<2>>(changes, level); break;
    default: run<codec::standard>(changes, level); break;
  }
  return 0;
}
