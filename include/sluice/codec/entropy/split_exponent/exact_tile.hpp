// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/entropy/split_exponent/lossless.hpp>
#include <sluice/codec/entropy/class_rans/decode.hpp>
#include <sluice/codec/entropy/class_rans/encode.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace sluice::detail::inline SLUICE_HOST_ABI {

// split_exponent and raw: the elements as they are stored.

template <class Codec>
requires(Codec::entropy::exact) class tile_encoder<Codec> {
 public:
  tile_encoder(const profile&, isa i) : isa_(i) {}
  status state() const noexcept { return status::ok; }

  status encode(tile_input& in, int /*made*/, std::span<std::vector<std::uint8_t>> passes) {
    const std::size_t row = in.row_bytes(), size = row * std::size_t(in.count);
    elements_.resize(size);
    for (int t = 0; t < in.count; ++t) in.copy_row(t, elements_.data() + std::size_t(t) * row);
    std::span<const std::uint8_t> stream = elements_;
    if constexpr (Codec::entropy::id == split_exponent::id) {
      coded_.resize(lossless_max_size(in.plane->type, in.count, in.place.width()));
      const std::size_t n = lossless_encode(in.plane->type, in.count, in.place.width(),
                                            reinterpret_cast<const std::byte*>(elements_.data()), row,
                                            std::as_writable_bytes(std::span(coded_)), workspace_, isa_);
      stream = std::span<const std::uint8_t>(coded_).first(n);
    }
    section_writer w(passes[0]);
    w.put(tile_head{std::uint16_t(in.first), std::uint16_t(in.count), 0, 0, std::uint32_t(stream.size()), 0, 0, 0});
    w.put_bytes(stream.data(), stream.size());
    w.finish();
    return status::ok;
  }

 private:
  isa isa_;
  std::vector<std::uint8_t> elements_, coded_;
  std::vector<std::byte> workspace_;
};

template <class Codec>
requires(Codec::entropy::exact) class tile_decoder<Codec> {
 public:
  tile_decoder(const profile&, isa i) : isa_(i) {}

  void decode(std::span<tile_task> tasks) {
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      tile_task& t = tasks[i];
      const int rows = t.base.head.count, width = t.place.width();
      const std::size_t row = std::size_t(width) * std::size_t(size_of(t.type)), size = row * std::size_t(rows);
      if (t.base.head.exact || t.base.head.exceptions || t.base.head.side || t.base.head.bits) {
        t.state = status::corrupt_tile;
        continue;
      }
      if constexpr (Codec::entropy::id == split_exponent::id) {
        elements_[i].resize(size);
        t.elements = elements_[i].data();
        t.state = lossless_decode(t.type, rows, width, std::as_bytes(t.base.stream),
                                  reinterpret_cast<std::byte*>(elements_[i].data()), row, workspace_, isa_);
      } else {
        t.elements = t.base.stream.data();
        if (t.base.stream.size() != size) t.state = status::corrupt_tile;
      }
    }
  }

 private:
  isa isa_;
  std::vector<std::uint8_t> elements_[tiles_at_once];
  std::vector<std::byte> workspace_;
};

}  // namespace sluice::detail::inline SLUICE_HOST_ABI
