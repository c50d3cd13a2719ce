// SPDX-License-Identifier: Apache-2.0
// put, get: between .slc files and stores that other machines read.

#include <commands.hpp>
#include <input_file.hpp>
#include <output_file.hpp>
#include <presets.hpp>
#include <safetensors.hpp>
#include <slc_file.hpp>
#include <sluice/codec/any_codec.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/stream/store/object.hpp>
#include <sluice/stream/store/source.hpp>
#include <store_url.hpp>

#include <cstdio>
#include <cstring>

namespace {

using namespace sluice;
using namespace sluice::stream;

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

// What failed, why in the store's own words, and what to try.
failure store_error(const std::string& url, const std::string& key, status s, std::string_view detail) {
  const char* advice = s == status::refused           ? "; are user, password and rights what the store wants?"
                       : s == status::connection_lost ? "; is the address right, and does the store run?"
                       : s == status::timed_out       ? "; --patience waits longer"
                                                      : "";
  return data_error(redacted(url) + ": " + key + ": " + to_string(s) + (detail.empty() ? "" : ": ") +
                    std::string(detail) + advice);
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

// Whether every tile that should be there is, unharmed.
status check_tiles(const frame_index& index, std::span<const std::byte> frame) {
  if (frame.size() < index.size()) return status::truncated;
  const int finest = index.header().levels_present - 1;
  return sound_level(index, frame, finest) < finest ? status::corrupt_tile : status::ok;
}

// Whether a frame is what its key says: of this codec, profile and shape. A key is only as good as who put it.
status check_kind(const frame_index& index, const profile& p, std::uint64_t fingerprint, const codec_id& codec) {
  const frame_header& h = index.header();
  if (!codec.decodes(h.codec)) return status::wrong_codec;
  if (h.fingerprint != fingerprint) return status::wrong_profile;
  if (h.layers != p.shape.num_layers()) return status::wrong_shape;
  for (int l = 0; l < h.layers; ++l) {
    const shape_run& r = index.shape_of(l);
    const layer_shape& want = p.shape.layers[std::size_t(l)];
    if (r.num_kv_heads != want.num_kv_heads || r.head_dim[0] != want.head_dim_k || r.head_dim[1] != want.head_dim_v)
      return status::wrong_shape;
  }
  return status::ok;
}

// One object, up to a level, as a frame that says so. Reads header and index first, so that no more is fetched than wanted.
template <byte_source Source, class Check>
result<std::vector<std::byte>> fetch_frame(Source& source, const digest& key, int level, std::int64_t position,
                                           int tokens, double patience_seconds, const Check& check) {
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
  if (const status s = check(index); s != status::ok) return s;
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

struct put_arguments {
  std::string in, store, model, ids, salt;
  double patience_seconds = 60;
  bool as_json = false;
};

constexpr char store_notes[] =
    "Chunks are named by a hash of model, salt, codec, profile and all tokens up to their end: whoever has the same "
    "finds\n"
    "them, and only then. Whatever changes a cache has to be among these; a name alone does not tell two adapters or "
    "two\n"
    "images apart.\n"
    "S3 takes AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and AWS_REGION from the environment.";

// What put and get have in common.
template <class Arguments>
void describe_store(option_list& c, Arguments& a) {
  c.add_option("--model", a.model,
               "which weights: a name, or better a hash (64 hexadecimal digits are taken as the bytes they stand for)")
      .required();
  c.add_option("--ids", a.ids,
               "safetensors file with the token ids of the whole text: ids [tokens] I32, from position 0 on")
      .required();
  c.add_option("--store", a.store, std::string("where: ") + store_urls).required();
  c.add_option("--salt", a.salt,
               "text that keeps chunks apart where model and tokens are equal: adapter, tenant, image hash");
  c.add_option("--patience", a.patience_seconds, "gives up after so many seconds without a byte").range(0.001, 1e6);
  c.add_flag("--json", a.as_json, "the result as JSON");
  c.footer(store_notes);
}

void describe_put(option_list& c, put_arguments& a) {
  c.add_option("SLC", a.in, "a .slc file that begins at position 0").required();
  describe_store(c, a);
}

int put(const put_arguments& a) {
  const std::vector<std::int32_t> ids = load_ids(a.ids);
  slc_file file(a.in);
  if (file.trouble() != status::ok)
    throw data_error(a.in + ": byte " + std::to_string(file.stopped_at()) + ": " + to_string(file.trouble()));
  const frame_header& first = file.frames()[0].index.header();
  chunk_keys keys(model_identity(a.model), first.fingerprint, first.codec, bytes_of(a.salt));
  std::int64_t next = 0;
  for (const slc_file::frame& f : file.frames()) {
    const frame_header& h = f.index.header();
    const std::string where = a.in + ": frame at position " + std::to_string(h.position) + ": ";
    if (h.position != next)
      throw data_error(where + "a store keeps prefixes; this one should begin at " + std::to_string(next));
    if (h.fingerprint != first.fingerprint || !(h.codec == first.codec))
      throw data_error(where + "made with another profile or codec");
    if (const status s = check_tiles(f.index, f.bytes); s != status::ok) throw data_error(where + to_string(s));
    next += h.tokens;
  }
  if (next > std::int64_t(ids.size()))
    throw data_error(a.ids + ": holds " + std::to_string(ids.size()) + " ids for " + std::to_string(next) + " tokens");
  return with_store(a.store, [&](auto& source) {
    if constexpr (requires { source.create(); })
      if (const status s = source.create(); s != status::ok) throw store_error(a.store, "folder", s, source.detail());
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
      std::string why;
      if (const status s = put_checked(source, to_hex(key), object, a.patience_seconds, &why); s != status::ok)
        throw store_error(a.store, to_hex(key), s, why);
      bytes += object.size();
      chunks.push_back(
          {{"key", to_hex(key)}, {"position", h.position}, {"tokens", h.tokens}, {"bytes", object.size()}});
      bar.at(chunks.size(), file.frames().size());
    }
    if (a.as_json)
      program::print({{"store", redacted(a.store)}, {"tokens", next}, {"bytes", bytes}, {"chunks", chunks}});
    else
      std::printf("%s: %zu chunks, %lld tokens, %zu bytes, read back as sent\n", redacted(a.store).c_str(),
                  chunks.size(), static_cast<long long>(next), bytes);
    return 0;
  });
}

struct get_arguments {
  std::string out, store, model, ids, salt, profile, codec = "standard";
  int chunk_tokens = 256, level = max_passes;
  double patience_seconds = 60;
  bool as_json = false;
};

void describe_get(option_list& c, get_arguments& a) {
  c.add_option("-o,--output", a.out, "the .slc file to write").required();
  c.add_option("-p,--profile", a.profile, "the profile that they were made with").required();
  c.add_option("--codec", a.codec, codec_names() + ", as they were encoded");
  c.add_option("--chunk-tokens", a.chunk_tokens, "tokens of a chunk, as they were encoded")
      .range(1, int(max_frame_tokens));
  c.add_option("--level", a.level, "finest level to fetch; above what is there means the finest that is")
      .range(0, max_passes);
  describe_store(c, a);
  c.footer(codec_descriptions() + "\n" + store_notes);
}

// Nothing under the first key: something of what it is made of differs.
failure nothing_stored(const get_arguments& a, const profile& p, const std::string& key, std::string_view detail) {
  return data_error(redacted(a.store) + ": " + key + ": no such key" + (detail.empty() ? "" : ": ") +
                    std::string(detail) + ": nothing is stored for these tokens with --model " + a.model +
                    ", --salt \"" + a.salt + "\", the profile " + a.profile + " (" + p.name.data() + "), --codec " +
                    a.codec + " and --chunk-tokens " + std::to_string(a.chunk_tokens) +
                    "; all of them must be as they were at sluice put (sluice info tells codec and tokens of a frame)");
}

int get(const get_arguments& a) {
  const profile p = load_profile(a.profile);
  const std::vector<std::int32_t> ids = load_ids(a.ids);
  const preset* named = preset_named(a.codec.c_str());
  if (!named) throw usage_error("no codec is called " + a.codec);
  const codec_id id = named->id;
  const std::uint64_t fingerprint = fingerprint_of(id, p);
  if (ids.empty()) throw data_error(a.ids + ": holds no ids");
  chunk_keys keys(model_identity(a.model), fingerprint, id, bytes_of(a.salt));
  return with_store(a.store, [&](auto& source) {
    output_file file(a.out);
    std::size_t bytes = 0;
    json chunks = json::array();
    status end = status::ok;
    std::string at, detail;
    progress bar("getting");
    std::size_t t = 0;
    int level = max_passes, finest = 0;  // of all chunks what every one has, and the finest that was made
    while (t < ids.size() && end == status::ok) {
      const std::size_t n = std::min<std::size_t>(std::size_t(a.chunk_tokens), ids.size() - t);
      const digest key = keys.next(std::span(ids).subspan(t, n));
      const result<std::vector<std::byte>> frame =
          fetch_frame(source, key, a.level, std::int64_t(t), int(n), a.patience_seconds,
                      [&](const frame_index& index) { return check_kind(index, p, fingerprint, id); });
      at = to_hex(key);
      if (!frame) {
        end = frame.status();
        detail = source.detail();
        break;
      }
      file.write(*frame);
      bytes += frame->size();
      frame_header h;
      std::memcpy(&h, frame->data(), sizeof h);
      level = std::min(level, h.levels_present - 1);
      finest = std::max(finest, h.passes - 1);
      chunks.push_back(
          {{"key", at}, {"position", t}, {"tokens", n}, {"bytes", frame->size()}, {"level", h.levels_present - 1}});
      t += n;
      bar.at(t, ids.size());
    }
    // The store need not hold all of a prefix; damage is another matter, but what stands before it is sound.
    if (t == 0 && end == status::not_found) throw nothing_stored(a, p, at, detail);
    if (t == 0) throw store_error(a.store, at, end, detail);
    if (!file.commit()) throw data_error(file.error());
    if (a.as_json)
      program::print({{"store", redacted(a.store)},
                      {"output", a.out},
                      {"tokens", t},
                      {"of", ids.size()},
                      {"bytes", bytes},
                      {"level", level},
                      {"status", to_string(end)},
                      {"detail", detail},
                      {"chunks", chunks}});
    else
      std::printf("%s: %zu of %zu tokens at level %d, %zu bytes, verified\n", a.out.c_str(), t, ids.size(), level,
                  bytes);
    if (level < std::min(a.level, finest))
      std::fprintf(stderr, "sluice: the store holds level %d of some chunks and nothing finer; level %d was wanted\n",
                   level, std::min(a.level, finest));
    if (end == status::ok || end == status::not_found) return 0;
    std::fprintf(stderr, "sluice: %s; what stands before it was kept\n", store_error(a.store, at, end, detail).what());
    return 1;
  });
}

}  // namespace

void add_transfer(program& p) {
  p.add<put_arguments>("put", "Stores the frames of a .slc file as chunks that others find by their tokens.",
                       describe_put, put);
  p.add<get_arguments>("get", "Fetches the chunks of a text from a store, as a .slc file.", describe_get, get);
}
