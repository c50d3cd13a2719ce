// SPDX-License-Identifier: Apache-2.0
// encode, decode, truncate: between captures and .slc files.

#include <capture_file.hpp>
#include <commands.hpp>
#include <input_file.hpp>
#include <output_file.hpp>
#include <presets.hpp>
#include <slc_file.hpp>
#include <sluice/codec/any_codec.hpp>
#include <sluice/codec/budget.hpp>
#include <sluice/codec/fit.hpp>
#include <sluice/codec/instances.hpp>
#include <sluice/tensor/rope.hpp>
#include <threads.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void say(bool as_json, const json& facts, const std::string& line) {
  if (as_json)
    program::print(facts);
  else
    std::printf("%s\n", line.c_str());
}

std::string format(const char* pattern, auto... args) {
  std::string text(std::size_t(std::snprintf(nullptr, 0, pattern, args...)), '\0');
  std::snprintf(text.data(), text.size() + 1, pattern, args...);
  return text;
}

void warn(const std::string& what) { std::fprintf(stderr, "sluice: warning: %s\n", what.c_str()); }

// Bytes, 0 = no limit, that are shared among frames as they come, each by its part of what all weigh; what one leaves goes
// to the others.
class byte_budget {
 public:
  byte_budget(std::size_t bytes, std::size_t weight) : bytes_(bytes ? bytes : SIZE_MAX), weight_(weight) {}
  std::size_t share(std::size_t weight) const noexcept {
    if (bytes_ == SIZE_MAX || weight == weight_) return bytes_;
    return std::min(bytes_, std::size_t(double(bytes_) * (double(weight) / double(weight_))));
  }
  void spend(std::size_t bytes, std::size_t weight) noexcept {
    if (bytes_ != SIZE_MAX) bytes_ -= bytes;
    weight_ -= weight;
  }

 private:
  std::size_t bytes_, weight_;
};

std::string too_small(std::int64_t position, std::size_t bytes) {
  return "the frame at position " + std::to_string(position) + " does not fit into its " + std::to_string(bytes) +
         " of --max-bytes, not even at the coarsest level";
}

struct encode_arguments {
  std::string in, out, profile, codec = "standard";
  int chunk_tokens = 256, levels = sluice::max_passes, threads = 1;
  std::size_t max_bytes = 0;
  bool any_profile = false, as_json = false;
};

void describe_encode(option_list& c, encode_arguments& a) {
  c.add_option("CAPTURE", a.in, "safetensors file, see below").required();
  c.add_option("-o,--output", a.out, "the .slc file to write").required();
  c.add_option("-p,--profile", a.profile, "profile of the model, made by sluice calibrate").required();
  c.add_option("--codec", a.codec, codec_names());
  c.add_option("--chunk-tokens", a.chunk_tokens, "tokens of a frame").range(1, int(sluice::max_frame_tokens));
  c.add_option("--levels", a.levels, "passes to make, from the base on; the codec may have fewer")
      .range(1, sluice::max_passes);
  c.add_option("--max-bytes", a.max_bytes,
               "the file is never larger: what gains least for its bytes is left out; 0 = no limit")
      .range(std::size_t{0}, std::size_t{1} << 60);
  c.add_option("--threads", a.threads, "changes the time it takes, not the file").range(1, 256);
  c.add_flag("--any-profile", a.any_profile,
             "encode also what the profile does not fit: another model, another rotary embedding");
  c.add_flag("--json", a.as_json, "the result as JSON");
  c.footer(codec_descriptions() + "\n" + capture_form);
}

bool same_rotation(const sluice::rope& a, const sluice::rope& b, int head_dim) {
  const int dims = sluice::rotary_dims(a, head_dim);
  if (dims != sluice::rotary_dims(b, head_dim)) return false;
  if (dims == 0) return true;
  if (a.pairing != b.pairing || std::abs(a.attention_factor - b.attention_factor) > 1e-6 * a.attention_factor)
    return false;
  std::vector<double> x(std::size_t(dims / 2)), y(x.size());
  sluice::rope_frequencies(a, head_dim, x);
  sluice::rope_frequencies(b, head_dim, y);
  for (std::size_t i = 0; i < x.size(); ++i)
    if (std::abs(x[i] - y[i]) > 1e-6 * x[i]) return false;
  return true;
}

// Keys are coded with the rotation of the profile undone: says where the capture names another, or none.
void check_ropes(const capture_file& file, const std::string& path, const sluice::profile& profile) {
  std::string silent, other;
  for (int l = 0; l < std::min(file.shape().num_layers(), profile.shape.num_layers()); ++l) {
    const capture_layout::layer& at = file.layout().layers[std::size_t(l)];
    const sluice::layer_shape &s = file.shape().layers[std::size_t(l)], &t = profile.shape.layers[std::size_t(l)];
    if (!at.k || profile.shape.ropes.empty()) continue;
    if (!at.says_rope)
      silent += " " + std::to_string(l);
    else if (!same_rotation(file.shape().ropes[std::size_t(s.rope_index)],
                            profile.shape.ropes[std::size_t(t.rope_index)], s.head_dim_k))
      other += " " + std::to_string(l);
  }
  if (!silent.empty())
    warn(path + ": says nothing about the rotary embedding (rope_base, see --help) of layers" + silent +
         "; that of the profile is taken");
  if (!other.empty())
    warn(path + ": names another rotary embedding than the profile has, in layers" + other +
         "; that of the profile is taken, and costs bytes and quality if it is wrong");
}

// A decoder judges by the profile's windows whether tokens are missing: a layer must not be shorter than these allow.
void check_windows(const capture_file& file, const std::string& path, const sluice::profile& profile) {
  for (int l = 0; l < std::min(file.shape().num_layers(), profile.shape.num_layers()); ++l) {
    const capture_layout::layer& at = file.layout().layers[std::size_t(l)];
    const sluice::layer_shape& s = profile.shape.layers[std::size_t(l)];
    if (at.k && at.tokens < s.needed(file.tokens()))
      throw data_error(path + ": layer " + std::to_string(l) + ": holds " + std::to_string(at.tokens) + " of " +
                       std::to_string(file.tokens()) + " tokens, and the window of the profile is " +
                       (s.window ? std::to_string(s.window) : "all of them") +
                       "; the captures that the profile is made of have to name it");
  }
}

// Why an encoder refused, where a status alone does not say.
std::string refusal(const capture_file& file, const sluice::profile& profile, sluice::status s) {
  const std::string why = sluice::to_string(s);
  const sluice::model_shape &have = file.shape(), &want = profile.shape;
  const auto name = [](int l) { return "layer " + std::to_string(l) + ": "; };
  for (int l = 0; l < have.num_layers(); ++l) {
    const capture_layout::layer& at = file.layout().layers[std::size_t(l)];
    if (!at.k) continue;
    if (s == sluice::status::unsupported_type)
      for (const safetensors::tensor* t : {at.k, at.v})
        if (t && t->type == safetensors::dtype::u8)
          return why + ": " + t->name + " is opaque bytes, which only the codecs " + codec_names(true) + " take";
    if (s != sluice::status::wrong_shape) continue;
    if (l >= want.num_layers())
      return why + ": " + name(l) + "the profile has " + std::to_string(want.num_layers()) + " layers";
    const sluice::layer_shape &x = have.layers[std::size_t(l)], &y = want.layers[std::size_t(l)];
    if (x.num_kv_heads != y.num_kv_heads || x.head_dim_k != y.head_dim_k || x.head_dim_v != y.head_dim_v)
      return why + ": " + name(l) +
             format("%d heads of %d and %d here, %d of %d and %d in the profile", x.num_kv_heads, x.head_dim_k,
                    x.head_dim_v, y.num_kv_heads, y.head_dim_k, y.head_dim_v);
  }
  return why;
}

// Bytes of what views show, as the cache holds them.
std::size_t raw_bytes(std::span<const sluice::kv_view> views) {
  std::size_t sum = 0;
  for (const sluice::kv_view& v : views)
    for (sluice::plane p : {sluice::plane::key, sluice::plane::value})
      if (v[p].present())
        sum += std::size_t(v.tokens) * std::size_t(v.num_layers) * std::size_t(v.num_kv_heads) *
               std::size_t(v[p].head_dim) * std::size_t(sluice::size_of(v[p].type));
  return sum;
}

// A profile of another model or rotary embedding is refused: nothing else would tell, and it costs twice the bytes and more.
void require_fit(const std::vector<sluice::kv_view>& views, const std::string& path, const sluice::profile& profile,
                 const std::string& profile_path) {
  const sluice::result<sluice::fit_report> fit = sluice::fit(views, profile);
  if (!fit || fit->ratio() <= sluice::default_fit_bound) return;  // other errors are the encoder's to tell
  throw data_error(path + ": " + sluice::to_string(sluice::status::profile_does_not_fit) + ": with " + profile_path +
                   format(" it takes %.1f times the bits that are to be expected; model, rotary embedding or position "
                          "differ (--any-profile encodes it nevertheless)",
                          fit->ratio()));
}

int encode(const encode_arguments& a) {
  const sluice::preset* preset = sluice::preset_named(a.codec.c_str());
  if (!preset) throw usage_error("no codec is called " + a.codec);
  const sluice::profile profile = load_profile(a.profile);
  capture_file file;
  if (const auto wrong = file.open(a.in, &profile.shape)) throw data_error(*wrong);
  if (file.tokens() == 0) throw data_error(a.in + ": holds no tokens");
  check_windows(file, a.in, profile);
  const std::vector<sluice::kv_view> views = file.views();
  const std::int64_t begin = file.position(), end = begin + file.tokens();

  output_file result(a.out);
  std::size_t raw = 0, coded = 0;
  double time = 0;
  if (preset->domain == sluice::value_domain::unrotated) {
    check_ropes(file, a.in, profile);
    if (!a.any_profile) require_fit(views, a.in, profile, a.profile);
  }
  const auto encoder = sluice::make_encoder(preset->id, profile);
  std::vector<std::byte> buffer;
  side_by_side pool;
  sluice::encode_options options;
  options.levels = a.levels;
  options.parallel = sluice::parallel_for::of(a.threads, pool);
  byte_budget budget(a.max_bytes, raw_bytes(views));
  progress bar("encoding");
  for (std::int64_t t = begin; t < end; t += a.chunk_tokens) {
    std::vector<sluice::kv_view> part;
    for (const sluice::kv_view& v : views)
      if (const sluice::kv_view w = v.at_positions(t, t + a.chunk_tokens); w.tokens > 0) part.push_back(w);
    const std::size_t size = raw_bytes(part);
    options.max_bytes = budget.share(size);
    buffer.resize(encoder->max_size(part));
    const double start = seconds();
    const sluice::result<std::size_t> n = encoder->encode(part, buffer, options);
    time += seconds() - start;
    if (n.status() == sluice::status::output_too_small) throw data_error(a.in + ": " + too_small(t, options.max_bytes));
    if (!n) throw data_error(a.in + ": " + refusal(file, profile, n.status()));
    result.write(std::span(buffer).first(*n));
    budget.spend(*n, size);
    raw += size;
    coded += *n;
    bar.at(std::size_t(std::min(t + a.chunk_tokens, end) - begin), std::size_t(end - begin));
  }
  if (!result.commit()) throw data_error(result.error());
  const double ratio = double(raw) / double(coded);
  say(a.as_json,
      {{"output", a.out},
       {"position", begin},
       {"tokens", end - begin},
       {"raw_bytes", raw},
       {"bytes", coded},
       {"ratio", ratio},
       {"seconds", time}},
      format("%s: %zu bytes for %zu, %s: %.2f times smaller; %.2f GB/s", a.out.c_str(), coded, raw,
             a.max_bytes ? "what fits" : "all levels", ratio, double(raw) / time / 1e9));
  return 0;
}

struct decode_arguments {
  std::string in, out, profile, layers;
  int level = sluice::max_passes, threads = 1;
  bool as_json = false;
};

void describe_decode(option_list& c, decode_arguments& a) {
  c.add_option("SLC", a.in, "a .slc file").required();
  c.add_option("-o,--output", a.out, "the capture (safetensors) to write, in the types that the cache had").required();
  c.add_option("-p,--profile", a.profile, "the profile that it was made with").required();
  c.add_option("--level", a.level, "finest level to decode; above what is there means the finest that is")
      .range(0, sluice::max_passes);
  c.add_option("--layers", a.layers, "A:B = layers A to B - 1 only; either may be left out");
  c.add_option("--threads", a.threads, "changes the time it takes, not the capture").range(1, 256);
  c.add_flag("--json", a.as_json, "the result as JSON");
}

// A:B within [0, layers).
sluice::decode_options::layer_range parse_layers(const std::string& text, int layers) {
  sluice::decode_options::layer_range r{0, layers};
  if (text.empty()) return r;
  const std::size_t colon = text.find(':');
  if (colon == text.npos) throw usage_error("--layers takes A:B, layers A to B - 1");
  const auto number = [&](const std::string& s, int otherwise) {
    if (s.empty()) return otherwise;
    const std::optional<int> n = capture_detail::layer_number(s);
    if (!n || *n > layers) throw usage_error("--layers takes numbers from 0 to " + std::to_string(layers));
    return *n;
  };
  r.begin = number(text.substr(0, colon), 0);
  r.end = number(text.substr(colon + 1), layers);
  if (r.begin >= r.end) throw usage_error("--layers A:B needs A below B");
  return r;
}

// Where the tokens of one layer are decoded to.
struct decoded_layer {
  std::int32_t id = 0;
  std::vector<std::byte> data[2];
  sluice::kv_view view;
};

// One dense tensor per layer and plane, in the type the cache had, for the layers that the frames hold. Of a layer with a
// window only the tokens that are there, if no others are needed.
std::vector<decoded_layer> make_room(const slc_file& file, const sluice::model_shape& shape,
                                     sluice::decode_options::layer_range range) {
  const std::int64_t start = file.first_position(), end = file.end_position();
  std::vector<decoded_layer> layers;
  for (int l = range.begin; l < range.end; ++l) {
    const sluice::layer_shape& s = shape.layers[std::size_t(l)];
    const slc_file::extent held = file.held(l);
    if (held.tokens == 0) continue;
    decoded_layer& d = layers.emplace_back();
    d.id = l;
    sluice::kv_view& v = d.view;
    v.num_layers = 1;
    v.num_kv_heads = s.num_kv_heads;
    v.position = start;
    if (held.contiguous() && held.end == end && held.tokens >= s.needed(end - start)) v.position = held.begin;
    v.tokens = v.capacity = end - v.position;
    for (sluice::plane p : {sluice::plane::key, sluice::plane::value}) {
      if (!s.head_dim(p)) continue;
      sluice::plane_view& q = p == sluice::plane::key ? v.k : v.v;
      q.type = file.type(l, p);
      q.head_dim = s.head_dim(p);
      q.element_stride = sluice::size_of(q.type);
      q.head_stride = q.element_stride * q.head_dim;
      q.token_stride = q.head_stride * s.num_kv_heads;
      auto& bytes = d.data[int(p)];
      bytes.resize(std::size_t(q.token_stride) * std::size_t(v.tokens));
      q.base = bytes.data();
    }
  }
  for (decoded_layer& d : layers) d.view.layer_ids = &d.id;
  return layers;
}

int decode(const decode_arguments& a) {
  const sluice::profile profile = load_profile(a.profile);
  const int num_layers = profile.shape.num_layers();
  sluice::decode_options options;
  options.level = a.level;
  options.layers = parse_layers(a.layers, num_layers);
  side_by_side pool;
  options.parallel = sluice::parallel_for::of(a.threads, pool);
  slc_file file(a.in);
  for (const slc_file::frame& f : file.frames())
    if (f.index.header().layers != num_layers)
      throw data_error(a.in + ": " + sluice::to_string(sluice::status::wrong_shape) + ": " +
                       std::to_string(f.index.header().layers) + " layers here, " + std::to_string(num_layers) +
                       " in the profile");
  const std::int64_t start = file.first_position(), end = file.end_position();
  if (end <= start || end - start > max_capture_tokens) throw data_error(a.in + ": positions of the frames are absurd");
  const std::vector<decoded_layer> layers = make_room(file, profile.shape, options.layers);
  if (layers.empty()) throw data_error(a.in + ": holds nothing of the layers asked for");
  options.sequence_end = end;

  json frames = json::array();
  sluice::status worst = file.trouble();
  double time = 0;
  std::size_t damaged = worst != sluice::status::ok;
  const auto decoder = sluice::make_decoder(file.frames()[0].index.header().codec, profile);
  if (!decoder) throw data_error(a.in + ": " + sluice::to_string(sluice::status::wrong_codec));
  progress bar("decoding");
  std::size_t done = 0;
  for (slc_file::frame& f : file.frames()) {
    const sluice::frame_header& h = f.index.header();
    std::vector<sluice::kv_view> views;  // that see anything of this frame
    for (const decoded_layer& d : layers)
      if (d.view.position < h.position + h.tokens) views.push_back(d.view);
    sluice::page_status s;
    if (!views.empty()) {
      const double begin = seconds();
      s = decoder->decode(f.bytes, views, options);
      time += seconds() - begin;
      if (s.tiles == 0 && s.worst != sluice::status::ok)
        throw data_error(a.in + ": frame at position " + std::to_string(h.position) + ": " +
                         sluice::to_string(s.worst));
    }
    if (s.worst != sluice::status::ok) worst = s.worst, ++damaged;
    frames.push_back({{"position", h.position},
                      {"tokens", h.tokens},
                      {"status", sluice::to_string(s.worst)},
                      {"tiles", s.tiles},
                      {"damaged", s.damaged},
                      {"degraded", s.degraded},
                      {"outside", s.outside},
                      {"coarser", s.coarser}});
    bar.at(++done, file.frames().size());
  }

  // The position of the longest layer, as a capture says it.
  std::int64_t position = end;
  for (const decoded_layer& d : layers) position = std::min(position, d.view.position);
  safetensors::metadata meta{{"model", profile.name.data()},
                             {"layers", std::to_string(num_layers)},
                             {"tokens", std::to_string(end - position)},
                             {"position", std::to_string(position)}};
  for (const decoded_layer& d : layers)
    write_layer_metadata(meta, d.id, profile.shape.layers[std::size_t(d.id)], profile.shape.ropes);
  safetensors::writer writer(meta);
  std::size_t raw = 0;
  for (const decoded_layer& d : layers)
    for (sluice::plane p : {sluice::plane::key, sluice::plane::value}) {
      if (!d.view[p].present()) continue;
      raw += d.data[int(p)].size();
      if (auto wrong =
              writer.add((p == sluice::plane::key ? "k." : "v.") + std::to_string(d.id), type_of(d.view[p].type),
                         {d.view.tokens, d.view.num_kv_heads, d.view[p].head_dim}, d.data[int(p)]))
        throw data_error(wrong.message());
    }
  if (auto wrong = writer.save(a.out)) throw data_error(wrong.message());
  say(a.as_json,
      {{"output", a.out},
       {"status", sluice::to_string(worst)},
       {"position", position},
       {"tokens", end - position},
       {"raw_bytes", raw},
       {"seconds", time},
       {"frames", frames}},
      format("%s: %lld tokens, %s; %.2f GB/s", a.out.c_str(), static_cast<long long>(end - position),
             sluice::to_string(worst), double(raw) / time / 1e9));
  if (damaged) {
    std::fprintf(stderr, "sluice: %s: %zu of %zu frames are not whole (%s); what is missing was left zero\n",
                 a.in.c_str(), damaged, file.frames().size(), sluice::to_string(worst));
    return 1;
  }
  return 0;
}

struct truncate_arguments {
  std::string in, out, profile;
  int level = sluice::max_passes;
  std::size_t max_bytes = 0;
  bool as_json = false;
};

void describe_truncate(option_list& c, truncate_arguments& a) {
  c.add_option("SLC", a.in, "a .slc file").required();
  c.add_option("-o,--output", a.out, "the .slc file to write").required();
  c.add_option("--level", a.level, "finest level to keep; without: all that --max-bytes leaves")
      .range(0, sluice::max_passes - 1);
  c.add_option("--max-bytes", a.max_bytes,
               "the file is never larger: what gains least for its bytes goes first; 0 = no limit")
      .range(std::size_t{0}, std::size_t{1} << 60);
  c.add_option("-p,--profile", a.profile, "its profile: tells --max-bytes what layers, K and V are worth");
  c.add_flag("--json", a.as_json, "the result as JSON");
}

int truncate(const truncate_arguments& a) {
  const bool to_level = a.level < sluice::max_passes;
  if (!to_level && a.max_bytes == 0) throw usage_error("truncate needs --level or --max-bytes");
  std::optional<sluice::profile> profile;
  if (!a.profile.empty()) profile = load_profile(a.profile);
  slc_file file(a.in);
  if (file.trouble() != sluice::status::ok)
    throw data_error(a.in + ": byte " + std::to_string(file.stopped_at()) + ": " + sluice::to_string(file.trouble()));
  int passes = 0;  // of any frame: those that were made to fit have passes of their own
  for (const slc_file::frame& f : file.frames()) passes = std::max<int>(passes, f.index.header().passes);
  if (to_level && a.level >= passes)
    throw data_error(a.in + ": " + sluice::to_string(sluice::status::level_not_present));
  output_file result(a.out);
  byte_budget budget(a.max_bytes, file.size());
  std::size_t size = 0;
  for (slc_file::frame& f : file.frames()) {
    const sluice::frame_header& h = f.index.header();
    if (profile && h.fingerprint && h.fingerprint != fingerprint_of(h.codec, *profile))
      throw data_error(a.in + ": " + sluice::to_string(sluice::status::wrong_profile));
    std::span<std::byte> left = f.bytes;
    const auto cut = [&](sluice::result<std::size_t> n) {
      if (n.status() == sluice::status::output_too_small)
        throw data_error(a.in + ": " + too_small(h.position, budget.share(f.bytes.size())));
      if (!n) throw data_error(a.in + ": " + sluice::to_string(n.status()));
      left = left.first(*n);
    };
    if (to_level) cut(sluice::truncate(left, std::min<int>(a.level, h.passes - 1)));
    if (a.max_bytes) cut(sluice::truncate_to(left, budget.share(f.bytes.size()), profile ? &*profile : nullptr));
    result.write(left);
    budget.spend(left.size(), f.bytes.size());
    size += left.size();
  }
  if (!result.commit()) throw data_error(result.error());
  json facts{{"output", a.out}, {"bytes", size}, {"from_bytes", file.size()}};
  if (to_level) facts["level"] = a.level;
  say(a.as_json, facts,
      format("%s: %s%zu bytes of %zu", a.out.c_str(),
             to_level ? ("level " + std::to_string(a.level) + ", ").c_str() : "", size, file.size()));
  return 0;
}

}  // namespace

void add_code(program& p) {
  p.add<encode_arguments>("encode", "Compresses a capture into a .slc file.", describe_encode, encode);
  p.add<decode_arguments>("decode", "Makes a capture of a .slc file again.", describe_decode, decode);
  p.add<truncate_arguments>("truncate", "Cuts a .slc file down to a coarser level or to a number of bytes.",
                            describe_truncate, truncate);
}
