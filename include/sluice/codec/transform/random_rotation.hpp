// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/stages.hpp>
#include <sluice/numeric.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace sluice {

namespace detail {

// An orthogonal matrix that is told by its size and a seed, the same on every machine: random signs, then a Hadamard
// matrix. Where the size is no power of two the matrix takes as many of the first channels as it can, then of the last ones,
// and both once more: entries are then about as uneven as those of any random matrix.
class hadamard_rotation {
 public:
  hadamard_rotation(int size, std::uint32_t seed) : size_(size), block_(int(std::bit_floor(unsigned(size)))) {
    // 4^k has a root that is a number of few bits; the others round once.
    const int log = std::countr_zero(unsigned(block_));
    scale_ = (log % 2 ? 0.70710678f : 1.f) / float(1 << log / 2);
    rounds_ = block_ == size ? 1 : 4;
    signs_.resize(std::size_t(rounds_) * std::size_t(size));
    for (float& s : signs_) {
      seed = seed * 1664525 + 1013904223;
      s = seed >> 31 ? -1.f : 1.f;
    }
  }

  int size() const noexcept { return size_; }

  void forward(float* x) const noexcept {
    for (int round = 0; round < rounds_; ++round) {
      flip(x, round);
      multiply(x);
      reverse(x);
    }
  }
  void inverse(float* x) const noexcept {
    for (int round = rounds_; round-- > 0;) {
      reverse(x);
      multiply(x);
      flip(x, round);
    }
  }

 private:
  void flip(float* x, int round) const noexcept {
    const float* const sign = &signs_[std::size_t(round) * std::size_t(size_)];
    for (int i = 0; i < size_; ++i) x[i] *= sign[i];
  }
  // So that channels behind the block come into it.
  void reverse(float* x) const noexcept {
    for (int i = 0, k = size_ - 1; rounds_ > 1 && i < k; ++i, --k) {
      const float a = x[i];
      x[i] = x[k];
      x[k] = a;
    }
  }
  // By the Hadamard matrix of the block, which is its own inverse.
  void multiply(float* x) const noexcept {
    for (int half = 1; half < block_; half *= 2)
      for (int i = 0; i < block_; i += 2 * half)
        for (int k = i; k < i + half; ++k) {
          const float a = x[k], b = x[k + half];
          x[k] = a + b;
          x[k + half] = a - b;
        }
    for (int i = 0; i < block_; ++i) x[i] *= scale_;
  }

  int size_, block_, rounds_ = 1;
  float scale_;
  std::vector<float> signs_;  // [rounds][size]
};

// Rotations of heads of the sizes that a model has.
class head_rotations {
 public:
  explicit head_rotations(std::uint32_t seed) : seed_(seed) {}
  hadamard_rotation& of(int head_dim) {
    for (hadamard_rotation& r : known_)
      if (r.size() == head_dim) return r;
    return known_.emplace_back(head_dim, seed_);
  }

 private:
  std::uint32_t seed_;
  std::vector<hadamard_rotation> known_;
};

}  // namespace detail

inline namespace SLUICE_HOST_ABI {

/// Transform policy: every head of a token is turned by a random orthogonal matrix, after which no channel is louder than
/// others; keys under their rotary embedding. The matrix follows from head_dim and `Seed` (FORMAT.md section 6.7). No
/// profile, no section. Source: TurboQuant (arXiv 2504.19874) for the rotation; signs and Hadamard for the matrix, which
/// its implementations in vLLM and LMCache take as well.
template <std::uint32_t Seed = 1>
struct random_rotation {
  static_assert(Seed < 1u << 24, "sluice::random_rotation<Seed>: below 2^24");
  static constexpr stage_id id = stage_id::of(2, Seed);
  static constexpr value_domain domain = value_domain::rotated;
  static bool uses(const profile&) noexcept { return false; }

  class encoder {
   public:
    encoder(const profile&, isa) : rotations_(Seed) {}
    status state() const noexcept { return status::ok; }
    status forward(const tile_rows& in, coefficients& out, tile_writer&) {
      detail::hadamard_rotation& by = rotations_.of(in.place.head_dim);
      out.calibrated = false;
      for (int r = 0; r < out.rows; ++r) {
        float* const y = &out.y[std::size_t(r) * std::size_t(out.ld)];
        std::memcpy(y, in.x + r * in.ld, std::size_t(out.width) * sizeof(float));
        for (int h = 0; h < in.place.heads; ++h) by.forward(y + h * by.size());
      }
      return status::ok;
    }

   private:
    detail::head_rotations rotations_;
  };

  class decoder {
   public:
    decoder(const profile&, isa) : rotations_(Seed) {}
    status state() const noexcept { return status::ok; }
    bool calibrated(const group_place&) const noexcept { return false; }
    bool open(const tile& t, int /*slot*/) const noexcept { return t.section(0, section::transform).empty(); }
    void inverse(const tile& t, int /*slot*/, const coefficient_rows& c, float* out, std::ptrdiff_t ld) {
      detail::hadamard_rotation& by = rotations_.of(t.place.head_dim);
      const int width = t.place.width(), live = detail::min(c.live, width);
      for (int r = 0; r < c.rows; ++r)
        for (int i = 0; i < width; ++i)
          out[r * ld + i] = i >= live  ? 0.f
                            : c.floats ? c.floats[r * c.ld + i]
                                       : c.scale * float(c.values[r * c.ld + i]);
      for (const coefficient_correction& e : c.corrections) out[e.row * ld + e.coefficient] += c.scale * e.value;
      for (int r = 0; r < c.rows; ++r)
        for (int h = 0; h < t.place.heads; ++h) by.inverse(out + r * ld + h * by.size());
    }

   private:
    detail::head_rotations rotations_;
  };
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
