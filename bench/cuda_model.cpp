// SPDX-License-Identifier: Apache-2.0
#include "cuda_model.hpp"

#include <capture_file.hpp>
#include <sluice/calibrate/slice.hpp>
#include <sluice/codec/any_codec.hpp>
#include <sluice/tensor/layouts.hpp>
#include <sluice/tensor/rope.hpp>

#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <utility>

namespace cuda_bench {
namespace {

using sluice::plane;

[[noreturn]] void give_up(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::exit(1);
}

struct captured {
  capture_file file;
  sluice::profile profile;
  sluice::kv_view cache;

  captured() {
    if (const auto wrong = file.open(SLUICE_TEST_DATA "/smollm2_sample.safetensors")) give_up(*wrong);
    auto read = sluice::profile::load(SLUICE_TEST_DATA "/smollm2.profile");
    if (!read) give_up(std::string("smollm2.profile: ") + sluice::to_string(read.status()));
    profile = std::move(*read);
    cache = file.views().at(0);
  }
};
const captured& sample() {
  static const captured c;
  return c;
}

// Calls f(i) for every i below n on all cores.
void for_each(int n, const std::function<void(int)>& f) {
  std::atomic<int> next = 0;
  const auto work = [&] {
    for (int i; (i = next++) < n;) f(i);
  };
  std::vector<std::jthread> others;
  for (unsigned t = 1; t < std::thread::hardware_concurrency(); ++t) others.emplace_back(work);
  work();
}

// Layers of the sample that a layer of the model takes its heads from begin here.
int first_source(int layer, int layers) { return layer * sample().cache.num_layers / layers; }

// A plane of as many layers of the sample as it takes, side by side, in one unit.
sluice::plane_profile side_by_side(int first, int count, plane which) {
  const sluice::profile& p = sample().profile;
  sluice::plane_profile all = p.of(first, which);
  const int layers = p.shape.num_layers();
  for (int i = 1; i < count; ++i) all.scale = std::max(all.scale, p.of((first + i) % layers, which).scale);
  all.width = 0;
  all.classes.clear(), all.mean.clear(), all.matrix.clear();
  for (int i = 0; i < count; ++i) {
    const sluice::plane_profile& one = p.of((first + i) % layers, which);
    all.width += one.width;
    all.classes.insert(all.classes.end(), one.classes.begin(), one.classes.end());
    all.mean.insert(all.mean.end(), one.mean.begin(), one.mean.end());
    for (const std::uint16_t bits : one.matrix)
      all.matrix.push_back(
          sluice::from_float<sluice::f16>(sluice::to_float(sluice::f16{bits}) * one.scale / all.scale).bits);
  }
  return all;
}

sluice::plane_profile regrouped(const sluice::plane_profile& from, int width, int group_width) {
  sluice::plane_profile to;
  to.width = width;
  to.group_width = group_width;
  to.step = from.step;
  to.loss = from.loss;
  if (const auto s = sluice::detail::slice_plane(from, 0, to); s != sluice::status::ok)
    give_up(std::string("a basis of another width: ") + sluice::to_string(s));
  return to;
}

sluice::rope rope_of(const model_size& size) {
  return {.pairing = sluice::rope_pairing::half, .base = size.head_dim == 128 ? 500000.0 : 100000.0};
}

}  // namespace

const grown_model& model_of(const model_size& size) {
  static std::map<const model_size*, std::unique_ptr<grown_model>> made;
  std::unique_ptr<grown_model>& m = made[&size];
  if (!m) m = std::make_unique<grown_model>(size);
  return *m;
}

grown_model::grown_model(const model_size& size, sluice::dtype type) : size_(size) {
  const captured& from = sample();
  const int width = size.heads * size.head_dim, source_width = from.profile.of(0, plane::key).width;
  const int count = (width + source_width - 1) / source_width;
  profile_ =
      sluice::profile::uncalibrated(sluice::model_shape::uniform(size.layers, size.heads, size.head_dim, rope_of(size)),
                                    from.profile.passes, from.profile.sinks);
  profile_.set_name(size.name);
  std::map<int, std::array<sluice::plane_profile, 2>> planes;  // by the layer that they begin with
  for (int l = 0; l < size.layers; ++l) planes[first_source(l, size.layers)];
  std::vector<std::pair<int, sluice::plane_profile*>> todo;
  for (auto& [first, both] : planes)
    for (auto& p : both) todo.emplace_back(first, &p);
  for_each(static_cast<int>(todo.size()), [&](int i) {
    const auto [first, to] = todo[static_cast<std::size_t>(i)];
    *to = regrouped(side_by_side(first, count, plane(i % 2)), width, size.group_width);
  });
  for (int l = 0; l < size.layers; ++l)
    for (const plane which : {plane::key, plane::value})
      profile_.of(l, which) = planes[first_source(l, size.layers)][std::size_t(which)];
  if (sluice::validate(profile_) != sluice::status::ok) give_up("the grown profile is not valid");

  const std::int64_t tokens = from.cache.tokens;
  const std::size_t plane_size =
      std::size_t(size.layers) * std::size_t(tokens) * std::size_t(width) * std::size_t(sluice::size_of(type));
  bytes_.resize(2 * plane_size);
  cache_ = sluice::layouts::dense(bytes_.data(), bytes_.data() + plane_size,
                                  {.num_layers = size.layers,
                                   .num_kv_heads = size.heads,
                                   .head_dim_k = size.head_dim,
                                   .head_dim_v = size.head_dim,
                                   .max_tokens = tokens,
                                   .type = type},
                                  tokens);
  cache_.position = tokens;
  fill();
}

void grown_model::fill() {
  const captured& from = sample();
  const sluice::layer_shape& s = from.profile.shape.layers[0];
  const int source_layers = from.cache.num_layers, dim = s.head_dim_k;
  const sluice::rope old = from.profile.shape.ropes.at(std::size_t(s.rope_index)), own = rope_of(size_);
  std::vector<double> turns_before(std::size_t(sluice::rotary_dims(old, dim) / 2));
  std::vector<double> turns(std::size_t(sluice::rotary_dims(own, size_.head_dim) / 2));
  sluice::rope_frequencies(old, dim, turns_before);
  sluice::rope_frequencies(own, size_.head_dim, turns);
  for_each(size_.layers, [&](int layer) {
    std::vector<float> row(std::size_t(size_.head_dim));
    for (const plane which : {plane::key, plane::value})
      for (std::int64_t t = 0; t < cache_.tokens; ++t)
        for (int head = 0; head < size_.heads; ++head) {
          for (int c = 0; c < size_.head_dim; c += dim) {
            const int source = (head * size_.head_dim + c) / dim;  // heads of the sample from that layer on
            const int l = (first_source(layer, size_.layers) + source / s.num_kv_heads) % source_layers;
            for (int i = 0; i < dim; ++i)
              row[std::size_t(c + i)] =
                  sluice::load_element(from.cache.at(which, l, t, source % s.num_kv_heads, i), from.cache[which].type);
            if (which == plane::key)
              sluice::rotate(row.data() + c, old, turns_before, from.cache.position + t, sluice::rotation::inverse);
          }
          if (which == plane::key) sluice::rotate(row.data(), own, turns, cache_.position + t);
          for (int i = 0; i < size_.head_dim; ++i)
            sluice::store_element(cache_.at(which, layer, t, head, i), cache_[which].type, row[std::size_t(i)]);
        }
  });
}

const std::vector<std::byte>& grown_model::frame(const sluice::codec_id& codec) const {
  if (!frame_.empty() && coded_with_ == codec) return frame_;
  const auto encoder = sluice::make_encoder(codec, profile_);
  auto all_cores = [](int n, const auto& task) { for_each(n, task); };
  const int cores = std::max(1, int(std::thread::hardware_concurrency()));
  std::vector<std::byte> out(encoder->max_size(cache_));
  const auto n = encoder->encode(cache_, out, {.parallel = sluice::parallel_for::of(cores, all_cores)});
  if (!n) give_up(std::string("the CPU's encoder: ") + sluice::to_string(n.status()));
  out.resize(*n);
  coded_with_ = codec;
  return frame_ = std::move(out);
}

std::vector<std::byte> grown_model::decoded(std::span<const std::byte> frame, int level) const {
  sluice::frame_index index;
  if (const auto s = index.parse(frame); s != sluice::status::ok) give_up(sluice::to_string(s));
  const auto decoder = sluice::make_decoder(index.header().codec, profile_);
  std::vector<std::byte> out(bytes_.size());
  sluice::kv_view to = cache_;
  to.k.base = out.data();
  to.v.base = out.data() + out.size() / 2;
  if (const auto s = decoder->decode(frame, to, {.level = level}); !s)
    give_up(std::string("the CPU's decoder: ") + sluice::to_string(s.worst));
  return out;
}

}  // namespace cuda_bench
