// SPDX-License-Identifier: Apache-2.0
// measure CHUNK_TOKENS EVAL OUT CALIBRATION...: makes CacheGen's tables from captures, codes EVAL in chunks at every level,
// writes what came back to OUT.PERCENT.safetensors and prints bytes and speeds as JSON. Captures are safetensors files with
// k.{layer} and v.{layer} F16 [tokens, heads, head_dim].
#include <sluice/calibrate/cachegen.hpp>
#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>
#include <sluice/codec/preset/cachegen_paper.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace {

using namespace sluice;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

// A capture in memory, shown as a view; K and V can be overwritten and the file written again.
struct capture {
  std::vector<char> bytes;
  std::vector<std::byte*> k, v;
  kv_view view;

  explicit capture(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
    std::uint64_t head = 0;
    if (bytes.size() < 8) fail(path + ": cannot be read");
    std::memcpy(&head, bytes.data(), 8);
    const auto names = nlohmann::json::parse(bytes.data() + 8, bytes.data() + 8 + head);
    const auto at = [&](const std::string& name) {
      if (names.at(name).at("dtype") != "F16") fail(path + ": " + name + " is not F16");
      return reinterpret_cast<std::byte*>(bytes.data() + 8 + head +
                                          names.at(name).at("data_offsets").at(0).get<std::size_t>());
    };
    for (int l = 0; names.contains("k." + std::to_string(l)); ++l) {
      k.push_back(at("k." + std::to_string(l)));
      v.push_back(at("v." + std::to_string(l)));
    }
    const auto shape = names.at("k.0").at("shape");
    view.num_layers = int(k.size());
    view.tokens = view.capacity = shape.at(0);
    view.num_kv_heads = shape.at(1);
    for (plane_view* p : {&view.k, &view.v}) {
      p->head_dim = shape.at(2);
      p->element_stride = 2;
      p->head_stride = 2 * p->head_dim;
      p->token_stride = p->head_stride * view.num_kv_heads;
    }
    view.k.layer_bases = k.data();
    view.v.layer_bases = v.data();
  }
  capture(const capture&) = delete;
};

// Of the processor, so that others on the machine do not count.
double seconds() { return double(std::clock()) / CLOCKS_PER_SEC; }

template <int Percent>
nlohmann::json level(const profile& p, const std::string& eval, std::int64_t chunk, const std::string& out) {
  using codec_t = codec::cachegen_paper<Percent>;
  capture c(eval);
  encoder<codec_t> e(p);
  decoder<codec_t> d(p);
  std::vector<std::vector<std::byte>> frames;
  std::size_t total = 0;
  const double start = seconds();
  for (std::int64_t t = 0; t < c.view.tokens; t += chunk) {
    const kv_view part = c.view.slice(t, std::min(t + chunk, c.view.tokens));
    frames.emplace_back(e.max_size(part));
    const auto n = e.encode(part, frames.back());
    if (!n) fail(to_string(n.status()));
    frames.back().resize(*n);
    total += *n;
  }
  const double encoded = seconds();
  for (const auto& f : frames)
    if (const page_status s = d.decode(f, c.view); s.worst != status::ok) fail(to_string(s.worst));
  const double decoded = seconds();
  std::ofstream file(out + "." + std::to_string(Percent) + ".safetensors", std::ios::binary);
  file.write(c.bytes.data(), std::streamsize(c.bytes.size()));
  if (!file) fail(out + ": cannot be written");
  const double values = 2.0 * double(c.view.tokens) * c.view.num_layers * c.view.num_kv_heads * c.view.k.head_dim;
  return {{"percent", Percent},
          {"bytes", total},
          {"bits_per_value", 8 * double(total) / values},
          {"encode_mb_per_s", 2e-6 * values / (encoded - start)},
          {"decode_mb_per_s", 2e-6 * values / (decoded - encoded)}};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) fail("measure CHUNK_TOKENS EVAL OUT CALIBRATION...");
  const std::string eval = argv[2], out = argv[3];
  profile p;
  {
    const capture c(eval);
    p = profile::uncalibrated(model_shape::uniform(c.view.num_layers, c.view.num_kv_heads, c.view.k.head_dim));
    for (plane_profile& q : p.planes) q.group_width = q.width;  // one scale over all heads
  }
  cachegen_calibrator calibrator(p);
  for (int i = 4; i < argc; ++i) {
    const capture c(argv[i]);
    if (const status s = calibrator.add(c.view); s != status::ok) fail(std::string(argv[i]) + ": " + to_string(s));
  }
  const auto section = calibrator.finish();
  if (!section) fail(to_string(section.status()));
  p.set_section(*section);
  const std::int64_t chunk = std::atoll(argv[1]);
  const nlohmann::json r = {
      {"table_bytes", section->bytes.size()},
      {"levels", {level<50>(p, eval, chunk, out), level<100>(p, eval, chunk, out), level<200>(p, eval, chunk, out)}}};
  std::printf("%s\n", r.dump(1).c_str());
}
