// SPDX-License-Identifier: Apache-2.0
#include "observe.hpp"
#include "session.hpp"

#include <safetensors.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace engine {

namespace {

// Owns tensors until they are written.
class tensors {
 public:
  explicit tensors(safetensors::metadata meta) : writer_(std::move(meta)) {}

  std::byte* add(const std::string& name, safetensors::dtype type, std::vector<std::int64_t> shape) {
    std::size_t bytes = std::size_t(safetensors::size_of(type));
    for (const std::int64_t n : shape) bytes *= std::size_t(n);
    std::vector<std::byte>& data = data_.emplace_back(bytes);
    if (const safetensors::problem p = writer_.add(name, type, std::move(shape), data)) throw data_error(p.message());
    return data.data();
  }

  void save(const std::string& path) const {
    if (const safetensors::problem p = writer_.save(path)) throw data_error(p.message());
  }

 private:
  safetensors::writer writer_;
  std::vector<std::vector<std::byte>> data_;  // moving a vector leaves its elements where they are
};

struct capture_options : model_options {
  capture_options() { kv = "f32"; }
  std::string text, out;
  int context = 1024, suffix = 256;
  std::size_t offset = 0;
  bool stats = false;
};

void describe(option_list& app, capture_options& o) {
  describe_model(app, o);
  app.add_option("TEXT", o.text, "a file of text").required();
  app.add_option("OUT", o.out, "the safetensors file to write").required();
  app.add_option("--context", o.context, "tokens whose cache is kept").range(int(query_statistics::kept), 1 << 20);
  app.add_option("--suffix", o.suffix, "tokens that follow; their ids are kept").range(0, 1 << 20);
  app.add_option("--offset", o.offset, "tokens of the text to leave out first")
      .range(std::size_t{0}, std::size_t{1} << 30);
  app.add_flag("--stats", o.stats, "keep what calibration wants to know of queries and output projections");
}

int capture(const capture_options& o) {
  const int context = o.context, suffix = o.suffix;
  const std::size_t offset = o.offset;
  const bool stats = o.stats;

  // Exact arithmetic on float pages: what is rounded to f16 is rounded once, in the file.
  session s(o, arithmetic::exact);
  const model_config& c = s.net.config();
  std::vector<std::int32_t> ids = s.text.encode(read_text(o.text));
  const std::size_t first = c.arch == architecture::gemma3 && !ids.empty(), wanted = std::size_t(context + suffix + 1);
  const std::size_t there = ids.size() - first < offset ? 0 : ids.size() - offset;
  if (there < wanted)
    throw data_error(o.text + ": " + std::to_string(there) + " tokens from offset " + std::to_string(offset) + ", " +
                     std::to_string(wanted) + " needed");
  ids.erase(ids.begin() + std::ptrdiff_t(first), ids.begin() + std::ptrdiff_t(first + offset));
  ids.resize(wanted);

  const int q_dim = c.heads * c.head_dim, kv_dim = c.kv_heads * c.head_dim;
  query_statistics seen(s.net, context);
  progress bar("capture");
  forward_options options;
  options.on_queries = [&](int layer, int position, std::span<const float> queries) {
    seen.add(layer, position, queries);
    const int n = int(queries.size()) / q_dim;
    bar.at(std::size_t(position) * std::size_t(c.layers) + std::size_t(n) * std::size_t(layer + 1),
           std::size_t(context) * std::size_t(c.layers));
  };
  page_pool pages(c, kv_type(o), page_pool::pages_for(context));
  sequence seq(pages);
  s.net.forward(std::span(ids).first(std::size_t(context)), seq, options);

  safetensors::metadata meta{{"model", name_of(o.model)},
                             {"arch", to_string(c.arch)},
                             {"layers", std::to_string(c.layers)},
                             {"kv_heads", std::to_string(c.kv_heads)},
                             {"head_dim", std::to_string(c.head_dim)},
                             {"tokens", std::to_string(context)}};
  for (int l = 0; l < c.layers; ++l) {
    meta["rope_base." + std::to_string(l)] = json(c.layer_rope_base(l)).dump();
    meta["window." + std::to_string(l)] = std::to_string(c.layer_window(l));
  }
  tensors out(std::move(meta));
  std::vector<float> row;
  row.resize(std::size_t(kv_dim));
  for (int l = 0; l < c.layers; ++l) {
    const std::string name = "." + std::to_string(l);
    for (const sluice::plane p : {sluice::plane::key, sluice::plane::value}) {
      std::byte* to = out.add((p == sluice::plane::key ? "k" : "v") + name, safetensors::dtype::f16,
                              {context, c.kv_heads, c.head_dim});
      for (int t = 0; t < context; ++t, to += 2 * kv_dim) {
        load_row(seq.at(p, l, t), pages.type(), row.data(), kv_dim);
        store_row(row.data(), sluice::dtype::f16, to, kv_dim);
      }
    }
    const std::vector<sluice::f16> last = seen.last(l);
    std::memcpy(out.add("q" + name, safetensors::dtype::f16, {query_statistics::kept, c.heads, c.head_dim}),
                last.data(), 2 * last.size());
    if (!stats) continue;
    const std::vector<float> q2 = seen.q2(l);
    std::memcpy(out.add("q2" + name, safetensors::dtype::f32, {c.kv_heads, c.head_dim}), q2.data(), 4 * q2.size());
    const matrix wo = output_metric(s.net, l);
    std::memcpy(out.add("wo" + name, safetensors::dtype::f32, {c.kv_heads, c.head_dim, c.head_dim}), wo.data(),
                4 * std::size_t(wo.size()));
  }
  std::byte* to = out.add("ids", safetensors::dtype::i32, {std::int64_t(wanted)});
  std::copy_n(reinterpret_cast<const std::byte*>(ids.data()), 4 * wanted, to);
  out.save(o.out);

  if (o.json) program::print({{"out", o.out}, {"tokens", context}, {"suffix", suffix}, {"layers", c.layers}});
  return 0;
}

}  // namespace

void add_capture(program& p) {
  p.add<capture_options>("capture", "KV cache of a text, for `sluice calibrate` and the tests", describe, capture);
}

}  // namespace engine
