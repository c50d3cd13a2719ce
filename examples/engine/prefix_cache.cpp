// SPDX-License-Identifier: Apache-2.0
#include "prefix_cache.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <stdexcept>

namespace engine {

namespace {

// Layer by layer; in which order a profile lists its rotary embeddings is its own affair.
bool same(const sluice::model_shape& a, const sluice::model_shape& b) {
  const auto rope = [](const sluice::model_shape& s, std::size_t layer) {
    return s.ropes.at(std::size_t(s.layers[layer].rope_index));
  };
  if (a.layers.size() != b.layers.size()) return false;
  for (std::size_t l = 0; l < a.layers.size(); ++l) {
    sluice::layer_shape other = b.layers[l];
    other.rope_index = a.layers[l].rope_index;
    if (a.layers[l] != other || rope(a, l) != rope(b, l)) return false;
  }
  return true;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

prefix_cache::prefix_cache(const model& net, sluice::profile profile, store& where, thread_pool& pool)
    : profile_(std::move(profile)), model_(net.identity()), store_(&where), pool_(&pool) {
  if (!same(profile_.shape, kv_shape(net.config())))
    throw std::runtime_error("the profile is of a model with another shape");
  for (int i = 0; i < pool.size(); ++i) {
    encoders_.emplace_back(profile_);
    decoders_.emplace_back(profile_);
  }
}

sluice::stream::chunk_keys prefix_cache::keys() const noexcept { return {model_, profile_.fingerprint(), codec::id}; }

std::string prefix_cache::name_of(std::span<const std::int32_t> ids) const {
  auto chain = keys();
  sluice::digest last{};
  for (std::size_t at = 0; at < ids.size(); at += chunk_tokens)
    last = chain.next(ids.subspan(at, std::min<std::size_t>(chunk_tokens, ids.size() - at)));
  return sluice::stream::to_hex(last);
}

save_report prefix_cache::save(std::span<const std::int32_t> ids, const sequence& seq, int levels) {
  struct chunk {
    int begin, end;
    sluice::digest key;
    std::vector<std::byte> object;
    sluice::status result;
  };
  std::vector<chunk> chunks;
  auto chain = keys();
  for (int at = 0; at < int(ids.size()); at += chunk_tokens) {
    const int n = std::min(chunk_tokens, int(ids.size()) - at);
    chunks.push_back({at, at + n, chain.next(ids.subspan(std::size_t(at), std::size_t(n))), {}, sluice::status::ok});
  }
  save_report report;
  report.chunks = int(chunks.size());
  report.raw_bytes = ids.size() * std::size_t(2 * seq.pool().layers()) * std::size_t(seq.pool().token_stride());

  const double begin = now();
  pool_->parallel_for(int(chunks.size()), [&](int i, int worker) {
    chunk& c = chunks[std::size_t(i)];
    if (store_->has(sluice::stream::to_hex(c.key))) return;
    auto& encoder = encoders_[std::size_t(worker)];
    const sluice::kv_view tokens = seq.view().slice(c.begin, c.end);
    const sluice::stream::object_header header = sluice::stream::make_object_header(c.key);
    c.object.resize(sizeof header + encoder.max_size(tokens));
    std::memcpy(c.object.data(), &header, sizeof header);
    const auto size = encoder.encode(tokens, std::span(c.object).subspan(sizeof header), {.levels = levels});
    c.result = size.status();
    c.object.resize(sizeof header + *size);
  });
  report.encode_seconds = now() - begin;
  for (const chunk& c : chunks) {
    const std::string name = sluice::stream::to_hex(c.key);
    if (c.result != sluice::status::ok) throw std::runtime_error(std::string("encoding: ") + to_string(c.result));
    if (c.object.empty()) {
      ++report.already_there;
      report.bytes += store_->read(name).size();
    } else {
      if (const std::string why = store_->put(name, c.object); !why.empty()) throw std::runtime_error(why);
      report.bytes += c.object.size();
    }
  }
  report.write_seconds = now() - begin - report.encode_seconds;
  return report;
}

restore_report prefix_cache::restore(std::span<const std::int32_t> ids, sequence& seq, int level) {
  struct chunk {
    int begin, end;
    sluice::digest key;
    std::vector<std::byte> object;
  };
  const double begin = now();
  restore_report report;
  std::vector<chunk> chunks;
  auto chain = keys();
  const auto find = [&](int at, int n) {  // true where the store knows these tokens as one chunk
    const sluice::digest key = chain.peek(ids.subspan(std::size_t(at), std::size_t(n)));
    if (!store_->has(sluice::stream::to_hex(key))) return false;
    chunks.push_back({at, at + n, chain.next(ids.subspan(std::size_t(at), std::size_t(n))), {}});
    return true;
  };
  int at = 0;
  while (at + chunk_tokens <= int(ids.size()) && find(at, chunk_tokens)) at += chunk_tokens;
  for (int n = std::min(chunk_tokens - 1, int(ids.size()) - at); n > 0; --n)  // where a stored sequence ended
    if (find(at, n)) {
      at += n;
      break;
    }
  report.tokens = at;
  report.chunks = int(chunks.size());
  report.raw_bytes = std::size_t(at) * std::size_t(2 * seq.pool().layers()) * std::size_t(seq.pool().token_stride());
  if (seq.grow(at) != sluice::status::ok) throw std::runtime_error("the KV cache is full");
  for (chunk& c : chunks) {
    const std::string name = sluice::stream::to_hex(c.key);
    // Header and index first, however long they are, then the passes of the level. What else is wrong the decoder says.
    sluice::frame_index index;
    sluice::status parsed = sluice::status::truncated;
    for (std::size_t head = 4096;; head *= 8) {
      c.object = store_->read(name, head);
      const auto frame = sluice::stream::open_object(c.object, c.key);
      parsed = frame ? index.parse(*frame) : frame.status();
      if (parsed != sluice::status::truncated || c.object.size() < head) break;
    }
    const int finest = std::min(level, index.header().levels_present - 1);
    if (parsed == sluice::status::ok && finest >= 0)
      c.object = store_->read(name, std::size_t(index.size_at(finest)) + sizeof(sluice::stream::object_header));
  }
  for (const chunk& c : chunks) report.bytes += c.object.size();
  report.read_seconds = now() - begin;

  // Layers in a few parts, so that the last chunk does not keep one thread busy alone.
  constexpr int page = page_pool::page_size, pages_of_chunk = chunk_tokens / page;
  const int layers = profile_.shape.num_layers(), parts = chunks.empty() ? 1 : std::clamp(4 * pool_->size() / int(chunks.size()), 1, layers);
  std::vector<std::array<sluice::status, pages_of_chunk>> pages(chunks.size() * std::size_t(parts));
  pool_->parallel_for(int(pages.size()), [&](int task, int worker) {
    const chunk& c = chunks[std::size_t(task / parts)];
    const int part = task % parts;
    auto& done = pages[std::size_t(task)];
    done.fill(sluice::status::absent);
    const auto frame = sluice::stream::open_object(c.object, c.key);
    if (!frame) {
      done.fill(frame.status());
      return;
    }
    sluice::kv_view target = seq.view().slice(c.begin, c.end);
    (void)decoders_[std::size_t(worker)].decode(*frame, target,
                                                {.level = level,
                                                 .layers = {layers * part / parts, layers * (part + 1) / parts},
                                                 .position = c.begin,
                                                 .pages = done});
  });
  for (std::size_t i = 0; i < chunks.size(); ++i)
    for (int p = chunks[i].begin; p < chunks[i].end; p += page) {
      sluice::status worst = sluice::status::ok;
      bool degraded = false;
      for (int part = 0; part < parts; ++part) {
        const sluice::status s = pages[i * std::size_t(parts) + std::size_t(part)][std::size_t((p - chunks[i].begin) / page)];
        degraded |= s == sluice::status::degraded;
        if (s != sluice::status::ok && s != sluice::status::degraded) worst = s;
      }
      report.degraded_pages += degraded && worst == sluice::status::ok;
      if (worst == sluice::status::ok) continue;
      const int n = std::min(page, chunks[i].end - p);
      if (!report.missing.empty() && report.missing.back().position + report.missing.back().tokens == p &&
          report.missing.back().why == worst)
        report.missing.back().tokens += n;
      else
        report.missing.push_back({p, n, worst});
    }
  report.decode_seconds = now() - begin - report.read_seconds;
  return report;
}

}  // namespace engine
