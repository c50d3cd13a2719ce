// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/quantize/embedded.hpp>
#include <sluice/codec/stages.hpp>
#include <sluice/codec/transform/identity.hpp>
#include <sluice/codec/transform/profile_basis.hpp>
#include <sluice/cuda/entropy/row_steps.cuh>
#include <sluice/cuda/strand.hpp>
#include <sluice/cuda/workspace.hpp>
#include <sluice/format/tile.hpp>

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

// What a decode on a device asks of each stage of a codec: the device's half of the contracts in codec/stages.hpp. A
// policy takes part once these templates are specialised for it, the library's and a user's alike
// (test/unit/cuda/custom_stage_test.cpp does it as a user):
//   transform_stage<Transform>   static __device__ bool open(const opened_tile&)
//   quantizer_stage<Quantizer>   static __device__ bool open(const opened_tile&, opened_quantizer&)
//   entropy_stage<EntropyModel>  static status init(const model_sizes&, const device_limits&)
//                                static status launch(const decode_state&, const model_sizes&, const device_limits&, cudaStream_t)
//                                static constexpr std::uint64_t bytes(const model_sizes&, std::int32_t strands), if it needs memory
// open() says whether the stage's own section is what it must be, and a quantiser's also step, scale and bits. A warp calls
// it, and all lanes answer alike. It is asked of strands without rows, too, where every section is empty as on a host.
// launch() puts kernels into the stream that turn sections into values, for all strands whose state is ok; it neither
// waits nor allocates. Of each strand the kernels set
//   values       at values_at: int16 [rows][ld] at the strand's level, what lies between width and ld zero
//   live         columns from here on are zero, and need not have been written
//   exceptions   of each pass up to the level: where they stand in the frame, checked against rows and width; or {}
// or state = corrupt_tile where a host refuses the bytes, which are untrusted: sizes of sections are those of the frame.
// store_stage<Codec> has init() and launch() as well and puts values into pages; without one of its own a codec has that of
// cuda/entropy/integer_stages.cuh: values times scale, in a profile's basis or as they are.
// A codec whose rows have steps of their own (token_steps) asks for entropy_stage<row_stepped<EntropyModel>>, which heeds
// the classes in strand::steps; what puts values into pages heeds them wherever they are. Codecs that predict have no
// stages here.
// A codec of another make than basic_codec and stored_codec specialises codec_stages as a whole.

namespace sluice::cuda {

/// One strand as its stages open it. All 32 lanes of a warp see the same.
struct opened_tile {
  const model_head* head;     ///< of the model
  const plane_model* plane;   ///< of the group
  const group_model* group;   ///< of the strand
  const std::uint8_t* frame;  ///< its first byte; pieces of the strand lie behind it
  const strand* s;            ///< envelope, sections and level are set
  unsigned lane;              ///< of the thread
};

template <class Transform>
struct transform_stage;
template <class Quantizer>
struct quantizer_stage;
template <class EntropyModel>
struct entropy_stage;
template <class Codec>
struct store_stage;

/// open(): all lanes call it; false in all of them = corrupt. Section: f16 mean[width] where the profile has none.
template <>
struct transform_stage<profile_basis> {
  /// All 32 lanes call it.
  static __device__ bool open(const opened_tile& t) {
    const piece section = t.s->transform;
    if (t.group->mean_at != 0 || t.s->rows() == 0) return section.size == 0;
    if (section.size != 2 * static_cast<std::uint32_t>(t.group->width)) return false;
    bool finite = true;
    for (int i = static_cast<int>(t.lane); i < t.group->width; i += 32)
      finite = finite && (sluice::detail::load_u16(t.frame + section.at + 2 * i) & 0x7c00u) != 0x7c00u;
    return __all_sync(0xffffffffu, finite) != 0;
  }
};

/// open(): the same; there is no section.
template <>
struct transform_stage<identity_transform> {
  /// All 32 lanes call it.
  static __device__ bool open(const opened_tile& t) { return t.s->transform.size == 0; }
};

/// What a quantiser says of a strand besides whether its section is sound.
struct opened_quantizer {
  float step = 1;   ///< of the finest level
  float scale = 1;  ///< the same at the strand's level
  int bits = 0;     ///< of codes of a fixed width
};

/// Section: f32 step where it is not 1.
template <int Refinements>
struct quantizer_stage<embedded<Refinements>> {
  /// All 32 lanes call it.
  static __device__ bool open(const opened_tile& t, opened_quantizer& out) {
    const piece section = t.s->quantizer;
    if (section.size != 0) {
      if (section.size != 4) return false;
      const std::uint32_t bits = sluice::detail::load_u32(t.frame + section.at);
      if (bits - 1u >= 0x7f7fffffu) return false;  // positive and finite
      out.step = __uint_as_float(bits);
    }
    out.scale = __fmul_rn(out.step, static_cast<float>(sluice::detail::power_of_3(t.head->depth - 1 - t.s->level)));
    return true;
  }
};

/// Names the stage of an entropy model whose rows have steps of their own.
template <class EntropyModel>
struct row_stepped;

namespace detail {

// Whether rows of a codec have steps of their own.
template <class Codec>
concept steps_rows = sets_rows<typename Codec::bit_widths>;

// No device has the stages of codecs that predict.
template <class Codec>
concept predicts = requires {
  requires Codec::predictor::predicts;
};
template <class Codec>
concept has_stages = !predicts<Codec> && requires {
  typename Codec::entropy;
};

template <class Codec>
struct entropy_of {
  using type = void;
};
template <has_stages Codec>
struct entropy_of<Codec> {
  using entropy = typename Codec::entropy;
  using type = std::conditional_t<steps_rows<Codec>, row_stepped<entropy>, entropy>;
};

}  // namespace detail

/// The stages of a codec together: by default those that its policies name.
template <class Codec>
struct codec_stages {
  /// Of the entropy model.
  using entropy = entropy_stage<typename detail::entropy_of<Codec>::type>;
  /// Values to pages.
  using store = store_stage<Codec>;
  /// Whether values are elements as they were.
  static constexpr bool stored = Codec::domain == value_domain::stored;

  /// Once for each device, outside of a capture. Errors: cuda_error.
  static status init(const model_sizes& m, const device_limits& limits) {
    const status s = entropy::init(m, limits);
    return s == status::ok ? store::init(m, limits) : s;
  }
  /// Bytes of the workspace at decode_state::stages_at, which entropy stages may take.
  static constexpr std::uint64_t bytes(const model_sizes& m, std::int32_t strands) noexcept {
    if constexpr (requires { entropy::bytes(m, strands); })
      return entropy::bytes(m, strands);
    else
      return 0;
  }
  /// From opened strands to values in pages. Errors: cuda_error.
  static status decode(const decode_state& d, const model_sizes& m, const device_limits& limits, cudaStream_t stream) {
    const status s = entropy::launch(d, m, limits, stream);
    return s == status::ok ? store::launch(d, m, limits, stream) : s;
  }

  /// Whether what the codec wrote of a strand is sound, as far as can be said before it is decoded.
  static __device__ bool open(const opened_tile& t, opened_quantizer& out) {
    if constexpr (stored) {
      return true;
    } else {
      if (!transform_stage<typename Codec::transform>::open(t)) return false;
      if (!quantizer_stage<typename Codec::quantizer>::open(t, out)) return false;
      if constexpr (detail::steps_rows<Codec>)
        if (!steps_fit(t.frame, t.s->steps, t.s->rows(), t.lane)) return false;
      if (t.s->rows() == 0)  // then no pass has a section
        for (int pass = 0; pass <= t.s->level; ++pass)
          if (t.s->entropy[pass].size != 0) return false;
      return true;
    }
  }
};

}  // namespace sluice::cuda
