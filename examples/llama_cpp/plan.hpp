// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "blocks.hpp"
#include "state.hpp"

#include <sluice/model/profile.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/view.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

// How the rows of a state are coded: cut into chunks of consecutive positions of the same sequences, each a frame. Packing
// and unpacking both derive the plan from the skeleton and the profile.

namespace slot::detail {

enum class coding : std::uint8_t {
  standard,   ///< floats, in place
  quantised,  ///< q8_0: as floats aside, turned back
  exact,      ///< bit for bit
  verbatim,   ///< as bytes: what no codec takes
};

// Consecutive cells in `order` of a part, that hold consecutive positions.
struct chunk {
  int part = 0;
  std::int64_t first = 0, tokens = 0, position = 0;
  bool verbatim = false;
};

struct part_plan {
  coding how = coding::verbatim;
  const sluice::profile* profile = nullptr;
  std::shared_ptr<const sluice::profile> own{};  ///< of the exact codec, which needs nothing but a shape
  std::vector<std::int32_t> layers{};            ///< of the model, for each layer of the part
  std::vector<std::int32_t> order{};             ///< cells, so that positions of a sequence ascend
};

struct plan {
  std::vector<part_plan> parts;
  std::vector<chunk> chunks;
};

constexpr std::int64_t chunk_tokens = 256;

inline sluice::dtype float_type(std::int32_t type) noexcept {
  return type == type_f32 ? sluice::dtype::f32 : type == type_bf16 ? sluice::dtype::bf16 : sluice::dtype::f16;
}
constexpr bool is_float(std::int32_t type) noexcept {
  return type == type_f32 || type == type_f16 || type == type_bf16;
}

// Model layers of the part; none where the profile is of another model.
inline std::vector<std::int32_t> layers_of(const part& p, const sluice::model_shape& shape) {
  std::vector<std::int32_t> all, full, sliding;
  for (int l = 0; l < shape.num_layers(); ++l) {
    const sluice::layer_shape& s = shape.layers[std::size_t(l)];
    if (s.absent()) continue;
    all.push_back(l);
    (s.window ? sliding : full).push_back(l);
  }
  for (const auto* list : {&all, p.cache ? &sliding : &full})
    if (list->size() == p.k.size() && (list != &all || p.cache == 0)) return *list;
  return {};
}

// Whether rows of the part are K and V of these layers, in types that codecs with loss take.
inline bool suits(const part& p, const sluice::profile& profile, std::span<const std::int32_t> layers, coding& how) {
  if (layers.empty()) return false;
  how = is_float(p.k[0].type) ? coding::standard : coding::quantised;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const sluice::layer_shape& s = profile.shape.layers[std::size_t(layers[i])];
    if ((s.head_dim_v == 0) != p.v.empty()) return false;
    for (const auto which : {sluice::plane::key, sluice::plane::value}) {
      if (s.head_dim(which) == 0) continue;
      const rows& r = which == sluice::plane::key ? p.k[i] : p.v[i];
      const block_size b = block_of(r.type);
      const auto width = std::uint64_t(s.num_kv_heads) * std::uint64_t(s.head_dim(which));
      if (!b.bytes || width % b.elements || r.row != width / b.elements * b.bytes) return false;
      if (is_float(r.type) != (how == coding::standard)) return false;
      if (how == coding::quantised && which == sluice::plane::value && p.v_trans) return false;
      if (const int turn = p.turn[int(which)]; turn > 0 && s.head_dim(which) % turn) return false;
    }
  }
  return true;
}

// A shape for the exact codec, which only wants to know how large things are: heads of at most 256 elements where that
// goes. Opaque bytes where rows are blocks of something. False where no codec takes it.
inline bool exact_shape(const part& p, sluice::model_shape& shape) {
  for (std::size_t i = 0; i < p.k.size(); ++i) {
    std::uint64_t width[2] = {};
    for (const int v : {0, 1}) {
      if (v && p.v.empty()) continue;
      const rows& r = v ? p.v[i] : p.k[i];
      if (v && p.v_trans && !is_float(r.type)) return false;
      width[v] = is_float(r.type) ? r.row / block_of(r.type).bytes : r.row;
    }
    std::uint64_t heads = 1;
    const std::uint64_t both = width[1] ? std::gcd(width[0], width[1]) : width[0], most = std::max(width[0], width[1]);
    while (heads < both && heads < 4096 && (both % heads || most / heads > 256)) ++heads;
    if (both % heads || most / heads > 16384) return false;
    shape.layers.push_back({std::int32_t(heads), std::int32_t(width[0] / heads), std::int32_t(width[1] / heads), 0, 0});
  }
  return true;
}

// Cuts the cells of a part into chunks.
inline void cut(const part& p, int number, int sinks, std::int64_t most, part_plan& to, std::vector<chunk>& chunks) {
  const auto cells = std::int64_t(p.positions.size());
  to.order.resize(p.positions.size());
  std::iota(to.order.begin(), to.order.end(), 0);
  const auto key = [&](std::int32_t c) { return std::pair(p.sequences[std::size_t(c)], p.positions[std::size_t(c)]); };
  const bool by_position = to.how == coding::standard || to.how == coding::quantised;
  if (by_position) std::stable_sort(to.order.begin(), to.order.end(), [&](auto a, auto b) { return key(a) < key(b); });
  for (std::int64_t a = 0; a < cells;) {
    chunk c{number, a, 1, a, to.how == coding::verbatim};
    if (by_position) {
      const auto sequence = key(to.order[std::size_t(a)]).first;
      const auto position = key(to.order[std::size_t(a)]).second;
      // The first tokens are kept exact, which blocks are as they are.
      const bool sink = to.how == coding::quantised && position < sinks;
      c.position = position, c.verbatim = sink;
      const auto follows = [&](std::int64_t b) {
        const auto [s, q] = key(to.order[std::size_t(b)]);
        return s == sequence && q == position + (b - a) && !(sink && q >= sinks);
      };
      while (a + c.tokens < cells && c.tokens < most && follows(a + c.tokens)) ++c.tokens;
    } else {
      c.tokens = std::min(most, cells - a);
    }
    chunks.push_back(c);
    a += c.tokens;
  }
}

/// `profile` may be null, and everything is then coded bit for bit. Errors: wrong_shape (a profile that does not match).
inline sluice::result<plan> make_plan(const state& s, const sluice::profile* profile,
                                      std::int64_t most = chunk_tokens) {
  plan out;
  for (const part& p : s.parts) {
    part_plan& to = out.parts.emplace_back();
    if (profile) {
      to.layers = layers_of(p, profile->shape);
      if (to.layers.empty()) return sluice::status::wrong_shape;
      if (suits(p, *profile, to.layers, to.how)) {
        to.profile = profile;
      } else {
        // Types that no codec with loss takes are kept; rows of another size are another model's.
        for (const auto* list : {&p.k, &p.v})
          for (std::size_t i = 0; i < list->size(); ++i) {
            const sluice::layer_shape& l = profile->shape.layers[std::size_t(to.layers[i])];
            const rows& r = (*list)[i];
            const auto width =
                std::uint64_t(l.num_kv_heads) * std::uint64_t(list == &p.k ? l.head_dim_k : l.head_dim_v);
            if (const block_size b = block_of(r.type); b.bytes && r.row / b.bytes * b.elements != width)
              return sluice::status::wrong_shape;
          }
      }
    }
    if (!to.profile) {
      sluice::model_shape shape;
      if (exact_shape(p, shape)) {
        to.how = coding::exact;
        to.own = std::make_shared<const sluice::profile>(sluice::profile::uncalibrated(shape));
        to.profile = to.own.get();
        to.layers.resize(p.k.size());
        std::iota(to.layers.begin(), to.layers.end(), 0);
      } else {
        to.how = coding::verbatim;
      }
    }
    cut(p, int(out.parts.size()) - 1, profile ? profile->sinks : 0, most, to, out.chunks);
  }
  return out;
}

// Views of a chunk, one for each layer, into the state's own bytes; `base` is where the state begins.
inline void views_of(const part& p, const part_plan& plan, const chunk& c, std::byte* base,
                     std::vector<sluice::kv_view>& out) {
  out.clear();
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    const sluice::layer_shape& s = plan.profile->shape.layers[std::size_t(plan.layers[i])];
    sluice::kv_view& v = out.emplace_back();
    v.num_layers = 1, v.num_kv_heads = s.num_kv_heads, v.layer_ids = &plan.layers[i];
    v.mode = sluice::addressing::slots;
    v.indices = plan.order.data(), v.num_indices = v.capacity = std::int64_t(plan.order.size());
    v.first = c.first, v.tokens = c.tokens, v.position = c.position;
    for (const auto which : {sluice::plane::key, sluice::plane::value}) {
      if (s.head_dim(which) == 0) continue;
      const rows& r = which == sluice::plane::key ? p.k[i] : p.v[i];
      sluice::plane_view& to = which == sluice::plane::key ? v.k : v.v;
      to.base = base + r.at;
      to.type = is_float(r.type) ? float_type(r.type) : sluice::dtype::bytes;
      to.head_dim = s.head_dim(which);
      const std::int64_t element = size_of(to.type);
      to.element_stride = element, to.head_stride = element * to.head_dim, to.token_stride = std::int64_t(r.row);
      if (which == sluice::plane::value && p.v_trans) {
        to.token_stride = element;
        to.element_stride = element * std::int64_t(p.positions.size());
        to.head_stride = to.element_stride * to.head_dim;
      }
    }
  }
}

// Rows of q8_0 of a chunk as floats beside the state, turned back where llama.cpp turned them; and the way back.
class dense_chunk {
 public:
  dense_chunk(const part& p, const part_plan& plan, const chunk& c, bool turned)
      : part_(&p), plan_(&plan), chunk_(c), turned_(turned) {
    std::size_t total = 0;
    for (const std::int32_t l : plan.layers) total += std::size_t(c.tokens) * std::size_t(width(l, 0) + width(l, 1));
    values_.resize(total);
    std::byte* at = reinterpret_cast<std::byte*>(values_.data());
    for (const std::int32_t& l : plan.layers) {
      const sluice::layer_shape& s = plan.profile->shape.layers[std::size_t(l)];
      sluice::kv_view& v = views_.emplace_back();
      v.num_layers = 1, v.num_kv_heads = s.num_kv_heads, v.layer_ids = &l;
      v.tokens = v.capacity = c.tokens, v.position = c.position;
      for (const int which : {0, 1}) {
        if (width(l, which) == 0) continue;
        sluice::plane_view& to = which ? v.v : v.k;
        to.base = at, to.head_dim = s.head_dim(sluice::plane(which)), to.element_stride = 4;
        to.type = sluice::dtype::f32, to.head_stride = 4 * to.head_dim, to.token_stride = 4 * width(l, which);
        at += to.token_stride * c.tokens;
      }
    }
  }

  std::span<const sluice::kv_view> views() const noexcept { return views_; }

  void load(const std::byte* state) {
    each_row(state, [](const std::byte* row, float* x, int n, int turn) {
      load_q8_0(row, x, n);
      if (turn) hadamard(x, n, turn);
    });
  }
  /// Changes what it holds.
  void store(std::byte* state) {
    each_row(state, [&](const std::byte* row, float* x, int n, int turn) {
      if (turn) hadamard(x, n, turn);
      store_q8_0(x, state + (row - state), n);
    });
  }

 private:
  int width(std::int32_t layer, int which) const noexcept {
    const sluice::layer_shape& s = plan_->profile->shape.layers[std::size_t(layer)];
    return s.num_kv_heads * s.head_dim(sluice::plane(which));
  }
  // f(row of the state, the floats beside it, how many, size of the Hadamard matrix or 0)
  template <class F>
  void each_row(const std::byte* state, const F& f) {
    for (std::size_t i = 0; i < plan_->layers.size(); ++i)
      for (const int which : {0, 1}) {
        const int n = width(plan_->layers[i], which);
        if (n == 0) continue;
        const sluice::plane_view& to = which ? views_[i].v : views_[i].k;
        const rows& r = which ? part_->v[i] : part_->k[i];
        const int told = part_->turn[which];
        const int turn = told >= 0 ? told : turned_ ? hadamard_size(to.head_dim, which == 0) : 0;
        for (std::int64_t t = 0; t < chunk_.tokens; ++t) {
          const auto cell = std::uint64_t(plan_->order[std::size_t(chunk_.first + t)]);
          f(state + r.at + cell * r.row, reinterpret_cast<float*>(to.base + t * to.token_stride), n, turn);
        }
      }
  }

  const part* part_;
  const part_plan* plan_;
  chunk chunk_;
  bool turned_;
  std::vector<float> values_;
  std::vector<sluice::kv_view> views_;
};

// The bytes of a chunk's cells in all rows, f(pointer, size): what is kept verbatim.
template <class Byte, class F>
void each_run(const part& p, const part_plan& plan, const chunk& c, Byte* state, const F& f) {
  for (const auto* planes : {&p.k, &p.v})
    for (const rows& r : *planes) {
      const bool transposed = planes == &p.v && p.v_trans;
      const std::uint64_t cells = p.positions.size();
      for (std::int64_t t = 0; t < c.tokens; ++t) {
        const auto cell = std::uint64_t(plan.order[std::size_t(c.first + t)]);
        if (!transposed) {
          f(state + r.at + cell * r.row, std::size_t(r.row));
          continue;
        }
        const block_size b = block_of(r.type);
        const std::uint64_t element = b.bytes ? b.bytes : 1;
        for (std::uint64_t e = 0; e < r.row / element; ++e)
          f(state + r.at + (e * cells + cell) * element, std::size_t(element));
      }
    }
}

}  // namespace slot::detail
