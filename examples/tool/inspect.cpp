// SPDX-License-Identifier: Apache-2.0
// info and verify: what a .slc file holds, without decoding values.

#include <command.hpp>
#include <ideal.hpp>
#include <slc_file.hpp>
#include <sluice/sluice.hpp>

#include <cstdio>

namespace {

using sluice::plane;

const char* entropy_name(int id) {
  switch (id) {
    case sluice::class_rans::id: return "class_rans";
    case sluice::bitpack::id: return "bitpack";
    case sluice::split_exponent::id: return "split_exponent";
    case sluice::raw::id: return "raw";
  }
  return "unknown";
}

const char* codec_name(const sluice::codec_id& id) {
  const char* name = "custom";
  for (const char* preset : sluice::codec::preset_names)
    sluice::codec::with_preset(preset, [&]<class Codec>() {
      if (Codec::id == id && name[0] == 'c') name = preset;
    });
  return name;
}

// Bytes of a file by what they are for.
struct accounting {
  std::vector<std::size_t> pass;
  std::vector<std::array<std::size_t, 2>> layer;
  std::size_t headers = 0, tile_heads = 0, states = 0, padding = 0;              // overhead
  std::size_t streams = 0, exact = 0, exceptions = 0, deltas = 0, side = 0;      // payload
  std::size_t raw = 0, values = 0, damaged = 0, missing = 0, tiles = 0;
  std::size_t total = 0;
  std::size_t overhead() const { return headers + tile_heads + states + padding; }
};

void count_tile(std::span<const std::uint8_t> bytes, int pass, int tokens, int width, std::size_t row_bytes, bool rans,
                sluice::detail::base_tile& base, accounting& a) {
  using namespace sluice::detail;
  if (bytes.empty()) return;
  std::size_t used = 0;
  std::span<const std::uint8_t> stream;
  if (pass == 0) {
    if (parse_tile(bytes, tokens, width, row_bytes, base) != sluice::status::ok) {
      ++a.damaged;
      return;
    }
    stream = base.stream;
    const std::size_t deltas = base.deltas.size() + (base.delta_blocks ? 4 : 0);
    const std::size_t side = base.classes.size() + base.mean.size() + (base.classes.empty() ? 0 : 4);
    a.exact += base.exact_index.size() + base.exact_rows.size();
    a.exceptions += base.exceptions.size();
    a.deltas += deltas;
    a.side += side;
    a.tile_heads += sizeof(tile_head);
    used = sizeof(tile_head) + base.exact_index.size() + base.exact_rows.size() + base.exceptions.size() + deltas + side;
  } else {
    refinement_tile r;
    if (parse_refinement(bytes, base.rows(), width, r) != sluice::status::ok) {
      ++a.damaged;
      return;
    }
    stream = r.stream;
    a.exceptions += r.exceptions.size();
    a.tile_heads += sizeof(refinement_head);
    used = sizeof(refinement_head) + r.exceptions.size();
  }
  const std::size_t states = rans && !stream.empty() ? std::size_t(rans_state_bytes) : 0;
  a.states += states;
  a.streams += stream.size() - states;
  a.padding += bytes.size() - used - stream.size();
}

accounting count(slc_file& file) {
  accounting a;
  for (slc_file::frame& f : file.frames()) {
    const sluice::frame_index& index = f.index;
    const sluice::frame_header& h = index.header();
    a.pass.resize(std::max<std::size_t>(a.pass.size(), h.passes));
    a.layer.resize(std::max<std::size_t>(a.layer.size(), h.layers));
    a.headers += std::min<std::size_t>(std::size_t(index.payload_offset()), f.bytes.size());
    a.total += f.bytes.size();
    const bool rans = h.codec.entropy == sluice::class_rans::id;
    for (int layer = 0; layer < h.layers; ++layer)
      for (plane which : {plane::key, plane::value}) {
        const sluice::shape_run& s = index.shape_of(layer);
        const int p = int(which);
        const std::size_t element = std::size_t(sluice::size_of(index.type(layer, which)));
        a.raw += std::size_t(h.tokens) * std::size_t(s.width(p)) * element;
        a.values += std::size_t(h.tokens) * std::size_t(s.width(p));
        for (int tile = 0; tile < index.token_tiles(); ++tile)
          for (int g = 0; g < s.groups(p); ++g) {
            const int width = std::min<int>(s.group_width[p], s.width(p) - g * s.group_width[p]);
            sluice::detail::base_tile base;
            for (int pass = 0; pass < h.levels_present; ++pass) {
              const std::size_t ordinal = index.ordinal(pass, {layer, which, tile, g});
              const sluice::byte_range r = index.range(ordinal);
              ++a.tiles;
              if (r.end > f.bytes.size()) {
                ++a.missing;
                continue;
              }
              const auto* at = reinterpret_cast<const std::uint8_t*>(f.bytes.data()) + r.begin;
              a.pass[std::size_t(pass)] += std::size_t(r.size());
              a.layer[std::size_t(layer)][std::size_t(p)] += std::size_t(r.size());
              if (sluice::checksum(at, std::size_t(r.size()), std::uint32_t(ordinal)) != index.checksum_of(ordinal)) {
                ++a.damaged;
                if (pass == 0) break;
                continue;
              }
              count_tile({at, std::size_t(r.size())}, pass, index.tokens_of(tile), width, std::size_t(width) * element, rans,
                         base, a);
            }
          }
      }
  }
  return a;
}

}  // namespace

int verify_command(int argc, char** argv) {
  const arguments a(argc, argv, {}, {"--json"});
  const std::string in = a.operand("a .slc file");
  slc_file file;
  if (const auto wrong = file.open(in)) throw data_error(*wrong);
  const accounting c = count(file);
  const bool whole = file.trouble() == sluice::status::ok && !c.damaged && !c.missing;
  if (a.has("--json")) {
    std::printf("%s\n", json{{"file", in}, {"ok", whole}, {"frames", file.frames().size()}, {"tiles", c.tiles},
                             {"damaged_tiles", c.damaged}, {"missing_tiles", c.missing},
                             {"status", sluice::to_string(file.trouble())}, {"whole_bytes", file.stopped_at()}}
                            .dump(1)
                            .c_str());
  } else if (whole) {
    std::printf("%s: whole: %zu frames, %zu tiles\n", in.c_str(), file.frames().size(), c.tiles);
  } else {
    std::printf("%s: NOT whole: %zu of %zu tiles damaged, %zu missing", in.c_str(), c.damaged, c.tiles, c.missing);
    if (file.trouble() != sluice::status::ok)
      std::printf("; at byte %zu: %s", file.stopped_at(), sluice::to_string(file.trouble()));
    std::printf("\n");
  }
  return whole ? 0 : 1;
}

int info_command(int argc, char** argv) {
  const arguments a(argc, argv, {"-p"}, {"--json"});
  const std::string in = a.operand("a .slc file");
  slc_file file;
  if (const auto wrong = file.open(in)) throw data_error(*wrong);
  const accounting c = count(file);
  const sluice::frame_header& h = file.frames()[0].index.header();
  const double values = double(std::max<std::size_t>(c.values, 1));
  std::vector<std::size_t> size_at(h.passes, 0);
  for (slc_file::frame& f : file.frames())
    for (int j = 0; j < std::min<int>(h.passes, f.index.header().passes); ++j)
      size_at[std::size_t(j)] += std::size_t(f.index.size_at(j));

  std::vector<double> ideal;
  if (a.has("-p")) {
    const sluice::result<sluice::profile> p = sluice::profile::load(a.text("-p").c_str());
    if (!p) throw data_error(a.text("-p") + ": " + sluice::to_string(p.status()));
    ideal = ideal_bytes(file, *p);
    if (ideal.empty()) throw data_error(in + ": not a whole file of the standard codec made with this profile");
  }

  json layers = json::array(), levels = json::array();
  std::size_t keys = 0, vals = 0;
  for (const auto& l : c.layer) {
    layers.push_back({{"k", l[0]}, {"v", l[1]}});
    keys += l[0];
    vals += l[1];
  }
  for (std::size_t j = 0; j < size_at.size(); ++j)
    levels.push_back({{"level", j}, {"present", j < h.levels_present}, {"bytes", size_at[j]},
                      {"bits_per_value", 8 * double(size_at[j]) / values},
                      {"ratio", double(c.raw) / double(std::max<std::size_t>(size_at[j], 1))}});
  for (std::size_t j = 0; j < ideal.size(); ++j) {
    levels[j]["ideal_bytes"] = ideal[j];
    levels[j]["overhead"] = double(size_at[j]) / ideal[j] - 1;
  }
  if (a.has("--json")) {
    std::printf("%s\n",
                json{{"file", in},
                     {"bytes", file.size()},
                     {"raw_bytes", c.raw},
                     {"ratio", double(c.raw) / double(std::max<std::size_t>(file.size(), 1))},
                     {"bits_per_value", 8 * double(file.size()) / values},
                     {"frames", file.frames().size()},
                     {"tokens", file.end_position() - file.first_position()},
                     {"position", file.first_position()},
                     {"codec", codec_name(h.codec)},
                     {"entropy", entropy_name(h.codec.entropy)},
                     {"types", {sluice::to_string(file.frames()[0].index.type(0, plane::key)), sluice::to_string(file.frames()[0].index.type(0, plane::value))}},
                     {"levels_present", h.levels_present},
                     {"levels", levels},
                     {"k_bytes", keys},
                     {"v_bytes", vals},
                     {"layers", layers},
                     {"overhead", {{"headers_and_index", c.headers}, {"tile_heads", c.tile_heads}, {"coder_states", c.states},
                                   {"padding", c.padding}, {"total", c.overhead()}}},
                     {"payload", {{"streams", c.streams}, {"exact_tokens", c.exact}, {"exceptions", c.exceptions},
                                  {"class_deltas", c.deltas}, {"side_information", c.side}}},
                     {"damaged_tiles", c.damaged},
                     {"missing_tiles", c.missing},
                     {"status", sluice::to_string(file.trouble())}}
                    .dump(1)
                    .c_str());
    return 0;
  }
  std::printf("%s: %s, %zu frames, tokens %lld to %lld, %d layers, %s/%s\n", in.c_str(), codec_name(h.codec),
              file.frames().size(), static_cast<long long>(file.first_position()),
              static_cast<long long>(file.end_position()), h.layers, sluice::to_string(file.frames()[0].index.type(0, plane::key)),
              sluice::to_string(file.frames()[0].index.type(0, plane::value)));
  std::printf("%zu bytes for %zu: %.2f times smaller, %.3f bits per value\n\n", file.size(), c.raw,
              double(c.raw) / double(file.size()), 8 * double(file.size()) / values);
  std::printf("level      bytes   bits/value    ratio%s\n", ideal.empty() ? "" : "   above an ideal coder");
  for (std::size_t j = 0; j < size_at.size(); ++j) {
    std::printf("%5zu %10zu %12.3f %8.2f", j, size_at[j], 8 * double(size_at[j]) / values,
                double(c.raw) / double(size_at[j]));
    if (j < ideal.size()) std::printf("%20.2f %%", 100 * (double(size_at[j]) / ideal[j] - 1));
    std::printf("%s\n", j < h.levels_present ? "" : "   not here");
  }
  std::printf("\nK %zu bytes, V %zu bytes\n", keys, vals);
  std::printf("payload: streams %zu, exact tokens %zu, exceptions %zu, class deltas %zu, side information %zu\n", c.streams,
              c.exact, c.exceptions, c.deltas, c.side);
  std::printf("overhead: headers and index %zu, tile heads %zu, coder states %zu, padding %zu: %.2f %%\n", c.headers,
              c.tile_heads, c.states, c.padding, 100 * double(c.overhead()) / double(std::max<std::size_t>(c.total, 1)));
  std::printf("\nlayer          K          V\n");
  for (std::size_t l = 0; l < c.layer.size(); ++l) std::printf("%5zu %10zu %10zu\n", l, c.layer[l][0], c.layer[l][1]);
  if (c.damaged || c.missing || file.trouble() != sluice::status::ok)
    std::printf("\n%zu tiles damaged, %zu missing, %s\n", c.damaged, c.missing, sluice::to_string(file.trouble()));
  return 0;
}
