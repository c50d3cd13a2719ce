// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "failure.hpp"

#include <sluice/tensor/view.hpp>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// Views of what Python hands over: arrays through DLPack or the buffer protocol, any strides; of K and V nothing is copied.

namespace nb = nanobind;

/// Whether arrays are only read.
enum class purpose { read, write };

/// The element type with this name.
inline sluice::dtype type_named(std::string_view name) {
  constexpr std::pair<const char*, sluice::dtype> names[] = {
      {"f32", sluice::dtype::f32},       {"float32", sluice::dtype::f32},      {"f16", sluice::dtype::f16},
      {"float16", sluice::dtype::f16},   {"half", sluice::dtype::f16},         {"bf16", sluice::dtype::bf16},
      {"bfloat16", sluice::dtype::bf16}, {"e4m3", sluice::dtype::e4m3},        {"float8_e4m3fn", sluice::dtype::e4m3},
      {"e5m2", sluice::dtype::e5m2},     {"float8_e5m2", sluice::dtype::e5m2}, {"bytes", sluice::dtype::bytes}};
  for (const auto& [text, type] : names)
    if (name == text) return type;
  throw failure(sluice::status::unsupported_type,
                "no element type is called '" + std::string(name) + "': take f32, f16, bf16, e4m3, e5m2 or bytes");
}

/// What a list holds now, whatever other threads make of it; a TypeError where it is none.
inline nb::tuple items_of(nb::handle list) {
  nb::tuple items = nb::steal<nb::tuple>(PySequence_Tuple(list.ptr()));
  if (!items.is_valid()) throw nb::python_error();
  return items;
}

/// The array behind a Python object, if there is one; it may be read-only. Errors: unsupported_type (on a device).
inline std::optional<nb::ndarray<nb::ro>> array_of(nb::handle h, std::string_view what) {
  nb::ndarray<nb::ro> a;
  if (!nb::try_cast(h, a, false)) return {};
  if (a.device_type() != nb::device::cpu::value && a.device_type() != nb::device::cuda_host::value)
    throw failure(sluice::status::unsupported_type, std::string(what) + " lies on a device (DLPack type " +
                                                        std::to_string(a.device_type()) +
                                                        "), and sluice codes on the CPU: pass tensor.cpu()");
  return a;
}

/// One array of three axes, tokens by heads by head size, in bytes.
struct plane_array {
  std::byte* data = nullptr;
  std::int64_t tokens = 0, token_stride = 0, head_stride = 0, element_stride = 0;
  std::int32_t heads = 0, head_dim = 0;
  sluice::dtype type = sluice::dtype::f16;

  bool like(const plane_array& o) const noexcept {
    return (data == nullptr) == (o.data == nullptr) && tokens == o.tokens && token_stride == o.token_stride &&
           head_stride == o.head_stride && element_stride == o.element_stride && heads == o.heads &&
           head_dim == o.head_dim && type == o.type;
  }
};

/// The layers of K and V that a call was given. Holds a reference to every array, so what views show lives as long, even
/// where Python lets go of it while the interpreter's lock is released.
class cache_arrays {
 public:
  /// `k`, `v`: one array [layers, tokens, heads, head size], or a list with one [tokens, heads, head size] (or None) a
  /// layer; `v` may be None. `type` names elements that the array's own type cannot, such as bf16 kept as uint16.
  /// Errors: wrong_shape, unsupported_type, invalid_view; TypeError for what is no array.
  cache_arrays(nb::handle k, nb::handle v, purpose a, const std::optional<std::string>& type = {}) : purpose_(a) {
    if (type) type_ = type_named(*type);
    std::vector<plane_array> keys = planes_of(k, "k"), values;
    if (!v.is_none()) values = planes_of(v, "v");
    if (!keys.empty() && !values.empty() && keys.size() != values.size())
      throw failure(sluice::status::wrong_shape,
                    "k has " + std::to_string(keys.size()) + " layers, v " + std::to_string(values.size()));
    keys.resize(std::max(keys.size(), values.size()));
    values.resize(keys.size());
    for (std::size_t l = 0; l < keys.size(); ++l) add(std::int32_t(l), keys[l], values[l]);
    if (groups_.empty()) throw failure(sluice::status::invalid_argument, "no layer has a token");
    for (group& g : groups_) finish(g);
  }
  cache_arrays(const cache_arrays&) = delete;
  cache_arrays& operator=(const cache_arrays&) = delete;

  /// Tokens of the longest layer.
  std::int64_t tokens() const noexcept { return tokens_; }

  /// One view for each set of like layers. `tokens` of a sequence from `position` on: layers with fewer have the last of
  /// them, as behind a sliding window; of those with more the first are shown.
  /// Errors: invalid_view and others of validate().
  std::vector<sluice::kv_view> views(std::int64_t position, std::int64_t tokens) const {
    if (position < 0 || position > (std::int64_t{1} << 48))
      throw failure(sluice::status::invalid_argument, "position " + std::to_string(position) + " is none");
    std::vector<sluice::kv_view> all;
    for (const group& g : groups_) {
      sluice::kv_view v = g.view;
      v.tokens = std::min(v.tokens, tokens);
      v.position = position + tokens - v.tokens;
      check(validate(v));
      all.push_back(v);
    }
    return all;
  }

 private:
  struct group {
    plane_array k, v;
    std::vector<std::int32_t> ids;
    std::vector<std::byte*> key_bases, value_bases;
    sluice::kv_view view;
  };

  sluice::dtype type_of(nb::dlpack::dtype t, std::string_view what) const {
    using code = nb::dlpack::dtype_code;
    const auto is = [&](code c, int bits) { return t.code == std::uint8_t(c) && t.bits == bits && t.lanes == 1; };
    if (type_) {
      if (t.bits * t.lanes == 8 * sluice::size_of(*type_)) return *type_;
      throw failure(sluice::status::unsupported_type, std::string(what) + " has elements of " +
                                                          std::to_string(t.bits * t.lanes) + " bits, which " +
                                                          sluice::to_string(*type_) + " has not");
    }
    if (is(code::Float, 32)) return sluice::dtype::f32;
    if (is(code::Float, 16)) return sluice::dtype::f16;
    if (is(code::Bfloat, 16)) return sluice::dtype::bf16;
    if (is(code::Float8_E4M3FN, 8)) return sluice::dtype::e4m3;
    if (is(code::Float8_E5M2, 8)) return sluice::dtype::e5m2;
    throw failure(sluice::status::unsupported_type,
                  std::string(what) +
                      " has elements that are none of float32, float16, bfloat16, float8_e4m3fn and "
                      "float8_e5m2; integers that hold such elements need dtype=\"bf16\" or another");
  }

  // The array behind a Python object; where it cannot be used, that is said in words.
  nb::ndarray<nb::ro> take(nb::handle h, std::string_view what) {
    std::optional<nb::ndarray<nb::ro>> a = array_of(h, what);
    if (!a)
      throw nb::type_error((std::string(what) +
                            " is no array: neither DLPack nor the buffer protocol shows one. A tensor "
                            "that requires a gradient is detached first")
                               .c_str());
    nb::ndarray<> writable;
    if (purpose_ == purpose::write && !nb::try_cast(h, writable, false))
      throw failure(sluice::status::invalid_argument, std::string(what) + " is read-only, and is to be written");
    return std::move(*a);
  }

  std::vector<plane_array> planes_of(nb::handle h, const char* name) {
    std::vector<plane_array> planes;
    if (nb::isinstance<nb::list>(h) || nb::isinstance<nb::tuple>(h)) {
      const nb::tuple items = items_of(h);
      for (std::size_t l = 0; l < items.size(); ++l) {
        const std::string what = std::string(name) + "[" + std::to_string(l) + "]";
        planes.emplace_back();
        if (items[l].is_none()) continue;
        const nb::ndarray<nb::ro>& a = held_.emplace_back(take(items[l], what));
        if (a.ndim() != 3)
          throw failure(sluice::status::wrong_shape,
                        what + " has " + std::to_string(a.ndim()) + " axes and needs three: tokens, heads, head size");
        planes.back() = plane_of(a, 0, what);
      }
      return planes;
    }
    const nb::ndarray<nb::ro>& a = held_.emplace_back(take(h, name));
    if (a.ndim() != 4)
      throw failure(sluice::status::wrong_shape,
                    std::string(name) + " has " + std::to_string(a.ndim()) +
                        " axes and needs four: layers, tokens, heads, head size; or it is a list of layers");
    planes.assign(a.shape(0), plane_of(a, 1, name));
    for (std::size_t l = 0; l < planes.size(); ++l)
      if (planes[l].data) planes[l].data += std::int64_t(l) * a.stride(0) * sluice::size_of(planes[l].type);
    return planes;
  }

  plane_array plane_of(const nb::ndarray<nb::ro>& a, std::size_t axis, std::string_view what) const {
    plane_array p;
    p.type = type_of(a.dtype(), what);
    const std::int64_t size = sluice::size_of(p.type);
    for (std::size_t i = axis + 1; i < axis + 3; ++i)
      if (a.shape(i) > std::size_t{1} << 20) throw failure(sluice::status::too_large);
    if (a.shape(axis + 1) == 0 || a.shape(axis + 2) == 0)
      throw failure(sluice::status::wrong_shape, std::string(what) + " has an axis of no elements");
    if (a.shape(axis) == 0) return {};  // a layer that holds nothing yet
    // The writing of read-only memory is ruled out by take().
    p.data = static_cast<std::byte*>(const_cast<void*>(a.data()));
    p.tokens = std::int64_t(a.shape(axis)), p.token_stride = a.stride(axis) * size;
    p.heads = std::int32_t(a.shape(axis + 1)), p.head_stride = a.stride(axis + 1) * size;
    p.head_dim = std::int32_t(a.shape(axis + 2)), p.element_stride = a.stride(axis + 2) * size;
    return p;
  }

  void add(std::int32_t layer, const plane_array& k, const plane_array& v) {
    if (!k.data && !v.data) return;
    if (k.data && v.data && (k.tokens != v.tokens || k.heads != v.heads))
      throw failure(sluice::status::wrong_shape, "k and v of layer " + std::to_string(layer) +
                                                     " differ in tokens or heads: " + std::to_string(k.tokens) + " x " +
                                                     std::to_string(k.heads) + " and " + std::to_string(v.tokens) +
                                                     " x " + std::to_string(v.heads));
    auto g = std::find_if(groups_.begin(), groups_.end(), [&](const group& x) { return x.k.like(k) && x.v.like(v); });
    if (g == groups_.end()) {
      groups_.emplace_back();
      g = groups_.end() - 1;
      g->k = k, g->v = v;
    }
    g->ids.push_back(layer);
    g->key_bases.push_back(k.data);
    g->value_bases.push_back(v.data);
    tokens_ = std::max({tokens_, k.tokens, v.tokens});
  }

  static void finish(group& g) {
    const auto show = [](sluice::plane_view& to, const plane_array& p, const std::vector<std::byte*>& bases) {
      if (!p.data) return;
      to.layer_bases = bases.data();
      to.token_stride = p.token_stride, to.head_stride = p.head_stride, to.element_stride = p.element_stride;
      to.type = p.type, to.head_dim = p.head_dim;
    };
    show(g.view.k, g.k, g.key_bases);
    show(g.view.v, g.v, g.value_bases);
    const plane_array& p = g.k.data ? g.k : g.v;
    g.view.num_layers = std::int32_t(g.ids.size()), g.view.layer_ids = g.ids.data();
    g.view.num_kv_heads = p.heads, g.view.tokens = g.view.capacity = p.tokens;
  }

  purpose purpose_;
  std::optional<sluice::dtype> type_;
  std::vector<nb::ndarray<nb::ro>> held_;
  std::vector<group> groups_;
  std::int64_t tokens_ = 0;
};

/// The bytes of a frame, or of what one is written into: anything with a contiguous buffer.
class buffer {
 public:
  explicit buffer(nb::handle h, purpose a = purpose::read) {
    if (PyObject_GetBuffer(h.ptr(), &buffer_, a == purpose::write ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0)
      throw nb::python_error();
  }
  buffer(const buffer&) = delete;
  buffer& operator=(const buffer&) = delete;
  ~buffer() { PyBuffer_Release(&buffer_); }
  std::span<std::byte> bytes() const noexcept {
    return {static_cast<std::byte*>(buffer_.buf), std::size_t(buffer_.len)};
  }

 private:
  Py_buffer buffer_{};
};
