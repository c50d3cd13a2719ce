// SPDX-License-Identifier: Apache-2.0
// FORMAT.md is normative, so its example must decode and its table of the header must be the struct.
#include <doctest/doctest.h>
#include <sluice/sluice.hpp>

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace {

std::string document() {
  std::ifstream in(SLUICE_SOURCE_DIR "/include/sluice/format/FORMAT.md");
  return {std::istreambuf_iterator<char>(in), {}};
}

std::istringstream fenced(const std::string& text, const std::string& kind) {
  const std::size_t begin = text.find("```" + kind + "\n");
  REQUIRE(begin != std::string::npos);
  const std::size_t from = begin + kind.size() + 4;
  return std::istringstream(text.substr(from, text.find("```", from) - from));
}

std::string between(const std::string& text, const char* begin, const char* end) {
  const std::size_t from = text.find(begin), to = text.find(end, from);
  REQUIRE(to != std::string::npos);
  return text.substr(from, to - from);
}

// The first cell of the row whose third is the field's name.
std::size_t offset_in(const std::string& section, const char* name) {
  std::string offset;
  std::istringstream lines(section);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream cells(line);
    std::string cell[4];
    for (std::string& c : cell) std::getline(cells, c, '|');
    if (cell[3] == std::string(" ") + name + " ") offset = cell[1];
  }
  REQUIRE(offset.size() > 2);
  return std::stoul(offset);
}

}  // namespace

namespace {

// The model and the cache of the worked example.
struct example {
  sluice::model_shape shape{{{1, 2, 0, 0, 0}}, {sluice::rope{.pairing = sluice::rope_pairing::none}}};
  sluice::profile profile = sluice::profile::uncalibrated(shape, 1, 0);
  std::vector<sluice::f16> k = std::vector<sluice::f16>(64);
  sluice::kv_view view;

  example() {
    for (int t = 0; t < 32; ++t) {
      k[std::size_t(2 * t)] = sluice::from_float<sluice::f16>(3.75f + float(7 * t % 11 - 5) * 0.75f);
      k[std::size_t(2 * t + 1)] = sluice::from_float<sluice::f16>((float(5 * t % 8) - 3.5f) * 0.5f);
    }
    view.k = {.base = reinterpret_cast<std::byte*>(k.data()),
              .token_stride = 4,
              .head_stride = 4,
              .element_stride = 2,
              .type = sluice::dtype::f16,
              .head_dim = 2};
    view.num_layers = view.num_kv_heads = 1;
    view.capacity = view.tokens = 32;
    view.position = 100;
  }
  example(const example&) = delete;

  std::vector<std::byte> frame() {
    sluice::encoder<> encoder(profile);
    std::vector<std::byte> out(encoder.max_size(view));
    const auto size = encoder.encode(view, out);
    REQUIRE(size);
    out.resize(*size);
    return out;
  }
};

}  // namespace

TEST_CASE("FORMAT.md: the worked example is what an encoder makes, and decodes to the values it names") {
  const std::string text = document();
  std::vector<std::byte> frame;
  auto hex = fenced(text, "hex");
  for (std::string byte; hex >> byte;) frame.push_back(std::byte(std::stoi(byte, nullptr, 16)));
  example e;
  CHECK(frame == e.frame());
  sluice::decoder<> decoder(e.profile);
  REQUIRE(decoder.decode(frame, e.view).worst == sluice::status::ok);
  auto values = fenced(text, "values");
  std::size_t i = 0;
  for (float x; values >> x; ++i) CHECK(std::fabs(sluice::to_float(e.k[i]) - x) < 2e-3f);
  CHECK(i == 8);
}

// Prints the example for a new version of the format or of the profile.
TEST_CASE("FORMAT.md: print the worked example" * doctest::skip()) {
  example e;
  const auto frame = e.frame();
  for (std::size_t i = 0; i < frame.size(); ++i)
    std::printf("%s%02x%s", i % 16 ? " " : "    ", unsigned(frame[i]), i % 16 == 15 ? "\n" : "");
  REQUIRE(sluice::decoder<>(e.profile).decode(frame, e.view).worst == sluice::status::ok);
  for (std::size_t i = 0; i < 8; ++i) std::printf("%g ", double(sluice::to_float(e.k[i])));
  std::printf("\n");
}

TEST_CASE("FORMAT.md: the header's table is the struct") {
  const std::string text = document();
  using h = sluice::frame_header;
  const struct {
    const char* name;
    std::size_t offset;
  } fields[] = {{"magic", offsetof(h, magic)},
                {"version_major", offsetof(h, version_major)},
                {"version_minor", offsetof(h, version_minor)},
                {"header_size", offsetof(h, header_size)},
                {"fingerprint", offsetof(h, fingerprint)},
                {"position", offsetof(h, position)},
                {"frame_size", offsetof(h, frame_size)},
                {"tokens", offsetof(h, tokens)},
                {"tile_tokens", offsetof(h, tile_tokens)},
                {"index_size", offsetof(h, index_size)},
                {"index_checksum", offsetof(h, index_checksum)},
                {"layers", offsetof(h, layers)},
                {"shape_runs", offsetof(h, shape_runs)},
                {"passes", offsetof(h, passes)},
                {"levels_present", offsetof(h, levels_present)},
                {"codec", offsetof(h, codec)},
                {"side_checksum", offsetof(h, side_checksum)},
                {"loss", offsetof(h, loss)},
                {"reserved", offsetof(h, reserved)},
                {"header_checksum", offsetof(h, header_checksum)}};
  const std::string header = between(text, "### 3.1", "### 3.2");
  for (const auto& f : fields) {
    CAPTURE(f.name);
    CHECK(offset_in(header, f.name) == f.offset);
  }
}

TEST_CASE("FORMAT.md: the table of a run of layers is the struct") {
  using r = sluice::shape_run;
  const std::string run = between(document(), "### 3.3", "## 4");
  CHECK(offset_in(run, "layers") == offsetof(r, layers));
  CHECK(offset_in(run, "num_kv_heads") == offsetof(r, num_kv_heads));
  CHECK(offset_in(run, "head_dim") == offsetof(r, head_dim));
  CHECK(offset_in(run, "group_width") == offsetof(r, group_width));
  CHECK(offset_in(run, "type") == offsetof(r, type));
  CHECK(offset_in(run, "reserved") == offsetof(r, reserved));
}
