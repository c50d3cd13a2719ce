// SPDX-License-Identifier: Apache-2.0
// captures make SAMPLE DIR: small captures of every kind from a real one.
// captures compare A B [ERROR]: whether B holds the K and V of A, in the same types, and no others: bit for bit, or up to a
// relative error of each plane.
// captures turned_back SAMPLE CAPTURE PROFILE: whether the rotary embedding of the profile makes the sample's keys of those
// of the capture, which are the same tokens rotated in another way.

#include <capture_layout.hpp>
#include <safetensors.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/rope.hpp>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace {

using safetensors::dtype;

[[noreturn]] void fail(const std::string& why) {
  std::fprintf(stderr, "captures: %s\n", why.c_str());
  std::exit(1);
}

safetensors::file open(const std::string& path) {
  safetensors::file f;
  if (const safetensors::problem p = f.open(path)) fail(p.message());
  return f;
}

const safetensors::tensor& tensor_of(const safetensors::file& f, const std::string& name) {
  const safetensors::tensor* t = f.find(name);
  if (!t) fail(name + " is not there");
  return *t;
}

std::vector<float> floats_of(const safetensors::file& f, const safetensors::tensor& t) {
  const auto bytes = f.bytes(t);
  const std::size_t size = std::size_t(safetensors::size_of(t.type));
  std::vector<float> x(bytes.size() / size);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = sluice::load_element(bytes.data() + i * size, *type_of(t.type));
  return x;
}

constexpr int heads = 3, head_dim = 64, width = heads * head_dim, tokens = 256;
constexpr double base = 100000;  // of the sample

sluice::rope sample_rope() {
  sluice::rope r;
  r.base = base;
  return r;
}

// The sample's layers as floats, keys without their rotation.
struct sample {
  safetensors::file file;
  std::vector<float> k[4], v[4];

  explicit sample(const std::string& path) : file(open(path)) {
    if (std::strtod(file.meta().at("rope_base.0").c_str(), nullptr) != base) fail("the sample has another rope_base");
    for (int l = 0; l < 4; ++l) {
      k[l] = floats_of(file, tensor_of(file, "k." + std::to_string(l)));
      v[l] = floats_of(file, tensor_of(file, "v." + std::to_string(l)));
      if (k[l].size() != std::size_t(tokens * width)) fail("the sample has another shape");
      turn(k[l], sample_rope(), 0, sluice::rotation::inverse);
    }
  }

  static void turn(std::vector<float>& x, const sluice::rope& r, std::int64_t position, sluice::rotation direction) {
    std::vector<double> frequency(std::size_t(sluice::rotary_dims(r, head_dim) / 2));
    sluice::rope_frequencies(r, head_dim, frequency);
    for (std::size_t row = 0; row < x.size() / head_dim; ++row)
      sluice::rotate(&x[row * head_dim], r, frequency, position + std::int64_t(row / heads), direction);
  }
};

// One capture: tensors and metadata, written at the end.
struct capture {
  const sample& from;
  safetensors::metadata meta{{"model", "sample"}};
  std::vector<std::pair<safetensors::tensor, std::vector<std::byte>>> tensors{};

  capture& say(const std::string& key, const std::string& value) {
    meta[key] = value;
    return *this;
  }
  capture& add(const std::string& name, dtype type, std::vector<std::int64_t> shape, const std::vector<float>& x) {
    std::vector<std::byte> bytes(x.size() * std::size_t(safetensors::size_of(type)));
    for (std::size_t i = 0; i < x.size(); ++i)
      sluice::store_element(bytes.data() + i * std::size_t(safetensors::size_of(type)), *type_of(type), x[i]);
    safetensors::tensor t;
    t.name = name;
    t.type = type;
    t.shape = std::move(shape);
    tensors.push_back({std::move(t), std::move(bytes)});
    return *this;
  }
  // Layer `source` of the sample as layer `id`: its last `held` tokens, keys rotated by `r` from `position` on.
  capture& layer(int id, int source, dtype k = dtype::f16, dtype v = dtype::f16, int held = tokens, int position = 0,
                 const sluice::rope& r = sample_rope()) {
    std::vector<float> keys = from.k[source], values = from.v[source];
    sample::turn(keys, r, position, sluice::rotation::forward);
    keys.erase(keys.begin(), keys.end() - held * width);
    values.erase(values.begin(), values.end() - held * width);
    add("k." + std::to_string(id), k, {held, heads, head_dim}, keys);
    return add("v." + std::to_string(id), v, {held, heads, head_dim}, values);
  }
  void save(const std::string& path) const {
    safetensors::writer w(meta);
    for (const auto& [t, bytes] : tensors)
      if (const safetensors::problem p = w.add(t.name, t.type, t.shape, bytes)) fail(p.message());
    if (const safetensors::problem p = w.save(path)) fail(p.message());
  }
};

void make(const sample& s, const std::string& folder) {
  const auto save = [&](const std::string& name, const capture& c) { c.save(folder + "/" + name + ".safetensors"); };
  const auto with_rope = [&] {
    capture c{s};
    for (const char* key : {"rope_base.0", "rope_base.1", "rope_base.2", "rope_base.3", "rope_base.4"})
      c.say(key, "100000");
    return c;
  };
  const auto four = [&](capture c) { return c.layer(0, 0).layer(1, 1).layer(2, 2).layer(3, 3); };

  // What round-trips.
  save("plain", four(with_rope()));
  save("hole", with_rope().layer(0, 0).layer(1, 1).layer(3, 3));
  save("first_absent", with_rope().say("layers", "6").layer(3, 3).layer(4, 0));
  save("types", with_rope()
                    .layer(0, 0, dtype::f16, dtype::bf16)
                    .layer(1, 1, dtype::f16, dtype::f16)
                    .layer(2, 2, dtype::f32, dtype::f8_e4m3)
                    .layer(3, 3, dtype::bf16, dtype::f8_e5m2));
  save("sliding", with_rope()
                      .say("window.1", "64")
                      .say("window.3", "64")
                      .layer(0, 0)
                      .layer(1, 1, dtype::f16, dtype::f16, 63)
                      .layer(2, 2)
                      .layer(3, 3, dtype::f16, dtype::bf16, 100));
  save("sliding_all",
       with_rope().say("window", "64").layer(0, 0, dtype::f16, dtype::f16, 63).layer(2, 2, dtype::f16, dtype::f16, 80));
  {
    capture c = with_rope().say("position", "512");
    for (int l = 0; l < 4; ++l) c.layer(l, l, dtype::f16, dtype::f16, tokens, 512);
    save("moved", c);
  }
  save("odd_position", with_rope().say("position", "1099511627776").layer(0, 0));
  {
    // Layer 1 is read past its end if its V is taken for f16.
    capture c = with_rope();
    for (int l = 0; l < 2; ++l) {
      std::vector<float> k, v;
      for (int i = 0; i < 16; ++i) {
        k.insert(k.end(), s.k[l].begin(), s.k[l].end());
        v.insert(v.end(), s.v[l].begin(), s.v[l].end());
      }
      sample::turn(k, sample_rope(), 0, sluice::rotation::forward);
      c.add("k." + std::to_string(l), dtype::f16, {16 * tokens, heads, head_dim}, k);
      c.add("v." + std::to_string(l), l ? dtype::f8_e4m3 : dtype::f16, {16 * tokens, heads, head_dim}, v);
    }
    save("narrow", c);
  }
  save("latent", with_rope().layer(0, 0).add("k.1", dtype::f16, {tokens, 1, width}, s.v[1]));
  {
    capture c = with_rope();
    std::vector<float> small(std::size_t(tokens * width));
    for (std::size_t i = 0; i < small.size(); ++i) small[i] = float(i % 251);
    std::vector<std::int64_t> shape{tokens, heads, head_dim};
    safetensors::tensor t;
    t.type = dtype::u8;
    t.shape = shape;
    for (const char* name : {"k.0", "v.0"}) {
      std::vector<std::byte> bytes(small.size());
      for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte(i % 251);
      t.name = name;
      c.tensors.push_back({t, bytes});
    }
    save("opaque", c);
  }

  // Rotary embeddings: real keys, rotated as the metadata say.
  const auto turned = [&](const std::string& name, const sluice::rope& r, const safetensors::metadata& words) {
    capture c{s};
    for (const auto& [key, value] : words) c.say(key, value);
    for (int l = 0; l < 4; ++l) c.layer(l, l, dtype::f16, dtype::f16, tokens, 0, r);
    save(name, c);
  };
  sluice::rope r = sample_rope();
  r.pairing = sluice::rope_pairing::interleaved;
  turned("rope_interleaved", r, {{"rope_base", "100000"}, {"rope_pairing", "interleaved"}});
  r = sample_rope();
  r.rotary_dims = 32;
  turned("rope_partial", r, {{"rope_base", "100000"}, {"rope_dims", "32"}});
  r = sample_rope();
  r.scaling = sluice::rope_scaling::linear;
  r.factor = 4;
  turned("rope_linear", r, {{"rope_base", "1e5"}, {"rope_scaling", "linear"}, {"rope_factor", "4"}});
  r.scaling = sluice::rope_scaling::ntk;
  turned("rope_ntk", r, {{"rope_base", "1e5"}, {"rope_scaling", "ntk"}, {"rope_factor", "4"}});
  r.scaling = sluice::rope_scaling::llama3;
  r.factor = 8;
  r.original_context = 64;
  turned("rope_llama3", r,
         {{"rope_base", "1e5"}, {"rope_scaling", "llama3"}, {"rope_factor", "8"}, {"rope_original_context", "64"}});
  for (const char* name : {"yarn", "yarn_untruncated"}) {
    r.scaling = std::strcmp(name, "yarn") ? sluice::rope_scaling::yarn_untruncated : sluice::rope_scaling::yarn;
    r.high_freq = 32;
    r.attention_factor = sluice::yarn_attention_factor(8);
    turned(std::string("rope_") + name, r,
           {{"rope_base", "1e5"}, {"rope_scaling", name}, {"rope_factor", "8"}, {"rope_original_context", "64"}});
  }
  turned("rope_of_one_layer", sample_rope(),
         {{"rope_base", "5"},
          {"rope_base.0", "1e5"},
          {"rope_base.1", "1e5"},
          {"rope_base.2", "1e5"},
          {"rope_base.3", "100000.0"}});

  // What is refused, or warned of.
  save("silent", four(capture{s}));
  save("no_window", with_rope().layer(0, 0).layer(1, 1, dtype::f16, dtype::f16, 63));
  save("short_window", with_rope().say("window", "65").layer(0, 0).layer(1, 1, dtype::f16, dtype::f16, 63));
  save("v_only", with_rope().layer(0, 0).add("v.1", dtype::f16, {tokens, heads, head_dim}, s.v[1]));
  save("disagree", with_rope()
                       .add("k.0", dtype::f16, {tokens, heads, head_dim}, s.k[0])
                       .add("v.0", dtype::f16, {tokens, 1, width}, s.v[0]));
  save("zeros_in_front", with_rope().layer(0, 0).add("k.01", dtype::f16, {tokens, heads, head_dim}, s.k[1]));
  save("layer_9999", with_rope().layer(0, 0).layer(9999, 1));
  save("few_layers", four(with_rope().say("layers", "3")));
  save("no_position", four(with_rope().say("position", "-1")));
  save("far_position", four(with_rope().say("position", "9223372036854775807")));
  save("rope_unknown", four(with_rope().say("rope_theta", "1e6")));
  save("rope_unknown_layer", four(with_rope().say("rope_base.x", "1e6")));
  save("rope_no_number", four(with_rope().say("rope_base.1", "1e6,")));
  save("rope_no_factor", four(with_rope().say("rope_scaling", "yarn")));
  save("rope_no_scaling", four(with_rope().say("rope_factor", "8")));
  save("rope_no_name", four(with_rope().say("rope_scaling", "longrope")));
  save("rope_odd", four(with_rope().say("rope_dims", "33")));
  save("rope_wide", four(with_rope().say("rope_dims", "128")));

  // What no profile can be made of.
  const std::vector<std::int64_t> shape{tokens, heads, head_dim};
  const std::vector<float> same(std::size_t(tokens * width), 0.5f);
  save("constant",
       capture{s}.say("rope_base", "0").add("k.0", dtype::f16, shape, same).add("v.0", dtype::f16, shape, same));
  const std::vector<float> nan(std::size_t(tokens * width), std::numeric_limits<float>::quiet_NaN());
  save("nan", with_rope().layer(0, 0).add("k.1", dtype::f16, shape, s.k[1]).add("v.1", dtype::f16, shape, nan));
  std::vector<float> huge = s.v[0];
  for (float& x : huge) x = x * 1e30f + 1e32f;
  save("huge", with_rope().add("k.0", dtype::f32, shape, s.k[0]).add("v.0", dtype::f32, shape, huge));
  save("few_tokens", with_rope().layer(0, 0, dtype::f16, dtype::f16, 5));
  save("no_tokens", with_rope().layer(0, 0, dtype::f16, dtype::f16, 0));

  // Names: cut within a character of three bytes where bytes are counted, and no UTF-8 at all.
  std::string name = "m";
  for (int i = 0; i < 40; ++i) name += "\xe6\xa8\xa1";
  save("long_name", four(with_rope().say("model", name)));
}

double relative_error(const std::vector<float>& p, const std::vector<float>& q) {
  double error = 0, energy = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    error += double(p[i] - q[i]) * double(p[i] - q[i]);
    energy += double(p[i]) * double(p[i]);
  }
  return std::sqrt(error / energy);
}

void turned_back(const sample& s, const std::string& path, const std::string& profile) {
  const auto p = sluice::profile::load(profile.c_str());
  if (!p) fail(profile + " is no profile");
  const safetensors::file f = open(path);
  for (int l = 0; l < 4; ++l) {
    std::vector<float> keys = floats_of(f, tensor_of(f, "k." + std::to_string(l)));
    sample::turn(keys, p->shape.ropes.at(std::size_t(p->shape.layers.at(std::size_t(l)).rope_index)), 0,
                 sluice::rotation::inverse);
    const double error = relative_error(s.k[l], keys);
    if (!(error < 0.002)) fail(path + ": layer " + std::to_string(l) + ": relative error " + std::to_string(error));
  }
}

int compare(const std::string& a, const std::string& b, double most) {
  const safetensors::file x = open(a), y = open(b);
  int planes = 0, others = 0;
  const auto is_plane = [](const safetensors::tensor& t) {
    return t.name.starts_with("k.") || t.name.starts_with("v.");
  };
  for (const safetensors::tensor& t : y.tensors()) others += is_plane(t);
  for (const safetensors::tensor& t : x.tensors()) {
    if (!is_plane(t)) continue;
    ++planes;
    const safetensors::tensor& u = tensor_of(y, t.name);
    if (t.type != u.type || t.shape != u.shape) fail(t.name + " has another type or shape");
    if (most == 0) {
      if (x.bytes(t).size() && std::memcmp(x.bytes(t).data(), y.bytes(u).data(), x.bytes(t).size()))
        fail(t.name + " differs");
      continue;
    }
    const std::vector<float> p = floats_of(x, t), q = floats_of(y, u);
    const double relative = relative_error(p, q);
    std::printf("%s %.4f\n", t.name.c_str(), relative);
    if (!(relative <= most)) fail(t.name + ": relative error " + std::to_string(relative));
  }
  if (planes != others) fail(b + " holds other planes than " + a);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 4 && !std::strcmp(argv[1], "make")) return make(sample(argv[2]), argv[3]), 0;
  if (argc == 5 && !std::strcmp(argv[1], "turned_back")) return turned_back(sample(argv[2]), argv[3], argv[4]), 0;
  if (argc >= 4 && !std::strcmp(argv[1], "compare"))
    return compare(argv[2], argv[3], argc > 4 ? std::atof(argv[4]) : 0);
  return 2;
}
