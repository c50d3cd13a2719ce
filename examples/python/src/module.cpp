// SPDX-License-Identifier: Apache-2.0
// The Python module sluice._core. sluice/_core.pyi says what its functions take and return.

#include "codec.hpp"
#include "frames.hpp"

#include <sluice/calibrate/capture.hpp>
#ifdef SLUICE_KERNELS_CALIBRATE
#include <sluice/calibrate/calibrate.hpp>
#endif
#ifdef SLUICE_PYTHON_EIGEN
#include <sluice/calibrate/slice.hpp>
#endif
#include <sluice/tensor/half.hpp>
#include <sluice/version.hpp>

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <concepts>
#include <functional>
#include <memory>
#include <tuple>
#include <utility>

using namespace nb::literals;

namespace {

template <class E, std::size_t N>
E value_named(const std::pair<const char*, E> (&names)[N], const std::string& name, const char* what) {
  std::string all;
  for (const auto& [text, value] : names) {
    if (name == text) return value;
    all.append(all.empty() ? "" : ", ").append(text);
  }
  throw failure(sluice::status::invalid_argument, "no " + std::string(what) + " is called '" + name + "': take " + all);
}
template <class E, std::size_t N>
const char* name_in(const std::pair<const char*, E> (&names)[N], E wanted) {
  for (const auto& [text, value] : names)
    if (value == wanted) return text;
  return "?";
}

constexpr std::pair<const char*, sluice::rope_pairing> pairings[] = {
    {"none", sluice::rope_pairing::none},
    {"half", sluice::rope_pairing::half},
    {"interleaved", sluice::rope_pairing::interleaved}};
constexpr std::pair<const char*, sluice::rope_scaling> scalings[] = {
    {"none", sluice::rope_scaling::none},     {"linear", sluice::rope_scaling::linear},
    {"ntk", sluice::rope_scaling::ntk},       {"yarn", sluice::rope_scaling::yarn},
    {"llama3", sluice::rope_scaling::llama3}, {"yarn_untruncated", sluice::rope_scaling::yarn_untruncated}};

// (kv_heads, head_dim_k, head_dim_v, rope, window)
using layer_tuple = std::tuple<int, int, int, int, int>;

sluice::model_shape make_shape(const std::vector<layer_tuple>& layers, const std::vector<sluice::rope>& ropes) {
  sluice::model_shape s;
  s.ropes = ropes;
  for (const auto& [heads, dim_k, dim_v, rope, window] : layers)
    s.layers.push_back({heads, dim_k, dim_v, rope, window});
  if (s.layers.empty()) throw failure(sluice::status::invalid_argument, "a model has layers");
  check(validate(sluice::profile::uncalibrated(s)) == sluice::status::ok ? sluice::status::ok
                                                                         : sluice::status::invalid_argument);
  return s;
}

// What os.fspath() makes of a path.
std::string path_of(nb::handle h) {
  const nb::object text = nb::steal(PyOS_FSPath(h.ptr()));
  if (!text.is_valid()) throw nb::python_error();
  return nb::cast<std::string>(nb::str(text));
}

std::unique_ptr<model_codec> load(nb::handle file) {
  const std::string path = path_of(file);
  return without_interpreter([&] {
    auto p = sluice::profile::load(path.c_str());
    if (!p) throw failure(p.status(), path + ": " + to_string(p.status()));
    return std::make_unique<model_codec>(std::move(*p));
  });
}

#ifdef SLUICE_KERNELS_CALIBRATE
// One context's cache as Python handed it over, with the queries of its last tokens where there are any.
struct captured {
  std::unique_ptr<cache_arrays> cache;
  std::vector<sluice::kv_view> views;
  std::vector<std::vector<sluice::f16>> queries;  // of each layer
  std::int32_t query_tokens = 0, num_heads = 0;

  explicit captured(nb::handle item) {
    if (!nb::isinstance<nb::tuple>(item) && !nb::isinstance<nb::list>(item))
      throw nb::type_error("a capture is (k, v), (k, v, queries) or (k, v, queries, position)");
    const nb::tuple parts = items_of(item);
    if (parts.size() < 2 || parts.size() > 4)
      throw nb::type_error("a capture is (k, v), (k, v, queries) or (k, v, queries, position)");
    cache = std::make_unique<cache_arrays>(nb::object(parts[0]), nb::object(parts[1]), purpose::read);
    views = cache->views(parts.size() > 3 ? nb::cast<std::int64_t>(parts[3]) : 0, cache->tokens());
    if (parts.size() > 2 && !parts[2].is_none()) read_queries(parts[2]);
  }

  void read_queries(nb::handle h) {
    const cache_arrays q(h, nb::none(), purpose::read);
    for (const sluice::kv_view& v : q.views(0, q.tokens()))
      for (int i = 0; i < v.num_layers; ++i) {
        if (v.tokens != q.tokens() || (num_heads && num_heads != v.num_kv_heads))
          throw failure(sluice::status::wrong_shape, "queries of all layers are of the same tokens and heads");
        query_tokens = std::int32_t(v.tokens), num_heads = v.num_kv_heads;
        const auto layer = std::size_t(v.layer_id(i));
        if (queries.size() <= layer) queries.resize(layer + 1);
        for (std::int64_t t = 0; t < v.tokens; ++t)
          for (int head = 0; head < v.num_kv_heads; ++head)
            for (int e = 0; e < v.k.head_dim; ++e)
              queries[layer].push_back(sluice::from_float<sluice::f16>(
                  sluice::load_element(v.at(sluice::plane::key, i, t, head, e), v.k.type)));
      }
  }

  // One capture for each view, as the calibrator takes them.
  template <class F>
  void each(const sluice::model_shape& shape, F f) const {
    for (const sluice::kv_view& v : views) {
      std::vector<sluice::capture_layer> known(std::size_t(v.num_layers));
      bool any = false;
      for (int i = 0; i < v.num_layers; ++i) {
        const auto l = std::size_t(v.layer_id(i));
        if (l >= queries.size() || queries[l].empty() || l >= shape.layers.size()) continue;
        if (queries[l].size() !=
            std::size_t(query_tokens) * std::size_t(num_heads) * std::size_t(shape.layers[l].head_dim_k))
          throw failure(sluice::status::wrong_shape, "queries are not as long as keys");
        known[std::size_t(i)].queries = queries[l].data(), any = true;
      }
      sluice::capture c{v, {}, 0, 0};
      if (any) c.layers = known, c.query_tokens = query_tokens, c.num_heads = num_heads;
      check(f(c));
    }
  }
};
#endif

std::unique_ptr<model_codec> calibrate([[maybe_unused]] nb::handle captures,
                                       [[maybe_unused]] const sluice::model_shape& shape,
                                       [[maybe_unused]] const sluice::calibration_options& options,
                                       [[maybe_unused]] const std::string& name) {
#ifdef SLUICE_KERNELS_CALIBRATE
  std::vector<captured> all;
  for (nb::handle item : items_of(captures)) all.emplace_back(item);
  return without_interpreter([&] {
    sluice::calibrator c(shape, options);
    for (const captured& x : all) x.each(shape, [&](const sluice::capture& one) { return c.add(one); });
    for (const captured& x : all) x.each(shape, [&](const sluice::capture& one) { return c.measure(one); });
    sluice::profile p = value_of(c.finish());
    p.set_name(name.c_str());
    return std::make_unique<model_codec>(std::move(p));
  });
#else
  throw failure(sluice::status::refused,
                "this build cannot calibrate: Eigen was not there (libeigen3-dev); `sluice calibrate` can");
#endif
}

std::unique_ptr<model_codec> heads([[maybe_unused]] const model_codec& c, [[maybe_unused]] int begin,
                                   [[maybe_unused]] int end) {
#ifdef SLUICE_PYTHON_EIGEN
  return std::make_unique<model_codec>(
      value_of(without_interpreter([&] { return slice_heads(c.profile(), begin, end); })));
#else
  throw failure(sluice::status::refused, "this build cannot cut profiles: Eigen was not there (libeigen3-dev)");
#endif
}

// encode() and encode_into(), which differ in what comes `first`.
template <class... First>
void def_encode(nb::class_<model_codec>& c, const char* name, auto call, const std::same_as<nb::arg> auto&... first) {
  c.def(
      name,
      [call](model_codec& self, First... to, nb::handle k, nb::handle v, std::int64_t position,
             std::optional<int> levels, std::optional<std::size_t> max_bytes, const std::string& codec,
             std::optional<std::string> dtype, nb::handle token_ids, nb::handle importance, nb::handle attention,
             float coarser, nb::handle loss) {
        return std::invoke(call, self, to..., k, v,
                           encode_request{position, levels, max_bytes, codec, std::move(dtype), token_ids, importance,
                                          attention, coarser, loss});
      },
      first..., "k"_a, "v"_a.none(), "position"_a = 0, nb::kw_only(), "levels"_a = nb::none(),
      "max_bytes"_a = nb::none(), "codec"_a = "standard", "dtype"_a = nb::none(), "token_ids"_a = nb::none(),
      "importance"_a = nb::none(), "attention"_a = nb::none(), "coarser"_a = 0.0f, "loss"_a = nb::none());
}

std::string repr(const frame_info& i) {
  return "Info(codec=" + i.codec.value_or("?") + ", position=" + std::to_string(i.position) +
         ", tokens=" + std::to_string(i.tokens) + ", layers=" + std::to_string(i.layers.size()) +
         ", levels=" + std::to_string(i.levels) + ", size=" + std::to_string(i.size) + ")";
}

}  // namespace

NB_MODULE(_core, m) {
  nb::set_leak_warnings(false);  // engines that end at once let go of nothing, and need not say so
  // Kept for as long as the process: exceptions are raised until its end.
  static PyObject* const error = nb::module_::import_("sluice._error").attr("Error").inc_ref().ptr();
  nb::register_exception_translator([](const std::exception_ptr& p, void*) {
    try {
      std::rethrow_exception(p);
    } catch (const failure& f) {
      const nb::object made = nb::handle(error)(name_of(f.code), f.words);
      PyErr_SetObject(error, made.ptr());
    }
  });

  nb::class_<sluice::rope>(m, "Rope")
      .def(
          "__init__",
          [](sluice::rope* self, double base, const std::string& pairing, int dims, const std::string& scaling,
             double factor, double low_freq, double high_freq, double original_context, double attention_factor) {
            new (self) sluice::rope{value_named(pairings, pairing, "pairing"),
                                    value_named(scalings, scaling, "scaling"),
                                    dims,
                                    base,
                                    factor,
                                    low_freq,
                                    high_freq,
                                    original_context,
                                    attention_factor};
          },
          "base"_a = 10000.0, "pairing"_a = "half", nb::kw_only(), "dims"_a = 0, "scaling"_a = "none", "factor"_a = 1.0,
          "low_freq"_a = 1.0, "high_freq"_a = 4.0, "original_context"_a = 0.0, "attention_factor"_a = 1.0)
      .def_prop_ro("base", [](const sluice::rope& r) { return r.base; })
      .def_prop_ro("pairing", [](const sluice::rope& r) { return name_in(pairings, r.pairing); })
      .def_prop_ro("dims", [](const sluice::rope& r) { return r.rotary_dims; })
      .def_prop_ro("scaling", [](const sluice::rope& r) { return name_in(scalings, r.scaling); })
      .def_prop_ro("factor", [](const sluice::rope& r) { return r.factor; })
      .def_prop_ro("attention_factor", [](const sluice::rope& r) { return r.attention_factor; });

  nb::class_<sluice::layer_shape>(m, "LayerShape")
      .def_ro("kv_heads", &sluice::layer_shape::num_kv_heads)
      .def_ro("head_dim_k", &sluice::layer_shape::head_dim_k)
      .def_ro("head_dim_v", &sluice::layer_shape::head_dim_v)
      .def_ro("rope", &sluice::layer_shape::rope_index)
      .def_ro("window", &sluice::layer_shape::window);

  nb::class_<sluice::model_shape>(m, "Shape")
      .def(
          "__init__",
          [](sluice::model_shape* self, const std::vector<layer_tuple>& layers,
             const std::vector<sluice::rope>& ropes) { new (self) sluice::model_shape(make_shape(layers, ropes)); },
          "layers"_a, "ropes"_a)
      .def_prop_ro("layers", [](const sluice::model_shape& s) { return s.layers; })
      .def_prop_ro("ropes", [](const sluice::model_shape& s) { return s.ropes; });

  nb::class_<frame_layer>(m, "FrameLayer")
      .def_ro("kv_heads", &frame_layer::kv_heads)
      .def_ro("head_dim_k", &frame_layer::head_dim_k)
      .def_ro("head_dim_v", &frame_layer::head_dim_v)
      .def_ro("type_k", &frame_layer::type_k)
      .def_ro("type_v", &frame_layer::type_v);

  nb::class_<frame_info>(m, "Info")
      .def_ro("position", &frame_info::position)
      .def_ro("tokens", &frame_info::tokens)
      .def_ro("codec", &frame_info::codec)
      .def_ro("fingerprint", &frame_info::fingerprint)
      .def_ro("levels", &frame_info::levels)
      .def_ro("levels_made", &frame_info::levels_made)
      .def_ro("size", &frame_info::size)
      .def_ro("sizes", &frame_info::sizes)
      .def_ro("loss", &frame_info::loss)
      .def_ro("layers", &frame_info::layers)
      .def("__repr__", repr);

  nb::class_<model_codec> codec(m, "Codec");
  def_encode<>(codec, "encode", &model_codec::encode);
  def_encode<nb::handle>(codec, "encode_into", &model_codec::encode_into, "out"_a);
  codec
      .def(
          "__init__",
          [](model_codec* self, const sluice::model_shape& s) {
            new (self) model_codec(sluice::profile::uncalibrated(s));
          },
          "shape"_a)
      .def("decode", &model_codec::decode, "frame"_a, "k"_a, "v"_a.none(), nb::kw_only(), "level"_a = nb::none(),
           "position"_a = nb::none(), "dtype"_a = nb::none(), "token_ids"_a = nb::none())
      .def(
          "find_position",
          [](model_codec& c, nb::handle k, std::int64_t step, std::int64_t first, std::int64_t last,
             const std::optional<std::string>& dtype) {
            return c.find_position(k, {first, last, step}, dtype);
          },
          "k"_a, nb::kw_only(), "step"_a = 1, "first"_a = 0, "last"_a = 131071, "dtype"_a = nb::none())
      .def("fit", &model_codec::fit, "k"_a, "v"_a.none(), "position"_a = 0, nb::kw_only(), "dtype"_a = nb::none())
      .def("max_size", &model_codec::max_size, "k"_a, "v"_a.none(), nb::kw_only(), "codec"_a = "standard",
           "dtype"_a = nb::none())
      .def("truncate_to", &model_codec::truncate_to, "frame"_a, "max_bytes"_a)
      .def("heads", &heads, "begin"_a, "end"_a)
      .def(
          "with_pairs",
          [](const model_codec& c, const std::string& pairing) {
            return std::make_unique<model_codec>(
                value_of(with_pairs(c.profile(), value_named(pairings, pairing, "pairing"))));
          },
          "pairing"_a)
      .def(
          "save", [](const model_codec& c, nb::handle path) { check(c.profile().save(path_of(path).c_str())); },
          "path"_a)
      .def_prop_ro("shape", [](const model_codec& c) { return c.profile().shape; })
      .def_prop_ro("levels", [](const model_codec& c) { return c.profile().passes; })
      .def_prop_ro("calibrated", [](const model_codec& c) { return c.profile().calibrated(); })
      .def_prop_ro("name", [](const model_codec& c) { return std::string(c.profile().name.data()); })
      .def_prop_ro("fingerprint", [](const model_codec& c) { return c.profile().fingerprint(); });

  m.def("load", &load, "path"_a);
  m.def(
      "calibrate",
      [](nb::handle captures, const sluice::model_shape& shape, double target_kl, int heads_per_basis, int threads,
         const std::string& name) {
        sluice::calibration_options o;
        o.target_kl = target_kl, o.heads_per_basis = heads_per_basis, o.threads = threads;
        return calibrate(captures, shape, o, name);
      },
      "captures"_a, "shape"_a, nb::kw_only(), "target_kl"_a = sluice::calibration_options{}.target_kl,
      "heads_per_basis"_a = 0, "threads"_a = 1, "name"_a = "");
  m.def("info", &info_of, "frame"_a);
  m.def("truncate", &truncated, "frame"_a, "level"_a);
  m.def("verify", &whole_level, "frame"_a);
  m.def("codecs", [] {
    std::vector<std::tuple<std::string, std::string>> all;
    for (const sluice::preset& p : sluice::presets()) all.emplace_back(p.name, p.what);
    return all;
  });
#define SLUICE_TEXT(x) #x
#define SLUICE_DOTTED(a, b, c) SLUICE_TEXT(a) "." SLUICE_TEXT(b) "." SLUICE_TEXT(c)
  m.attr("__version__") = SLUICE_DOTTED(SLUICE_VERSION_MAJOR, SLUICE_VERSION_MINOR, SLUICE_VERSION_PATCH);
}
