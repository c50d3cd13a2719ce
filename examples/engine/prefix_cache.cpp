// SPDX-License-Identifier: Apache-2.0
#include "prefix_cache.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <stdexcept>

namespace engine {

namespace {

using sluice::stream::to_hex;

constexpr double patience = 30;  // seconds without any byte, then a store counts as gone

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

prefix_cache::prefix_cache(const model& net, sluice::profile profile, store& where, thread_pool& pool)
    : profile_(std::move(profile)), model_(net.identity()), store_(&where), pool_(&pool) {
  if (profile_.shape != kv_shape(net.config()))
    throw std::runtime_error("the profile is of a model with another shape");
  for (int i = 0; i < pool.size(); ++i) {
    encoders_.emplace_back(profile_);
    exact_encoders_.emplace_back(profile_);
    decoders_.emplace_back(profile_);
  }
}

std::size_t prefix_cache::raw_bytes(int tokens, const sequence& seq) const noexcept {
  return std::size_t(tokens) * std::size_t(2 * seq.pool().layers()) * std::size_t(seq.pool().token_stride());
}

// Names and places of all chunks that these tokens make.
std::vector<located_chunk> prefix_cache::chunks_of(std::span<const std::int32_t> ids) const {
  sluice::stream::chunk_keys keys(model_, profile_.fingerprint(), codec::id), exact_keys(model_, 0, exact::id);
  std::vector<located_chunk> chunks;
  for (std::size_t at = 0; at < ids.size(); at += chunk_tokens) {
    const auto tokens = ids.subspan(at, std::min<std::size_t>(chunk_tokens, ids.size() - at));
    located_chunk& c = chunks.emplace_back();
    c.begin = int(at);
    c.end = int(at + tokens.size());
    c.key = keys.next(tokens);
    c.exact_key = exact_keys.next(tokens);
  }
  return chunks;
}

std::string prefix_cache::name_of(std::span<const std::int32_t> ids) const {
  const std::vector<located_chunk> chunks = chunks_of(ids);
  return to_hex(chunks.empty() ? sluice::digest{} : chunks.back().key);
}

template <class Codec>
std::size_t prefix_cache::put_missing(std::span<const located_chunk> chunks, sluice::digest located_chunk::*key,
                                      const sequence& seq, int levels, std::vector<sluice::encoder<Codec>>& encoders,
                                      save_report& report) {
  std::size_t bytes = 0;
  std::vector<std::size_t> todo;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const auto size = store_->size(to_hex(chunks[i].*key));
    if (size) {
      ++report.already_there;
      bytes += std::size_t(*size);
    } else if (size.status() == sluice::status::not_found) {
      todo.push_back(i);
    } else {
      throw std::runtime_error(std::string("the store: ") + to_string(size.status()));
    }
  }
  std::vector<std::vector<std::byte>> objects(todo.size());
  std::vector<sluice::status> results(todo.size());
  const double begin = now();
  pool_->parallel_for(int(todo.size()), [&](int i, int worker) {
    const located_chunk& c = chunks[todo[std::size_t(i)]];
    auto& encoder = encoders[std::size_t(worker)];
    std::vector<std::byte>& object = objects[std::size_t(i)];
    const sluice::kv_view tokens = seq.view().slice(c.begin, c.end);
    const sluice::stream::object_header header = sluice::stream::make_object_header(c.*key);
    object.resize(sizeof header + encoder.max_size(tokens));
    std::memcpy(object.data(), &header, sizeof header);
    const auto size = encoder.encode(tokens, std::span(object).subspan(sizeof header), {.levels = levels});
    results[std::size_t(i)] = size.status();
    object.resize(sizeof header + *size);
  });
  const double encoded = now();
  report.encode_seconds += encoded - begin;
  for (std::size_t i = 0; i < todo.size(); ++i) {
    sluice::status s = results[i];
    if (s != sluice::status::ok) throw std::runtime_error(std::string("encoding: ") + to_string(s));
    s = store_->put(to_hex(chunks[todo[i]].*key), objects[i]);
    if (s != sluice::status::ok) throw std::runtime_error(std::string("the store: ") + to_string(s));
    bytes += objects[i].size();
  }
  report.write_seconds += now() - encoded;
  return bytes;
}

save_report prefix_cache::save(std::span<const std::int32_t> ids, const sequence& seq, int levels, bool exact_copies) {
  const std::vector<located_chunk> chunks = chunks_of(ids);
  save_report report;
  report.chunks = int(chunks.size());
  report.raw_bytes = raw_bytes(int(ids.size()), seq);
  report.bytes = put_missing(chunks, &located_chunk::key, seq, levels, encoders_, report);
  if (exact_copies) {
    save_report other;
    report.exact_bytes = put_missing(chunks, &located_chunk::exact_key, seq, levels, exact_encoders_, other);
    report.encode_seconds += other.encode_seconds;
    report.write_seconds += other.write_seconds;
  }
  return report;
}

std::vector<located_chunk> prefix_cache::locate(std::span<const std::int32_t> ids, bool all) {
  std::vector<located_chunk> chunks = chunks_of(ids);
  std::vector<std::string> names;
  for (const located_chunk& c : chunks) names.push_back(to_hex(c.key));
  // Header and index of every chunk at once; an index that is longer than that (many layers, small tiles) in a second go.
  std::vector<std::size_t> open;
  for (std::size_t i = 0; i < chunks.size(); ++i) open.push_back(i);
  for (std::size_t most = 4096; !open.empty(); most *= 16) {
    std::vector<piece> heads;
    for (const std::size_t i : open) heads.push_back({names[i], 0, most});
    read_all(*store_, heads, patience);
    std::vector<std::size_t> longer;
    for (std::size_t k = 0; k < open.size(); ++k) {
      located_chunk& c = chunks[open[k]];
      c.state = heads[k].state;
      c.head = std::move(heads[k].bytes);
      c.there = c.state == sluice::status::ok;
      if (!c.there) continue;
      const auto frame = sluice::stream::open_object(c.head, c.key);
      c.state = frame ? c.index.parse(*frame) : frame.status();
      if (c.state == sluice::status::ok &&
          (c.index.header().position != c.begin || c.index.header().tokens != std::uint32_t(c.end - c.begin)))
        c.state = sluice::status::wrong_positions;
      if (c.state == sluice::status::ok && c.index.header().levels_present == 0)
        c.state = sluice::status::level_not_present;
      if (c.state == sluice::status::truncated && c.head.size() == most) longer.push_back(open[k]);
    }
    open = longer;
  }
  if (all) {
    std::vector<std::string> exact_names;
    for (const located_chunk& c : chunks) exact_names.push_back(to_hex(c.exact_key));
    std::vector<piece> heads;
    for (const std::string& name : exact_names)
      heads.push_back({name, 0, sizeof(sluice::stream::object_header) + sizeof(sluice::frame_header)});
    read_all(*store_, heads, patience);
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      const auto frame = sluice::stream::open_object(heads[i].bytes, chunks[i].exact_key);
      sluice::frame_header h;
      if (!frame || frame->size() < sizeof h) continue;
      std::memcpy(&h, frame->data(), sizeof h);
      chunks[i].exact_bytes = sizeof(sluice::stream::object_header) + std::min(h.frame_size, std::uint64_t{1} << 40);
    }
  } else {
    chunks.erase(std::find_if(chunks.begin(), chunks.end(), [](const located_chunk& c) { return !c.there; }),
                 chunks.end());
  }
  return chunks;
}

restore_report prefix_cache::restore(std::span<const std::int32_t> ids, sequence& seq, int level) {
  const double begin = now();
  restore_report report;
  const std::vector<located_chunk> chunks = locate(ids);
  std::vector<std::string> names;
  for (const located_chunk& c : chunks) names.push_back(to_hex(c.key));
  std::vector<piece> objects;
  for (std::size_t i = 0; i < chunks.size(); ++i)
    objects.push_back({names[i], 0, chunks[i].state == sluice::status::ok ? chunks[i].size_at(level) : 0});
  read_all(*store_, objects, patience);
  for (const piece& o : objects) report.bytes += o.bytes.size();
  report.tokens = chunks.empty() ? 0 : chunks.back().end;
  report.chunks = int(chunks.size());
  report.raw_bytes = raw_bytes(report.tokens, seq);
  if (seq.grow(report.tokens) != sluice::status::ok) throw std::runtime_error("the KV cache is full");
  report.read_seconds = now() - begin;
  decode(chunks, objects, seq, level, report);
  report.decode_seconds = now() - begin - report.read_seconds;
  return report;
}

void prefix_cache::decode(std::span<const located_chunk> chunks, std::span<const piece> objects, sequence& seq,
                          int level, restore_report& report) {
  // Layers in a few parts, so that the last chunk does not keep one thread busy alone.
  constexpr int page = page_pool::page_size;
  const int layers = profile_.shape.num_layers();
  const int parts = chunks.empty() ? 1 : std::clamp(4 * pool_->size() / int(chunks.size()), 1, layers);
  std::vector<std::array<sluice::status, chunk_tokens / page>> pages(chunks.size() * std::size_t(parts));
  pool_->parallel_for(int(pages.size()), [&](int task, int worker) {
    const auto i = std::size_t(task / parts);
    const int part = task % parts;
    const located_chunk& c = chunks[i];
    auto& done = pages[std::size_t(task)];
    done.fill(c.state);
    if (c.state != sluice::status::ok) return;
    const auto frame = sluice::stream::open_object(objects[i].bytes, c.key);
    done.fill(frame.status());
    if (!frame) return;
    const sluice::kv_view target = seq.view().slice(c.begin, c.end);
    (void)decoders_[std::size_t(worker)].decode(
        *frame, target,
        {.level = level, .layers = {layers * part / parts, layers * (part + 1) / parts}, .pages = done});
  });
  for (std::size_t i = 0; i < chunks.size(); ++i)
    for (int p = chunks[i].begin; p < chunks[i].end; p += page) {
      sluice::status worst = sluice::status::ok;
      bool degraded = false;
      for (int part = 0; part < parts; ++part) {
        const auto& done = pages[i * std::size_t(parts) + std::size_t(part)];
        const sluice::status s = done[std::size_t((p - chunks[i].begin) / page)];
        degraded |= s == sluice::status::degraded;
        if (s != sluice::status::ok && s != sluice::status::degraded) worst = s;
      }
      report.degraded_pages += degraded && worst == sluice::status::ok;
      if (worst == sluice::status::ok) continue;
      const int n = std::min(page, chunks[i].end - p);
      std::vector<missing_run>& runs = report.missing;
      if (!runs.empty() && runs.back().position + runs.back().tokens == p && runs.back().why == worst)
        runs.back().tokens += n;
      else
        runs.push_back({p, n, worst});
    }
}

}  // namespace engine
