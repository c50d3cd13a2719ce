// SPDX-License-Identifier: Apache-2.0
// put, get: between .slc files and stores that other machines read.

#include <command.hpp>
#include <output_file.hpp>
#include <safetensors.hpp>
#include <slc_file.hpp>
#include <sluice/codec/presets.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/stream/object.hpp>
#include <sluice/stream/source.hpp>
#include <store_url.hpp>

#include <cstdio>
#include <cstring>

namespace {

using namespace sluice;
using namespace sluice::stream;

constexpr double patience_seconds = 60;  // for one object
constexpr std::size_t envelope = sizeof(object_header);

// Token ids from position 0 on: the tensor `ids` of a capture.
std::vector<std::int32_t> load_ids(const std::string& path) {
  safetensors::file file;
  if (const safetensors::problem p = file.open(path)) throw data_error(p.message());
  const safetensors::tensor* t = file.find("ids");
  if (!t || t->type != safetensors::dtype::i32 || t->shape.size() != 1)
    throw data_error(path + ": holds no ids [tokens] of type I32");
  std::vector<std::int32_t> ids(std::size_t(t->shape[0]));
  const auto bytes = file.bytes(*t);
  if (!ids.empty()) std::memcpy(ids.data(), bytes.data(), bytes.size());
  return ids;
}

// What --model says: 64 hexadecimal digits are taken as the bytes they stand for, anything else as it is.
std::vector<std::byte> model_identity(const std::string& text) {
  std::vector<std::byte> bytes;
  const bool hex = text.size() == 64 && text.find_first_not_of("0123456789abcdef") == text.npos;
  for (std::size_t i = 0; i < text.size(); i += hex ? 2 : 1)
    bytes.push_back(std::byte(hex ? std::stoi(text.substr(i, 2), nullptr, 16) : text[i]));
  return bytes;
}

failure store_error(const std::string& url, const std::string& key, status s) {
  return data_error(url + ": " + key + ": " + to_string(s));
}

// Whether every tile that should be there is, unharmed.
status check_tiles(const frame_index& index, std::span<const std::byte> frame) {
  if (frame.size() < index.size()) return status::truncated;
  const std::size_t tiles = std::size_t(index.header().levels_present) * index.tiles_per_pass();
  for (std::size_t i = 0; i < tiles; ++i) {
    const byte_range r = index.range(i);
    if (checksum(frame.data() + r.begin, std::size_t(r.size()), std::uint32_t(i)) != index.checksum_of(i))
      return status::corrupt_tile;
  }
  return status::ok;
}

// One object, up to a level, as a frame that says so. Reads header and index first, so that no more is fetched than wanted.
template <byte_source Source>
result<std::vector<std::byte>> fetch_frame(Source& source, const digest& key, int level, std::int64_t position,
                                           int tokens) {
  const std::string name = to_hex(key);
  std::vector<std::byte> object(envelope + sizeof(frame_header));
  const auto more = [&](std::size_t size) {  // grows the object to this size
    const std::size_t have = object.size();
    if (size <= have) return status::ok;
    object.resize(size);
    return read(source, {name, have, std::span(object).subspan(have)}, patience_seconds);
  };
  if (const status s = read(source, {name, 0, object}, patience_seconds); s != status::ok) return s;
  frame_index index;
  for (std::size_t step = 0; step < 2; ++step) {
    const result<std::span<const std::byte>> frame = open_object(object, key);
    if (!frame) return frame.status();
    const status s = index.parse(*frame);
    if (s == status::ok) break;
    if (s != status::truncated || step) return s;
    frame_header h;
    std::memcpy(&h, frame->data(), sizeof h);
    if (h.index_size > (1u << 28)) return status::too_large;
    if (const status m = more(object.size() + h.index_size); m != status::ok) return m;
  }
  const frame_header& h = index.header();
  if (h.position != position || h.tokens != std::uint32_t(tokens)) return status::wrong_positions;
  if (h.levels_present == 0) return status::level_not_present;
  const std::uint64_t size = index.size_at(std::min(level, h.levels_present - 1));
  if (size > std::uint64_t{1} << 32) return status::too_large;
  if (const status s = more(envelope + std::size_t(size)); s != status::ok) return s;
  std::vector<std::byte> bytes(object.begin() + envelope, object.end());
  const result<std::size_t> cut = truncate(bytes, std::min(level, h.levels_present - 1));
  if (!cut) return cut.status();
  bytes.resize(*cut);
  if (const status s = index.parse(bytes); s != status::ok) return s;
  if (const status s = check_tiles(index, bytes); s != status::ok) return s;
  return bytes;
}

}  // namespace

int put_command(int argc, char** argv) {
  const arguments a(argc, argv, {"--model", "--ids", "--store"}, {"--json"});
  const std::string in = a.operand("a .slc file"), url = a.required("--store"), model = a.required("--model");
  const std::vector<std::int32_t> ids = load_ids(a.required("--ids"));
  slc_file file;
  if (const auto wrong = file.open(in)) throw data_error(*wrong);
  if (file.trouble() != status::ok)
    throw data_error(in + ": byte " + std::to_string(file.stopped_at()) + ": " + to_string(file.trouble()));
  const frame_header& first = file.frames()[0].index.header();
  chunk_keys keys(model_identity(model), first.fingerprint, first.codec);
  std::int64_t next = 0;
  for (const slc_file::frame& f : file.frames()) {
    const frame_header& h = f.index.header();
    const std::string where = in + ": frame at position " + std::to_string(h.position) + ": ";
    if (h.position != next)
      throw data_error(where + "a store keeps prefixes; this one should begin at " + std::to_string(next));
    if (h.fingerprint != first.fingerprint || !(h.codec == first.codec))
      throw data_error(where + "made with another profile or codec");
    if (const status s = check_tiles(f.index, f.bytes); s != status::ok) throw data_error(where + to_string(s));
    next += h.tokens;
  }
  if (next > std::int64_t(ids.size()))
    throw data_error(a.text("--ids") + ": holds " + std::to_string(ids.size()) + " ids for " + std::to_string(next) +
                     " tokens");
  return with_store(url, [&](auto& source) {
    if constexpr (requires { source.create(); })
      if (const status s = source.create(); s != status::ok) throw store_error(url, "folder", s);
    std::size_t bytes = 0;
    json chunks = json::array();
    progress bar("putting");
    for (const slc_file::frame& f : file.frames()) {
      const frame_header& h = f.index.header();
      const digest key = keys.next(std::span(ids).subspan(std::size_t(h.position), h.tokens));
      std::vector<std::byte> object(envelope + f.bytes.size());
      const object_header header = make_object_header(key);
      std::memcpy(object.data(), &header, envelope);
      std::memcpy(object.data() + envelope, f.bytes.data(), f.bytes.size());
      if (const status s = source.put(to_hex(key), object); s != status::ok) throw store_error(url, to_hex(key), s);
      bytes += object.size();
      chunks.push_back(
          {{"key", to_hex(key)}, {"position", h.position}, {"tokens", h.tokens}, {"bytes", object.size()}});
      bar.at(chunks.size(), file.frames().size());
    }
    if (a.has("--json"))
      std::printf("%s\n", json{{"store", url}, {"tokens", next}, {"bytes", bytes}, {"chunks", chunks}}.dump(1).c_str());
    else
      std::printf("%s: %zu chunks, %lld tokens, %zu bytes\n", url.c_str(), chunks.size(), static_cast<long long>(next),
                  bytes);
    return 0;
  });
}

int get_command(int argc, char** argv) {
  const arguments a(argc, argv, {"-p", "--model", "--ids", "--store", "--codec", "--chunk-tokens", "--level", "-o"},
                    {"--json"});
  if (!a.operands.empty()) throw usage_error("get takes no operands");
  const std::string url = a.required("--store"), out = a.required("-o"), model = a.required("--model");
  const int chunk = int(a.integer("--chunk-tokens", 256, 1, max_frame_tokens));
  const int level = int(a.integer("--level", max_passes, 0, max_passes));
  const std::string path = a.required("-p");
  const result<profile> p = profile::load(path.c_str());
  if (!p) throw data_error(path + ": " + to_string(p.status()));
  const std::vector<std::int32_t> ids = load_ids(a.required("--ids"));
  codec_id id;
  bool exact = false;
  if (!codec::with_preset(a.text("--codec", "standard").c_str(), [&]<class Codec>() {
        id = Codec::id;
        exact = Codec::entropy::exact;
      }))
    throw usage_error("no codec is called " + a.text("--codec"));
  chunk_keys keys(model_identity(model), exact ? 0 : p->fingerprint(), id);
  return with_store(url, [&](auto& source) {
    output_file file(out);
    std::size_t bytes = 0;
    json chunks = json::array();
    status end = status::ok;
    std::string at;
    progress bar("getting");
    std::size_t t = 0;
    while (t < ids.size() && end == status::ok) {
      const std::size_t n = std::min<std::size_t>(std::size_t(chunk), ids.size() - t);
      const digest key = keys.next(std::span(ids).subspan(t, n));
      const result<std::vector<std::byte>> frame = fetch_frame(source, key, level, std::int64_t(t), int(n));
      at = to_hex(key);
      if (!frame) {
        end = frame.status();
        break;
      }
      file.write(*frame);
      bytes += frame->size();
      chunks.push_back({{"key", at}, {"position", t}, {"tokens", n}, {"bytes", frame->size()}});
      t += n;
      bar.at(t, ids.size());
    }
    // The store need not hold all of a prefix; damage is another matter, but what stands before it is sound.
    if (t == 0) throw store_error(url, at, end);
    if (!file.commit()) throw data_error(file.error());
    if (a.has("--json"))
      std::printf("%s\n", json{{"store", url},
                               {"output", out},
                               {"tokens", t},
                               {"of", ids.size()},
                               {"bytes", bytes},
                               {"status", to_string(end)},
                               {"chunks", chunks}}
                              .dump(1)
                              .c_str());
    else
      std::printf("%s: %zu of %zu tokens, %zu bytes, verified\n", out.c_str(), t, ids.size(), bytes);
    if (end == status::ok || end == status::not_found) return 0;
    std::fprintf(stderr, "sluice: %s: %s: %s; what stands before it was kept\n", url.c_str(), at.c_str(),
                 to_string(end));
    return 1;
  });
}
