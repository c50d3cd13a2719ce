// SPDX-License-Identifier: Apache-2.0
// The smallest engine with a paged KV cache that takes it out of a .slc file: its own pages, its own block table, its own
// stream, on a CPU or (gpu.cu) on a GPU.
#include "memory.hpp"
#include "pages.hpp"
#include "restore.hpp"

#include <sluice/codec/instances.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/layouts.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <optional>
#include <vector>

namespace custom_engine {
namespace {

// A .slc file is frames one after the other, each a run of tokens.
struct stored_context {
  std::vector<std::byte> bytes;
  std::vector<std::span<const std::byte>> frames;
  std::int64_t begin = 0, end = 0;  // sequence positions
  sluice::status state = sluice::status::ok;

  explicit stored_context(const char* path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) state = sluice::status::io_error;
    for (std::istreambuf_iterator<char> i(file), last; i != last; ++i) bytes.push_back(static_cast<std::byte>(*i));
    sluice::frame_index index;
    for (std::size_t at = 0; state == sluice::status::ok && at < bytes.size();) {
      const auto rest = std::span<const std::byte>(bytes).subspan(at);
      if ((state = index.parse(rest)) != sluice::status::ok) break;
      if (index.size() > rest.size()) state = sluice::status::truncated;
      const auto& h = index.header();
      if (frames.empty() || h.position < begin) begin = h.position;
      end = std::max(end, h.position + h.tokens);
      frames.push_back(rest.first(std::min(rest.size(), static_cast<std::size_t>(index.size()))));
      at += frames.back().size();
    }
    if (frames.empty() && state == sluice::status::ok) state = sluice::status::truncated;
  }
};

// This engine knows models whose layers are all alike.
std::optional<cache_shape> shape_of(const sluice::model_shape& m) {
  if (m.layers.empty()) return std::nullopt;
  const sluice::layer_shape& s = m.layers[0];
  for (const sluice::layer_shape& l : m.layers)
    if (!(l == s) || l.absent() || l.head_dim_k != l.head_dim_v) return std::nullopt;
  return cache_shape{.layers = m.num_layers(), .heads = s.num_kv_heads, .head_dim = s.head_dim_k};
}

int failed(const char* what, sluice::status why) {
  std::fprintf(stderr, "%s: %s\n", what, sluice::to_string(why));
  return 1;
}

// The largest difference of what the pages hold from what the CPU decodes, in steps from one bf16 to the next at the value,
// at the root mean square of its head or at 1/64, whichever is the largest: sums in another order differ by so much.
double differs_by(const sluice::profile& profile, const stored_context& context, const sluice::kv_view& pages,
                  int level) {
  const std::size_t plane = static_cast<std::size_t>(pages.num_layers) * static_cast<std::size_t>(pages.tokens) *
                            static_cast<std::size_t>(pages.k.token_stride);
  std::vector<std::byte> plain(2 * plane);
  sluice::kv_view right = sluice::layouts::dense(plain.data(), plain.data() + plane,
                                                 {.num_layers = pages.num_layers,
                                                  .num_kv_heads = pages.num_kv_heads,
                                                  .head_dim_k = pages.k.head_dim,
                                                  .head_dim_v = pages.v.head_dim,
                                                  .max_tokens = pages.tokens,
                                                  .type = pages.k.type},
                                                 pages.tokens);
  right.position = pages.position;
  sluice::decoder<> decoder(profile);
  for (const auto& frame : context.frames)
    if (!decoder.decode(frame, right, {.level = level})) return INFINITY;
  double most = 0;
  for (const sluice::plane p : {sluice::plane::key, sluice::plane::value})
    for (int l = 0; l < pages.num_layers; ++l)
      for (std::int64_t t = 0; t < pages.tokens; ++t)
        for (int h = 0; h < pages.num_kv_heads; ++h) {
          double square = 0;
          for (int i = 0; i < pages[p].head_dim; ++i) {
            const double b = static_cast<double>(sluice::load_element(right.at(p, l, t, h, i), pages[p].type));
            square += b * b / pages[p].head_dim;
          }
          for (int i = 0; i < pages[p].head_dim; ++i) {
            const double a = static_cast<double>(sluice::load_element(pages.at(p, l, t, h, i), pages[p].type));
            const double b = static_cast<double>(sluice::load_element(right.at(p, l, t, h, i), pages[p].type));
            const double size = std::max({std::abs(b), std::sqrt(square), 1.0 / 64});
            if (a != b) most = std::max(most, std::abs(a - b) / std::ldexp(1.0, std::ilogb(size) - 7));
          }
        }
  return most;
}

int run(const char* profile_path, const char* context_path, int level) {
  const auto profile = sluice::profile::load(profile_path);
  if (!profile) return failed(profile_path, profile.status());
  const stored_context context(context_path);
  if (context.state != sluice::status::ok) return failed(context_path, context.state);
  const auto shape = shape_of(profile->shape);
  if (!shape) return failed(profile_path, sluice::status::wrong_shape);
  const std::int64_t tokens = context.end - context.begin;

  // The engine's own: a pool that holds more than this sequence, and a block table in no order.
  const int needed = static_cast<int>((tokens + shape->page_tokens - 1) / shape->page_tokens);
  page_pool pool(*shape, needed + 5);
  const std::vector<std::int32_t> table = pool.take(tokens);
  const stream work;
  const auto states = restore(*profile, context.frames, pool, table, context.begin, tokens, level, work);

  // Its pages as they are now, seen by the host.
  std::vector<std::byte> bytes = pool.bytes().read(work);
  const sluice::kv_view pages = view_of(*shape, bytes.data(), pool.pages(), table, context.begin, tokens);
  int damaged = 0;
  for (const sluice::status s : states) damaged += s != sluice::status::ok;
  std::printf("%s: %lld tokens of %d layers x %d heads x %d in %zu frames, decoded on the %s into %d pages:",
              context_path, static_cast<long long>(tokens), shape->layers, shape->heads, shape->head_dim,
              context.frames.size(), on_gpu ? "GPU" : "CPU", needed);
  for (std::size_t i = 0; i < table.size() && i < 8; ++i) std::printf(" %d", table[i]);
  std::printf("%s\n", table.size() > 8 ? " ..." : "");
  for (std::size_t i = 0; i < states.size(); ++i)
    if (states[i] != sluice::status::ok)
      std::printf("page %d of the sequence: %s\n", static_cast<int>(i), sluice::to_string(states[i]));
  if (damaged) return 1;
  const double difference = differs_by(*profile, context, pages, level);
  std::printf("largest difference from the CPU's decoder: %g steps of bf16 at the size of the head\n", difference);
  return difference <= 1 ? 0 : 1;
}

}  // namespace
}  // namespace custom_engine

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "usage: %s PROFILE CONTEXT.slc [LEVEL]\n", argv[0]);
    return 2;
  }
#if CUSTOM_ENGINE_GPU
  if (cudaFree(nullptr) != cudaSuccess) {
    std::printf("skipped: no GPU answers\n");
    return 77;
  }
#endif
  return custom_engine::run(argv[1], argv[2], argc > 3 ? std::atoi(argv[3]) : sluice::max_passes);
}
