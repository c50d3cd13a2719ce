// SPDX-License-Identifier: Apache-2.0
// encode, decode, truncate: between captures and .slc files.

#include <capture_file.hpp>
#include <command.hpp>
#include <output_file.hpp>
#include <slc_file.hpp>
#include <sluice/sluice.hpp>

#include <chrono>
#include <cstdio>

namespace {

sluice::profile load_profile(const arguments& a) {
  const std::string path = a.required("-p");
  sluice::result<sluice::profile> p = sluice::profile::load(path.c_str());
  if (!p) throw data_error(path + ": " + sluice::to_string(p.status()));
  return std::move(*p);
}

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void say(const arguments& a, const json& facts, const std::string& line) {
  std::printf("%s\n", a.has("--json") ? facts.dump(1).c_str() : line.c_str());
}

std::string format(const char* pattern, auto... args) {
  char text[512];
  std::snprintf(text, sizeof text, pattern, args...);
  return text;
}

}  // namespace

int encode_command(int argc, char** argv) {
  const arguments a(argc, argv, {"-p", "--codec", "--chunk-tokens", "--levels", "-o"}, {"--json"});
  const std::string in = a.operand("a capture"), out = a.required("-o");
  const sluice::profile profile = load_profile(a);
  const long chunk = a.integer("--chunk-tokens", 256, 1, sluice::max_frame_tokens);
  const sluice::encode_options options{int(a.integer("--levels", sluice::max_passes, 1, sluice::max_passes))};
  capture_file file;
  if (const auto wrong = file.open(in)) throw data_error(*wrong);
  const std::vector<sluice::kv_view> views = file.views();
  const std::int64_t tokens = file.tokens();

  output_file result(out);
  std::size_t raw = 0, coded = 0;
  double time = 0;
  const auto run = [&]<class Codec>() {
    sluice::encoder<Codec> encoder(profile);
    std::vector<std::byte> buffer;
    progress bar("encoding");
    for (std::int64_t t = 0; t < tokens; t += chunk) {
      std::vector<sluice::kv_view> part;
      for (const sluice::kv_view& v : views)
        if (t < v.tokens) part.push_back(v.slice(t, std::min<std::int64_t>(t + chunk, v.tokens)));
      for (const sluice::kv_view& v : part)
        for (sluice::plane p : {sluice::plane::key, sluice::plane::value})
          if (v[p].present())
            raw += std::size_t(v.tokens) * std::size_t(v.num_layers) * std::size_t(v.num_kv_heads) *
                   std::size_t(v[p].head_dim) * std::size_t(sluice::size_of(v[p].type));
      buffer.resize(encoder.max_size(part));
      const double start = seconds();
      const sluice::result<std::size_t> n = encoder.encode(part, buffer, options);
      time += seconds() - start;
      if (!n) throw data_error(in + ": " + sluice::to_string(n.status()));
      result.write(std::span(buffer).first(*n));
      coded += *n;
      bar.at(std::size_t(t + chunk), std::size_t(tokens));
    }
  };
  if (tokens == 0) throw data_error(in + ": holds no tokens");
  if (!sluice::codec::with_preset(a.text("--codec", "standard").c_str(), run))
    throw usage_error("no codec is called " + a.text("--codec"));
  if (!result.commit()) throw data_error(result.error());
  const double ratio = double(raw) / double(coded);
  say(a, {{"output", out}, {"tokens", tokens}, {"raw_bytes", raw}, {"bytes", coded}, {"ratio", ratio}, {"seconds", time}},
      format("%s: %zu bytes for %zu, all levels: %.2f times smaller; %.2f GB/s", out.c_str(), coded, raw, ratio,
             double(raw) / time / 1e9));
  return 0;
}

int decode_command(int argc, char** argv) {
  const arguments a(argc, argv, {"-p", "--level", "--layers", "-o"}, {"--json"});
  const std::string in = a.operand("a .slc file"), out = a.required("-o");
  const sluice::profile profile = load_profile(a);
  sluice::decode_options options;
  options.level = int(a.integer("--level", sluice::max_passes, 0, sluice::max_passes));
  const int layers = profile.shape.num_layers();
  options.layers = {0, layers};
  if (a.has("--layers")) {
    const std::string range = a.text("--layers");
    const std::size_t colon = range.find(':');
    if (colon == std::string::npos) throw usage_error("--layers takes A:B, layers A to B-1");
    options.layers.begin = int(colon ? arguments::parse("--layers", range.substr(0, colon), 0, layers) : 0);
    options.layers.end =
        int(colon + 1 < range.size() ? arguments::parse("--layers", range.substr(colon + 1), 0, layers) : layers);
    if (options.layers.begin >= options.layers.end) throw usage_error("--layers A:B needs A below B");
  }
  slc_file file;
  if (const auto wrong = file.open(in)) throw data_error(*wrong);
  const sluice::frame_header& h = file.frames()[0].index.header();
  if (profile.shape.num_layers() != h.layers) throw data_error(in + ": " + sluice::to_string(sluice::status::wrong_shape));

  // One dense tensor per layer and plane, in the type the cache had.
  const std::int64_t start = file.first_position(), tokens = file.end_position() - start;
  if (tokens < 0 || tokens > std::int64_t{1} << 26) throw data_error(in + ": positions of the frames are absurd");
  std::vector<std::vector<std::byte>> data(2 * std::size_t(layers));
  std::vector<sluice::kv_view> views;
  std::vector<std::int32_t> ids(std::size_t(layers), 0);
  for (int l = options.layers.begin; l < options.layers.end; ++l) {
    const sluice::layer_shape& s = profile.shape.layers[std::size_t(l)];
    sluice::kv_view v;
    v.num_layers = 1;
    v.num_kv_heads = s.num_kv_heads;
    ids[std::size_t(l)] = l;
    v.layer_ids = &ids[std::size_t(l)];
    v.tokens = v.capacity = tokens;
    v.position = start;
    for (sluice::plane p : {sluice::plane::key, sluice::plane::value}) {
      if (!s.head_dim(p)) continue;
      sluice::plane_view& q = p == sluice::plane::key ? v.k : v.v;
      q.type = file.frames()[0].index.type(l, p);
      q.head_dim = s.head_dim(p);
      q.element_stride = sluice::size_of(q.type);
      q.head_stride = q.element_stride * q.head_dim;
      q.token_stride = q.head_stride * s.num_kv_heads;
      auto& bytes = data[2 * std::size_t(l) + std::size_t(p)];
      bytes.resize(std::size_t(q.token_stride) * std::size_t(tokens));
      q.base = bytes.data();
    }
    views.push_back(v);
  }

  json frames = json::array();
  sluice::status worst = file.trouble();
  double time = 0;
  std::size_t damaged = worst != sluice::status::ok;
  const auto run = [&]<class Codec>() {
    sluice::decoder<Codec> decoder(profile);
    progress bar("decoding");
    std::size_t done = 0;
    for (slc_file::frame& f : file.frames()) {
      const double begin = seconds();
      const sluice::page_status s = decoder.decode(f.bytes, views, options);
      time += seconds() - begin;
      if (s.worst != sluice::status::ok) worst = s.worst, ++damaged;
      frames.push_back({{"position", f.index.header().position}, {"tokens", f.index.header().tokens},
                        {"status", sluice::to_string(s.worst)}, {"tiles", s.tiles}, {"damaged", s.damaged},
                        {"degraded", s.degraded}});
      if (s.tiles == 0) throw data_error(in + ": frame at position " + std::to_string(f.index.header().position) + ": " +
                                         sluice::to_string(s.worst));
      bar.at(++done, file.frames().size());
    }
  };
  if (!sluice::codec::with_codec(h.codec, run)) throw data_error(in + ": " + sluice::to_string(sluice::status::wrong_codec));

  safetensors::metadata meta{{"model", profile.name.data()}, {"layers", std::to_string(layers)},
                             {"tokens", std::to_string(tokens)}, {"position", std::to_string(start)}};
  for (int l = 0; l < layers; ++l) {
    const sluice::layer_shape& s = profile.shape.layers[std::size_t(l)];
    const std::string at = std::to_string(l);
    if (!profile.shape.ropes.empty()) {
      const sluice::rope& r = profile.shape.ropes[std::size_t(s.rope_index)];
      meta["rope_base." + at] = format("%.17g", r.pairing == sluice::rope_pairing::none ? 0.0 : r.base);
    }
    meta["window." + at] = std::to_string(s.window);
  }
  safetensors::writer writer(meta);
  std::size_t raw = 0;
  for (int l = options.layers.begin; l < options.layers.end; ++l) {
    const sluice::layer_shape& s = profile.shape.layers[std::size_t(l)];
    for (sluice::plane p : {sluice::plane::key, sluice::plane::value}) {
      if (!s.head_dim(p)) continue;
      const auto& bytes = data[2 * std::size_t(l) + std::size_t(p)];
      raw += bytes.size();
      if (auto wrong = writer.add((p == sluice::plane::key ? "k." : "v.") + std::to_string(l),
                                  capture_file::type_of(file.frames()[0].index.type(l, p)),
                                  {tokens, s.num_kv_heads, s.head_dim(p)}, bytes))
        throw data_error(wrong.message());
    }
  }
  if (auto wrong = writer.save(out)) throw data_error(wrong.message());
  say(a, {{"output", out}, {"status", sluice::to_string(worst)}, {"raw_bytes", raw}, {"seconds", time}, {"frames", frames}},
      format("%s: %lld tokens, %s; %.2f GB/s", out.c_str(), static_cast<long long>(tokens), sluice::to_string(worst),
             double(raw) / time / 1e9));
  if (damaged) {
    std::fprintf(stderr, "sluice: %s: %zu of %zu frames are not whole; what is missing was left zero\n", in.c_str(), damaged,
                 file.frames().size());
    return 1;
  }
  return 0;
}

int truncate_command(int argc, char** argv) {
  const arguments a(argc, argv, {"--level", "-o"}, {"--json"});
  const std::string in = a.operand("a .slc file"), out = a.required("-o");
  a.required("--level");
  const int level = int(a.integer("--level", 0, 0, sluice::max_passes - 1));
  slc_file file;
  if (const auto wrong = file.open(in)) throw data_error(*wrong);
  if (file.trouble() != sluice::status::ok)
    throw data_error(in + ": byte " + std::to_string(file.stopped_at()) + ": " + sluice::to_string(file.trouble()));
  output_file result(out);
  std::size_t size = 0;
  for (slc_file::frame& f : file.frames()) {
    const sluice::result<std::size_t> n = sluice::truncate(f.bytes, level);
    if (!n) throw data_error(in + ": " + sluice::to_string(n.status()));
    result.write(f.bytes.first(*n));
    size += *n;
  }
  if (!result.commit()) throw data_error(result.error());
  say(a, {{"output", out}, {"level", level}, {"bytes", size}, {"from_bytes", file.size()}},
      format("%s: level %d, %zu bytes of %zu", out.c_str(), level, size, file.size()));
  return 0;
}
