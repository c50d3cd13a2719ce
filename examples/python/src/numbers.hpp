// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "arrays.hpp"

#include <sluice/tensor/half.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <vector>

// What Python tells of tokens beside K and V: few numbers, so they are copied.

/// One number of an array as the widest type has it; ids of tokens and weights are exact. None: it is none of T's kind.
template <class T>
std::optional<double> number_at(const std::byte* p, nb::dlpack::dtype t) {
  using code = nb::dlpack::dtype_code;
  const auto as = [&]<class E>(E x) {
    std::memcpy(&x, p, sizeof x);
    return double(x);
  };
  const bool is_bool = t.code == std::uint8_t(code::Bool), is_signed = t.code == std::uint8_t(code::Int);
  if (t.lanes != 1) return {};
  if (is_signed || is_bool || t.code == std::uint8_t(code::UInt)) {
    if (std::integral<T> && is_bool) return {};
    switch (t.bits) {
      case 8: return is_signed ? as(std::int8_t{}) : as(std::uint8_t{});
      case 16: return is_signed ? as(std::int16_t{}) : as(std::uint16_t{});
      case 32: return is_signed ? as(std::int32_t{}) : as(std::uint32_t{});
      case 64: return is_signed ? as(std::int64_t{}) : as(std::uint64_t{});
      default: return {};
    }
  }
  if (std::integral<T>) return {};
  if (t.code == std::uint8_t(code::Float) && t.bits == 64) return as(double{});
  if (t.code == std::uint8_t(code::Float) && t.bits == 32) return as(float{});
  if (t.code == std::uint8_t(code::Float) && t.bits == 16) return double{sluice::load_element(p, sluice::dtype::f16)};
  if (t.code == std::uint8_t(code::Bfloat) && t.bits == 16) return double{sluice::load_element(p, sluice::dtype::bf16)};
  return {};
}

/// As many as there are, in the shape that numbers_of() asks for.
inline constexpr std::size_t any_count = SIZE_MAX;

/// Numbers that are told beside K and V, copied: an array of this shape, of any numbers that T can hold, or for one axis
/// whatever Python can go through; nothing of None. Errors: wrong_shape, unsupported_type, invalid_argument (beyond the
/// range of T); TypeError for what is no number.
template <class T>
std::vector<T> numbers_of(nb::handle h, const char* what, std::initializer_list<std::size_t> shape = {any_count}) {
  std::vector<T> all;
  if (h.is_none()) return all;
  const auto add = [&](double x) {
    if (std::integral<T> &&
        !(x >= double(std::numeric_limits<T>::lowest()) && x <= double(std::numeric_limits<T>::max())))
      throw failure(sluice::status::invalid_argument, std::string(what) + " are 32-bit integers, and one is beyond");
    all.push_back(T(x));
  };
  std::vector<std::size_t> found;
  const auto check_shape = [&] {
    const auto fits = [](std::size_t has, std::size_t needed) { return needed == any_count || has == needed; };
    if (std::equal(found.begin(), found.end(), shape.begin(), shape.end(), fits)) return;
    const auto text = [](const auto& sizes) {
      std::string s;
      for (const std::size_t n : sizes) s += (s.empty() ? "[" : ", ") + (n == any_count ? "n" : std::to_string(n));
      return s.empty() ? "[]" : s + "]";
    };
    throw failure(sluice::status::wrong_shape,
                  std::string(what) + " has the shape " + text(found) + " and needs " + text(shape));
  };
  const std::optional<nb::ndarray<nb::ro>> a = array_of(h, what);
  if (!a) {
    const nb::tuple items = items_of(h);
    found = {items.size()};
    check_shape();
    for (const nb::handle item : items) {
      if constexpr (std::integral<T>)
        add(double(PyNumber_AsSsize_t(item.ptr(), nullptr)));  // clipped, which is beyond as well
      else
        add(PyFloat_AsDouble(item.ptr()));
      if (PyErr_Occurred()) throw nb::python_error();
    }
    return all;
  }
  for (std::size_t i = 0; i < a->ndim(); ++i) found.push_back(a->shape(i));
  check_shape();
  const std::size_t last = found.size() - 1, rows = last ? found[0] : 1;
  const std::int64_t size = a->dtype().bits / 8;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t i = 0; i < found[last]; ++i) {
      const std::int64_t at = (last ? std::int64_t(r) * a->stride(0) : 0) + std::int64_t(i) * a->stride(last);
      const std::optional<double> x = number_at<T>(static_cast<const std::byte*>(a->data()) + at * size, a->dtype());
      if (!x)
        throw failure(sluice::status::unsupported_type,
                      std::string(what) + " has elements that are no " + (std::integral<T> ? "integers" : "numbers"));
      add(*x);
    }
  return all;
}
