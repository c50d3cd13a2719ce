// SPDX-License-Identifier: Apache-2.0
#include "prefix_cache.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string_view>

namespace engine {

namespace {

using sluice::stream::to_hex;
constexpr std::size_t envelope = sizeof(sluice::stream::object_header);

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// A cache is of the weights and the arithmetic, of the type of the pages that its tokens were computed in (a token attends
// to pages of that type; exact copies hold their bits), and of nothing else. Exact copies of hidden states are of another
// cache, since no profile tells them from those of K and V.
sluice::digest identity_of(const model& net, const prefix_options& options) {
  const std::string_view type = to_string(options.kv), hidden = "hidden states";
  sluice::sha256 hash;
  hash.add(options.made_by ? *options.made_by : net.identity()).add(std::as_bytes(std::span(type)));
  if (options.holds == sluice::stream::payload::hidden) hash.add(std::as_bytes(std::span(hidden)));
  return hash.finish();
}

[[noreturn]] void store_failed(sluice::status s, std::string_view detail) {
  throw std::runtime_error("the store: " + in_words(s, detail));
}

}  // namespace

prefix_cache::prefix_cache(const model& net, sluice::profile profile, store& where, thread_pool& pool,
                           prefix_options options)
    : profile_(std::move(profile)),
      fingerprint_(profile_.fingerprint()),
      identity_(identity_of(net, options)),
      salt_(std::move(options.salt)),
      chunk_tokens_(options.chunk_tokens),
      store_(&where),
      pool_(&pool) {
  if (profile_.shape != payload_shape(net.config(), options.holds))
    throw std::runtime_error("the profile is of a model with another shape");
  for (int i = 0; i < pool.size(); ++i) {
    encoders_.emplace_back(profile_);
    exact_encoders_.emplace_back(profile_);
    decoders_.emplace_back(profile_);
  }
}

std::size_t prefix_cache::raw_bytes(int tokens, const sequence& seq) const noexcept {
  return std::size_t(tokens) * seq.pool().values_of_token() * std::size_t(seq.pool().element_stride());
}

// Of an object of so many tokens with all its passes: envelope, header and index. An index that is longer all the same is
// asked for again.
std::size_t prefix_cache::head_bytes(int tokens) const noexcept {
  const int tiles = (tokens + codec::tile_tokens - 1) / codec::tile_tokens;
  const sluice::model_shape& shape = profile_.shape;
  std::size_t runs = 0, groups = 0;
  for (int l = 0; l < shape.num_layers(); ++l) {
    runs += l == 0 || !(shape.layers[std::size_t(l)] == shape.layers[std::size_t(l - 1)]);
    for (const sluice::plane p : {sluice::plane::key, sluice::plane::value})
      groups += std::size_t(profile_.of(l, p).groups());
  }
  return envelope + sizeof(sluice::frame_header) + runs * sizeof(sluice::shape_run) +
         groups * std::size_t(tiles * codec::passes(profile_)) * sizeof(sluice::tile_entry) + 16;
}

// Names and places of all chunks that these tokens make.
std::vector<located_chunk> prefix_cache::chunks_of(std::span<const std::int32_t> ids) const {
  const auto salt = std::as_bytes(std::span(salt_));
  sluice::stream::chunk_keys keys(identity_, fingerprint_, codec::id, salt), exact_keys(identity_, 0, exact::id, salt);
  std::vector<located_chunk> chunks;
  for (std::size_t at = 0; at < ids.size(); at += std::size_t(chunk_tokens_)) {
    const auto tokens = ids.subspan(at, std::min(std::size_t(chunk_tokens_), ids.size() - at));
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

// Whether a frame is what the key that it was put under says. Who puts objects under wrong keys is not kept from it by keys.
template <class Codec>
sluice::status prefix_cache::check(const sluice::frame_header& h, const located_chunk& c) const noexcept {
  if (!Codec::id.decodes(h.codec)) return sluice::status::wrong_codec;
  if (h.fingerprint != (Codec::uses(profile_) ? fingerprint_ : 0)) return sluice::status::wrong_profile;
  if (h.position != c.begin || h.tokens != std::uint32_t(c.end - c.begin)) return sluice::status::wrong_positions;
  if (h.levels_present == 0) return sluice::status::level_not_present;
  return sluice::status::ok;
}

template <class Codec>
std::size_t prefix_cache::put_missing(std::span<const std::int32_t> ids, std::span<const located_chunk> chunks,
                                      sluice::digest located_chunk::*key, const sequence& seq, int levels,
                                      const sluice::document_steps& steps,
                                      std::vector<sluice::encoder<Codec>>& encoders, save_report& report) {
  levels = std::min(levels, Codec::passes(profile_));
  struct work {
    std::size_t chunk;
    int levels;
    std::vector<std::byte> object;
    sluice::status state;
  };
  std::vector<work> todo;
  std::size_t bytes = 0;
  const double begin = now();
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const located_chunk& c = chunks[i];
    const std::string name = to_hex(c.*key);
    const auto size = store_->size(name);
    if (!size && size.status() != sluice::status::not_found) store_failed(size.status(), store_->detail());
    if (!size) {
      todo.push_back({i, levels, {}, {}});
      continue;
    }
    // What is larger than any frame of these tokens is none.
    const std::size_t most = envelope + encoders[0].max_size(seq.view().slice(c.begin, c.end));
    piece whole{name, 0, std::size_t(std::min<std::uint64_t>(*size, most))};
    read_all(*store_, {&whole, 1});
    if (whole.state == sluice::status::not_found) {  // gone meanwhile
      todo.push_back({i, levels, {}, {}});
      continue;
    }
    if (whole.state != sluice::status::ok) store_failed(whole.state, whole.detail);
    const auto frame = sluice::stream::open_object(whole.bytes, c.*key);
    sluice::frame_index index;
    sluice::status s = frame ? index.parse(*frame) : frame.status();
    if (s == sluice::status::ok) s = check<Codec>(index.header(), c);
    const int there = s == sluice::status::ok ? index.whole_levels() : 0;
    if (s == sluice::status::ok && frame->size() < index.size()) s = sluice::status::truncated;
    if (s == sluice::status::ok && sluice::sound_level(index, *frame, there - 1) < there - 1)
      s = sluice::status::corrupt_tile;
    if (s == sluice::status::ok && there < levels) s = sluice::status::level_not_present;
    if (s == sluice::status::ok) {
      ++report.already_there;
      bytes += std::size_t(*size);
    } else {
      append(report.replaced, {c.begin, c.end - c.begin, s});
      todo.push_back({i, std::max(levels, std::min(there, Codec::passes(profile_))), {}, {}});
    }
  }
  const double checked = now();
  report.check_seconds += checked - begin;
  pool_->parallel_for(int(todo.size()), [&](int i, int worker) {
    work& w = todo[std::size_t(i)];
    const located_chunk& c = chunks[w.chunk];
    auto& encoder = encoders[std::size_t(worker)];
    const sluice::kv_view tokens = seq.view().slice(c.begin, c.end);
    const sluice::stream::object_header header = sluice::stream::make_object_header(c.*key);
    w.object.resize(envelope + encoder.max_size(tokens));
    std::memcpy(w.object.data(), &header, envelope);
    const auto size = encoder.encode(tokens, std::span(w.object).subspan(envelope),
                                     {.levels = w.levels,
                                      .side = {ids.subspan(std::size_t(c.begin), std::size_t(c.end - c.begin))},
                                      .coarser = steps.coarser,
                                      .loss = steps.told()});
    w.state = size.status();
    w.object.resize(envelope + *size);
  });
  const double encoded = now();
  report.encode_seconds += encoded - checked;
  for (const work& w : todo) {
    if (w.state != sluice::status::ok) throw std::runtime_error(std::string("encoding: ") + to_string(w.state));
    const std::string name = to_hex(chunks[w.chunk].*key);
    std::string why;
    const sluice::status s = sluice::stream::put_checked(*store_, name, w.object, patience{}.silent_seconds, &why);
    if (s == sluice::status::too_large)
      why += (why.empty() ? "" : "; ") + ("the object has " + std::to_string(w.object.size()) + " bytes");
    if (s != sluice::status::ok) store_failed(s, why);
    bytes += w.object.size();
  }
  report.write_seconds += now() - encoded;
  return bytes;
}

save_report prefix_cache::save(std::span<const std::int32_t> ids, const sequence& seq, int levels, bool exact_copies,
                               const sluice::document_steps& steps) {
  const std::vector<located_chunk> chunks = chunks_of(ids);
  save_report report;
  report.chunks = int(chunks.size());
  report.raw_bytes = raw_bytes(int(ids.size()), seq);
  report.bytes = put_missing(ids, chunks, &located_chunk::key, seq, levels, steps, encoders_, report);
  if (exact_copies) {
    const int coded = report.already_there;
    report.exact_bytes = put_missing(ids, chunks, &located_chunk::exact_key, seq, 1, {}, exact_encoders_, report);
    report.already_there = coded;
  }
  return report;
}

located_prefix prefix_cache::locate(std::span<const std::int32_t> ids, bool exact_copies, const patience& wait) {
  const double begin = now();
  located_prefix out{chunks_of(ids), {}};
  std::vector<located_chunk>& chunks = out.chunks;
  std::vector<std::string> names, exact_names;
  for (const located_chunk& c : chunks) {
    names.push_back(to_hex(c.key));
    exact_names.push_back(to_hex(c.exact_key));
  }
  // Everything that is to be known in one round trip: header and index of every chunk, the headers of exact copies, the
  // note. An index that is longer than expected (made with more passes) is asked for again.
  const std::size_t n = chunks.size();
  std::vector<piece> heads;
  for (std::size_t i = 0; i < n; ++i) heads.push_back({names[i], 0, head_bytes(chunks[i].end - chunks[i].begin)});
  for (std::size_t i = 0; exact_copies && i < n; ++i)
    heads.push_back({exact_names[i], 0, envelope + sizeof(sluice::frame_header)});
  const std::string note = (names.empty() ? name_of(ids) : names.back()) + ".json";  // as note_of(), hashed already
  heads.push_back({note, 0, 4096});
  read_all(*store_, heads, wait);

  const auto take = [&](located_chunk& c, piece& head) {
    c.state = head.state;
    c.detail = std::move(head.detail);
    c.head = std::move(head.bytes);
    c.there = c.state == sluice::status::ok;
    if (!c.there) return std::size_t{0};
    const auto frame = sluice::stream::open_object(c.head, c.key);
    c.state = frame ? c.index.parse(*frame) : frame.status();
    if (c.state == sluice::status::ok) c.state = check<codec>(c.index.header(), c);
    if (c.state != sluice::status::truncated || !frame || frame->size() < sizeof(sluice::frame_header))
      return std::size_t{0};
    sluice::frame_header h;
    std::memcpy(&h, frame->data(), sizeof h);
    const std::size_t size = envelope + sizeof h + std::min<std::size_t>(h.index_size, 1 << 24);
    return size > head.most && c.head.size() == head.most ? size : std::size_t{0};
  };
  std::vector<piece> longer;
  std::vector<std::size_t> whose;
  for (std::size_t i = 0; i < n; ++i)
    if (const std::size_t size = take(chunks[i], heads[i])) longer.push_back({names[i], 0, size}), whose.push_back(i);
  if (!longer.empty()) {
    read_all(*store_, longer, {std::max(0.0, wait.seconds - (now() - begin)), wait.silent_seconds});
    for (std::size_t k = 0; k < longer.size(); ++k) take(chunks[whose[k]], longer[k]);
  }
  for (std::size_t i = 0; exact_copies && i < n; ++i) {
    const auto frame = sluice::stream::open_object(heads[n + i].bytes, chunks[i].exact_key);
    sluice::frame_header h;
    if (!frame || frame->size() < sizeof h) continue;
    std::memcpy(&h, frame->data(), sizeof h);
    if (h.magic == sluice::frame_magic && h.header_checksum == sluice::header_checksum(h) &&
        check<exact>(h, chunks[i]) == sluice::status::ok)
      chunks[i].exact_bytes = envelope + std::min(h.frame_size, std::uint64_t{1} << 40);
  }
  out.note = std::move(heads.back().bytes);
  return out;
}

restore_report prefix_cache::restore(std::span<const std::int32_t> ids, sequence& seq, int level) {
  const double begin = now();
  restore_report report;
  located_prefix found = locate(ids);
  report.note = std::move(found.note);
  const std::size_t there = std::size_t(
      std::find_if(found.chunks.begin(), found.chunks.end(), [](const located_chunk& c) { return !c.there; }) -
      found.chunks.begin());
  for (std::size_t i = there; i < found.chunks.size(); ++i)
    if (const located_chunk& c = found.chunks[i]; !c.there && c.state != sluice::status::not_found)
      append(report.unread, {c.begin, c.end - c.begin, c.state, c.detail});
  const auto chunks = std::span(found.chunks).first(there);
  std::vector<std::string> names;
  for (const located_chunk& c : chunks) names.push_back(to_hex(c.key));
  std::vector<piece> objects;
  for (std::size_t i = 0; i < chunks.size(); ++i)
    objects.push_back({names[i], 0, chunks[i].state == sluice::status::ok ? chunks[i].size_at(level) : 0});
  read_all(*store_, objects);
  for (const piece& o : objects) report.bytes += o.bytes.size();
  report.tokens = chunks.empty() ? 0 : chunks.back().end;
  report.raw_bytes = raw_bytes(report.tokens, seq);
  if (seq.grow(report.tokens) != sluice::status::ok) throw std::runtime_error("the KV cache is full");
  report.read_seconds = now() - begin;
  decode(ids, chunks, objects, seq, level, report);
  report.decode_seconds = now() - begin - report.read_seconds;
  return report;
}

void prefix_cache::decode(std::span<const std::int32_t> ids, std::span<const located_chunk> chunks,
                          std::span<const piece> objects, sequence& seq, int level, restore_report& report) {
  // Layers in a few parts, so that the last chunk does not keep one thread busy alone.
  constexpr int page = page_pool::page_size;
  const int layers = profile_.shape.num_layers();
  const int parts = chunks.empty() ? 1 : std::clamp(4 * pool_->size() / int(chunks.size()), 1, layers);
  std::vector<std::vector<sluice::status>> pages(chunks.size() * std::size_t(parts));
  std::vector<sluice::page_status> done(pages.size());
  pool_->parallel_for(int(pages.size()), [&](int task, int worker) {
    const auto i = std::size_t(task / parts);
    const int part = task % parts;
    const located_chunk& c = chunks[i];
    auto& used = pages[std::size_t(task)];
    used.assign(std::size_t(page_pool::pages_for(c.end - c.begin)), c.state);
    if (c.state != sluice::status::ok) return;
    const auto frame = sluice::stream::open_object(objects[i].bytes, c.key);
    std::fill(used.begin(), used.end(), frame.status());
    if (!frame) return;
    const sluice::kv_view target = seq.view().slice(c.begin, c.end);
    done[std::size_t(task)] = decoders_[std::size_t(worker)].decode(
        *frame, target,
        {.level = level,
         .layers = {layers * part / parts, layers * (part + 1) / parts},
         .sequence_end = report.tokens,
         .side = {ids.subspan(std::size_t(c.begin), std::size_t(c.end - c.begin))},
         .pages = used});
  });
  // Tokens outside of a window are looked at by nobody, unless a token before the end has to be computed.
  const auto usable = [](sluice::status s) { return s == sluice::status::ok || s == sluice::status::degraded; };
  bool whole = true;
  for (const auto& used : pages) whole &= std::all_of(used.begin(), used.end(), usable);
  for (std::size_t task = 0; task < pages.size(); ++task)
    if (done[task].outside > 0 && !whole) {
      std::fill(pages[task].begin(), pages[task].end(), sluice::status::absent);
      done[task].missing = {};
    }
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const located_chunk& c = chunks[i];
    // Where the store failed in the middle of an object, its words tell more than that the object is cut.
    const piece& object = objects[i];
    const bool lost = c.state == sluice::status::ok && object.state != sluice::status::ok;
    int end_layer = 0;  // behind the highest damaged tile; of all where it is not tiles
    for (int part = 0; part < parts; ++part) {
      const std::size_t task = i * std::size_t(parts) + std::size_t(part);
      if (std::all_of(pages[task].begin(), pages[task].end(), usable)) continue;
      end_layer = std::max(end_layer, done[task].missing ? done[task].missing.end_layer : layers);
    }
    if (end_layer == layers) end_layer = -1;
    int restored = 0, degraded_pages = 0;
    for (int p = c.begin; p < c.end; p += page) {
      sluice::status worst = sluice::status::ok;
      bool degraded = false;
      for (int part = 0; part < parts; ++part) {
        const sluice::status s = pages[i * std::size_t(parts) + std::size_t(part)][std::size_t((p - c.begin) / page)];
        degraded |= s == sluice::status::degraded;
        if (s != sluice::status::ok && s != sluice::status::degraded) worst = s;
      }
      if (worst == sluice::status::ok) {
        ++restored;
        degraded_pages += degraded;
        continue;
      }
      append(report.missing,
             {p, std::min(page, c.end - p), lost ? object.state : worst, lost ? object.detail : c.detail, end_layer});
    }
    report.degraded_pages += degraded_pages;
    int held = -1;
    if (restored > 0) {
      held = std::min(level, c.index.whole_levels() - 1);
      sluice::status why =
          held < level && held + 1 < codec::passes(profile_) ? sluice::status::level_not_present : sluice::status::ok;
      if (degraded_pages > 0) {  // no page holds less than the base
        const auto frame = std::span(object.bytes).subspan(envelope);
        held = std::max(0, sluice::sound_level(c.index, frame, held));
        why = sluice::status::degraded;
      }
      if (why != sluice::status::ok) append(report.coarser, {c.begin, c.end - c.begin, why, lost ? object.detail : ""});
    }
    report.levels.push_back(held);
  }
}

double prefix_cache::measure_decoding(sequence& seq, int tokens) {
  const sluice::kv_view view = seq.view().slice(0, tokens);
  std::vector<std::byte> frame(encoders_[0].max_size(view));
  const auto size = encoders_[0].encode(view, frame);
  if (!size) throw std::runtime_error(std::string("encoding: ") + to_string(size.status()));
  frame.resize(*size);
  const double begin = now();
  (void)decoders_[0].decode(frame, view);
  return (now() - begin) / (double(raw_bytes(tokens, seq)) / double(seq.pool().element_stride()));
}

}  // namespace engine
