// SPDX-License-Identifier: Apache-2.0
#include "kept.hpp"
#include "observe.hpp"
#include "predictions.hpp"

#include <sluice/format/checksum.hpp>
#include <sluice/stream/store/object.hpp>

#include <output_file.hpp>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <utility>

namespace engine {

namespace {

// Runs of bytes that make up a file: rows of K and V layer by layer, then what was found.
template <class Run>
void for_runs(int context, const sequence& seq, computed_context& found, Run&& run) {
  const auto row = std::size_t(seq.pool().token_stride());
  for (const sluice::plane p : {sluice::plane::key, sluice::plane::value})
    for (int l = 0; l < seq.pool().layers(); ++l)
      for (int t = 0; t < context; ++t) run(std::span(seq.at(p, l, t), row));
  run(std::as_writable_bytes(std::span(found.predicted.data(), std::size_t(found.predicted.size()))));
  run(std::as_writable_bytes(std::span(found.attention)));
}

}  // namespace

kept_contexts::kept_contexts(model& net, thread_pool& pool, std::string folder)
    : net_(&net), pool_(&pool), folder_(std::move(folder)) {
  if (folder_.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error) throw std::runtime_error(folder_ + ": " + error.message());
  identity_ = net.identity();
}

std::string kept_contexts::path_of(std::span<const std::int32_t> ids, int context, const sequence& seq) const {
  sluice::sha256 hash;
  hash.add(identity_).add(std::uint64_t(seq.pool().type())).add(std::uint64_t(context)).add(std::as_bytes(ids));
  return folder_ + "/" + sluice::stream::to_hex(hash.finish()) + ".context";
}

computed_context kept_contexts::run(std::span<const std::int32_t> ids, int context, sequence& seq) {
  const auto suffix = ids.subspan(std::size_t(context), ids.size() - 1 - std::size_t(context));
  const std::string path = folder_.empty() ? "" : path_of(ids, context, seq);
  if (!path.empty())
    if (std::optional<computed_context> kept = load(path, context, suffix.size(), seq)) return *std::move(kept);
  last_queries last(*net_, context);
  net_->forward(
      ids.first(std::size_t(context)), seq,
      {.on_queries = [&](int layer, int position, std::span<const float> q) { last.add(layer, position, q); }});
  computed_context found;
  found.attention = observed_attention(net_->config(), seq, last, *pool_);
  found.predicted = predict(*net_, suffix, seq);
  seq.truncate(context);
  if (!path.empty()) save(path, context, seq, found);
  return found;
}

std::optional<computed_context> kept_contexts::load(const std::string& path, int context, std::size_t suffix,
                                                    sequence& seq) const {
  std::ifstream in(path, std::ios::binary);
  if (!in) return {};
  if (seq.grow(context) != sluice::status::ok) throw std::runtime_error("the KV cache is full");
  const model_config& c = net_->config();
  computed_context found{matrix(Eigen::Index(suffix), c.vocab), {}};
  found.attention.resize(std::size_t(c.layers) * std::size_t(context));
  std::uint32_t sum = 0, expected = 0;
  for_runs(context, seq, found, [&](std::span<std::byte> bytes) {
    in.read(reinterpret_cast<char*>(bytes.data()), std::streamsize(bytes.size()));
    sum = sluice::checksum(bytes.data(), bytes.size(), sum);
  });
  in.read(reinterpret_cast<char*>(&expected), sizeof expected);
  if (in && sum == expected && in.peek() == std::char_traits<char>::eof()) return found;
  seq.truncate(0);
  return {};
}

void kept_contexts::save(const std::string& path, int context, const sequence& seq, computed_context& found) const {
  output_file file(path);
  std::uint32_t sum = 0;
  for_runs(context, seq, found, [&](std::span<const std::byte> bytes) {
    file.write(bytes);
    sum = sluice::checksum(bytes.data(), bytes.size(), sum);
  });
  file.write(std::as_bytes(std::span(&sum, 1)));
  if (!file.commit()) throw std::runtime_error(file.error());
}

}  // namespace engine
