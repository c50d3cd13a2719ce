// SPDX-License-Identifier: Apache-2.0
// A codec whose quantiser and entropy model are somebody else's, also on a device: host half and device half are written
// here, as an application would write them. What the kernels decode and refuse is what the host does.
#include <cuda_on_host.hpp>

#include <sluice/codec/presets.hpp>
#include <sluice/cuda/decode.cuh>

#include <doctest/doctest.h>
#include <support/cuda_presets_checks.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace mine {

/// Quantiser: steps that are powers of two. Section: i8 exponent, always there.
struct power_steps {
  static constexpr sluice::stage_id id = sluice::stage_id::of(130);
  static constexpr int passes = 1;
  static constexpr bool fixed_width = false, rounds = false;
  static int depth(const sluice::profile&) { return 1; }

  struct encoder {
    explicit encoder(sluice::isa) {}

    sluice::status quantize(const sluice::coefficients& in, float step, sluice::symbols& out,
                            std::span<std::uint8_t> beyond, sluice::tile_writer& w) {
      const int exponent = step > 0 && std::isfinite(step) ? std::clamp(std::ilogb(step), -60, 60) : 0;
      w.at(0, sluice::section::quantizer).clear();
      w.put(0, sluice::section::quantizer, static_cast<std::int8_t>(exponent));
      out.calibrated = false;
      for (int r = 0; r < in.rows; ++r)
        for (int i = 0; i < in.width; ++i) {
          const auto at = std::size_t(r * in.ld + i);
          const float q = std::nearbyint(std::ldexp(in.y[at], -exponent));
          if (!(std::abs(q) <= 32767)) beyond[std::size_t(r)] = 1;
          out.finest[at] = static_cast<std::int16_t>(std::abs(q) <= 32767 ? q : 0.f);
        }
      return sluice::status::ok;
    }
    void split(sluice::symbols& s) const { s.values = s.finest; }
  };

  struct decoder {
    explicit decoder(sluice::isa) {}

    bool open(const sluice::tile& t, int slot, sluice::decoded_symbols& s) {
      sluice::section_reader in(t.section(0, sluice::section::quantizer));
      s.calibrated = false;
      if (t.rows() == 0) return in.finished();  // nothing is coded of a tile whose tokens are all exact
      const int exponent = in.get<std::int8_t>();
      step[slot] = std::ldexp(1.f, exponent);
      return in.finished() && std::abs(exponent) <= 60;
    }
    void restore(const sluice::tile&, int slot, const sluice::decoded_symbols& s, int first, int n,
                 sluice::coefficient_rows& out) {
      out.values = s.values + first * s.ld;
      out.ld = s.ld;
      out.rows = n;
      out.live = s.live;
      out.scale = step[slot];
      corrections.clear();
      for (const sluice::coefficient_correction& c : s.corrections)
        if (c.row >= first && c.row < first + n) corrections.push_back({c.row - first, c.coefficient, c.value});
      out.corrections = corrections;
    }

    float step[sluice::tiles_at_once] = {};
    std::vector<sluice::coefficient_correction> corrections;
  };
};

/// Entropy model: a byte a value, row by row; what a byte does not hold follows as exceptions, in order.
struct one_byte {
  static constexpr sluice::stage_id id = sluice::stage_id::of(131);
  static constexpr bool fixed_width = false;
  static bool uses(const sluice::profile&) { return false; }

  struct encoder {
    encoder(const sluice::profile&, sluice::isa) {}

    sluice::status encode(sluice::symbols& s, sluice::tile_writer& w) {
      std::vector<sluice::exception> rest;
      for (int r = 0; r < s.rows; ++r)
        for (int i = 0; i < s.width; ++i) {
          const int v = s.values[std::size_t(r * s.ld + i)], byte = std::clamp(v, -128, 127);
          w.put(0, sluice::section::entropy, static_cast<std::int8_t>(byte));
          if (v != byte) rest.push_back({static_cast<std::uint16_t>(r), static_cast<std::uint16_t>(i), v - byte});
        }
      for (const sluice::exception& e : rest) w.put(0, sluice::section::entropy, e);
      return sluice::status::ok;
    }
  };

  struct decoder {
    decoder(const sluice::profile&, sluice::isa) {}

    void decode(std::span<sluice::decoded_symbols> batch) {
      for (sluice::decoded_symbols& s : batch)
        if (!decode(s)) s.state = sluice::status::corrupt_tile;
    }

   private:
    static bool decode(sluice::decoded_symbols& s) {
      sluice::section_reader in(s.tile->section(0, sluice::section::entropy));
      const int rows = s.tile->rows(), width = s.tile->place.width();
      for (int r = 0; r < rows; ++r)
        for (int i = 0; i < width; ++i) s.values[r * s.ld + i] = in.get<std::int8_t>();
      while (in.ok() && !in.finished()) {
        const auto e = in.get<sluice::exception>();
        if (e.row >= rows || e.coefficient >= width) return false;
        s.corrections.push_back({e.row, e.coefficient, static_cast<float>(e.correction)});
      }
      return in.finished();
    }
  };
};

/// The entropy model on a device, a block of threads a strand.
__global__ void one_byte_kernel(sluice::cuda::decode_state d) {
  sluice::cuda::strand& s = d.strands[blockIdx.x];
  if (s.state != sluice::status::ok) return;
  const sluice::cuda::group_model& g = sluice::cuda::group_of(d.image, s.group);
  const std::byte* const section = d.requests[s.request].asked.frame + s.entropy[0].at;
  const auto coded = static_cast<std::uint32_t>(s.rows() * g.width), size = s.entropy[0].size;
  const std::uint32_t rest = size < coded ? 0 : size - coded, n = rest / sizeof(sluice::exception);
  bool sound = size >= coded && rest % sizeof(sluice::exception) == 0;
  for (std::uint32_t i = threadIdx.x; sound && i < n; i += blockDim.x) {
    sluice::exception e;
    std::memcpy(&e, section + coded + sizeof e * i, sizeof e);
    sound = e.row < s.rows() && e.coefficient < g.width;
  }
  if (__syncthreads_and(sound) == 0) {
    if (threadIdx.x == 0) s.state = sluice::status::corrupt_tile;
    return;
  }
  auto* const values = reinterpret_cast<std::int16_t*>(d.workspace + s.values_at);
  for (int i = static_cast<int>(threadIdx.x); i < s.rows() * g.ld; i += static_cast<int>(blockDim.x)) {
    const int row = i / g.ld, column = i % g.ld;
    values[i] = column < g.width ? static_cast<std::int8_t>(section[row * g.width + column]) : std::int16_t{0};
  }
  if (threadIdx.x != 0) return;
  s.live = s.rows() == 0 ? 0 : g.width;
  for (int pass = 0; pass <= s.level; ++pass) s.exceptions[pass] = {};
  s.exceptions[0] = {s.entropy[0].at + coded, rest};
}

using codec = sluice::codec::standard::with_quantizer<power_steps>::with_entropy<one_byte>;

}  // namespace mine

template <>
struct sluice::cuda::quantizer_stage<mine::power_steps> {
  static __device__ bool open(const opened_tile& t, opened_quantizer& out) {
    const piece section = t.s->quantizer;
    if (t.s->rows() == 0) return section.size == 0;
    if (section.size != 1) return false;
    const int exponent = static_cast<std::int8_t>(t.frame[section.at]);
    if (exponent < -60 || exponent > 60) return false;
    out.step = out.scale = __uint_as_float(static_cast<std::uint32_t>(127 + exponent) << 23);
    return true;
  }
};

template <>
struct sluice::cuda::entropy_stage<mine::one_byte> {
  static status init(const model_sizes&, const device_limits&) { return status::ok; }
  static status launch(const decode_state& d, const model_sizes&, const device_limits&, cudaStream_t stream) {
    return cuda::launch(&mine::one_byte_kernel, d.num_strands, 128, 0, stream, d);
  }
};

using namespace sluice;

TEST_CASE("a stranger's stages on the device: without a basis") {
  presets_checks::preset_is_the_same<mine::codec, 32>("power_steps, one_byte", 75, 20261216, 8);
}

TEST_CASE("a stranger's stages on the device: in a basis") {
  presets_checks::preset_is_the_same<mine::codec, 32>("power_steps, one_byte in a basis", 75, 20261217, 8,
                                                      presets_checks::calibrate);
}

TEST_CASE("a stranger's stages on the device: a real cache") {
  presets_checks::captured_is_the_same<mine::codec>(128, dtype::bf16);
}

TEST_CASE("a stranger's stages on the device: sections that are not theirs") {
  const real_cache real;
  const kv_view some = real.view.slice(0, 20);
  encoder<mine::codec> encoder(real.model);
  std::vector<std::byte> frame(encoder.max_size(some));
  frame.resize(*encoder.encode(some, frame));
  cuda_checks::device_codec<mine::codec> device(real.model);
  decoder<mine::codec> host(real.model);
  const caches::cache to = caches::make_cache(real.model.shape, 20, dtype::f16, caches::engine::vllm_nhd);
  for (std::size_t size : {frame.size() - 1, frame.size() / 2, std::size_t{100}})
    cuda_checks::check(device, host, {{.frame = std::span(frame).first(size), .view = to.view()}});
  decoder<> other(real.model);  // and none of theirs is taken for a preset's
  CHECK(other.decode(frame, to.view()).worst != status::ok);
}
