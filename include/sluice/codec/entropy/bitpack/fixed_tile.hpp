// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/bitpack/bitpack.hpp>
#include <sluice/codec/codec.hpp>
#include <sluice/codec/transform/coefficients.hpp>
#include <sluice/codec/entropy/class_rans/decode.hpp>
#include <sluice/codec/entropy/class_rans/encode.hpp>
#include <sluice/numeric.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace sluice::detail::inline SLUICE_HOST_ABI {

// bitpack: codes of a fixed width, one step and offset per channel (or coefficient) and tile.

inline constexpr int whole_tile = int(max_tile_tokens);  // rows that share a step: all of a tile

template <class Codec>
requires(Codec::entropy::id == bitpack::id) class tile_encoder<Codec> {
 public:
  tile_encoder(const profile& p, isa i) : isa_(i), basis_(p, i) {}
  status state() const noexcept { return Codec::transform::decorrelates ? basis_.state() : status::ok; }

  status encode(tile_input& in, int /*made*/, std::span<std::vector<std::uint8_t>> passes) {
    const int bits = Codec::bit_widths::bits(in.place.layer), width = in.place.width(), ld = padded(width);
    if constexpr (Codec::transform::decorrelates) basis_.make(in);
    const int rows = int(in.rows.size()), blocks = ld / 32;
    if constexpr (Codec::transform::decorrelates) {
      floats_.assign(basis_.values().begin(), basis_.values().end());
    } else {
      floats_.assign(std::size_t(rows) * std::size_t(ld), 0.f);
      for (int r = 0; r < rows; ++r)
        for (int i = 0; i < width; ++i) floats_[std::size_t(r * ld + i)] = in.x[r * in.ld + i];
    }
    packed_.resize(rows ? quantized_size(bits, whole_tile, rows, blocks) : 0);
    if (rows)
      if (const status s = quantize_groups(bits, whole_tile, floats_.data(), ld, rows, blocks, packed_, isa_);
          s != status::ok)
        return s;
    const bool own_mean = Codec::transform::decorrelates && in.source->mean.empty();
    section_writer w(passes[0]);
    w.put(tile_head{std::uint16_t(in.first), std::uint16_t(in.count), std::uint16_t(in.exact.size()), 0,
                    std::uint32_t(packed_.size()), std::uint8_t(own_mean ? side_classes | side_mean : 0),
                    std::uint8_t(bits), 0});
    w.put_bytes(packed_.data(), packed_.size());
    if (own_mean) {
      w.put(basis_.step());
      classes_.assign(std::size_t(width), 0);
      w.put_bytes(classes_.data(), classes_.size());
      w.put_bytes(basis_.mean_bits().data(), 2 * std::size_t(width));
    }
    w.put_bytes(in.exact.data(), 2 * in.exact.size());
    in.put_exact_rows(w);
    w.finish();
    return status::ok;
  }

 private:
  isa isa_;
  coefficient_maker basis_;
  std::vector<float> floats_;
  std::vector<std::byte> packed_;
  std::vector<std::uint8_t> classes_;
};

template <class Codec>
requires(Codec::entropy::id == bitpack::id) class tile_decoder<Codec> {
 public:
  tile_decoder(const profile& p, isa i) : isa_(i), tables_(p) {}

  void decode(std::span<tile_task> tasks) {
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      tile_task& t = tasks[i];
      scratch& s = scratch_[i];
      const int rows = t.base.rows(), ld = padded(t.place.width());
      t.stride = ld;
      t.values = nullptr;
      t.mean = tables_.of(t.place.layer, t.place.plane, t.place.group).mean.data();
      t.floats = s.floats.data();
      if (!complete(t)) {
        t.state = status::corrupt_tile;
        continue;
      }
      if (rows == 0) continue;
      if (!t.base.mean.empty()) {
        s.mean.resize(std::size_t(t.place.width()));
        for (std::size_t c = 0; c < s.mean.size(); ++c)
          s.mean[c] = to_float(f16{base_tile::load<std::uint16_t>(t.base.mean, int(c))});
        t.mean = s.mean.data();
      }
      s.floats.resize(std::size_t(rows) * std::size_t(ld));
      t.floats = s.floats.data();
      if (dequantize_groups(t.base.head.bits, whole_tile, std::as_bytes(t.base.stream), s.floats.data(), ld, rows,
                            ld / 32, isa_) != status::ok) {
        t.state = status::corrupt_tile;
        continue;
      }
      if constexpr (Codec::transform::decorrelates) {
        s.values.resize(s.floats.size());
        for (std::size_t c = 0; c < s.floats.size(); ++c)  // NaN from hostile steps becomes a number here
          s.values[c] =
              std::int16_t(detail::lrint(s.floats[c] > -32767.f ? detail::min(s.floats[c], 32767.f) : -32767.f));
        t.values = s.values.data();
      }
    }
  }

  void rows(const tile_task& t, int first, int n, float* out, std::ptrdiff_t ld) {
    const int width = t.place.width();
    if constexpr (!Codec::transform::decorrelates) {
      for (int r = 0; r < n; ++r)
        std::memcpy(out + r * ld, t.floats + (first + r) * t.stride, std::size_t(width) * sizeof(float));
    } else {
      const std::int16_t* c = t.values + first * t.stride;
      const std::uint16_t* matrix = t.source->matrix_of(t.place.group);
      const float scale = t.source->scale * t.base.step;
      if (!matrix) return dequantize_rows(isa_, c, t.stride, n, width, scale, t.mean, width, out, ld);
      workspace_.resize(dense_workspace(n, width, width));
      inverse_transform(isa_,
                        {.c = c,
                         .ldc = t.stride,
                         .matrix = matrix,
                         .mean = t.mean,
                         .scale = scale,
                         .x = out,
                         .ldx = ld,
                         .rows = n,
                         .k = width,
                         .n = width,
                         .matrix_rows = width},
                        workspace_.data());
    }
  }

 private:
  // Whether a tile has the parts that its rows need and no others.
  static bool complete(const tile_task& t) noexcept {
    const base_tile& b = t.base;
    if (b.head.exceptions || b.head.side & side_deltas) return false;
    if (b.rows() == 0) return b.stream.empty() && !b.head.side && !b.head.bits;
    const bool own_mean = Codec::transform::decorrelates && t.source->mean.empty();
    for (const std::uint8_t cls : b.classes)
      if (cls) return false;
    for (std::size_t i = 0; i < b.mean.size() / 2; ++i)
      if (!finite_f16(base_tile::load<std::uint16_t>(b.mean, int(i)))) return false;
    return b.head.bits > 0 && b.head.side == (own_mean ? side_classes | side_mean : 0);
  }

  struct scratch {
    std::vector<float> floats, mean;
    std::vector<std::int16_t> values;
  };
  isa isa_;
  profile_tables tables_;
  scratch scratch_[tiles_at_once];
  std::vector<float> workspace_;
};

}  // namespace sluice::detail::inline SLUICE_HOST_ABI
