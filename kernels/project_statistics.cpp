// SPDX-License-Identifier: Apache-2.0
// What kernels/project.py has to know of real data: encodes a capture with a profile and prints what each tile's entropy
// sections make a decoder do, and what strips of bf16 do to the lossless one. Built and run by project.py.
//
//   project_statistics PROFILE CAPTURE      a capture as sluice calibrate reads it, all layers alike, f16
#include <sluice/sluice.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <safetensors.hpp>
#include <span>
#include <string>
#include <vector>

namespace {

/// class_rans, watched: what its decoder is given is printed.
struct watched_rans : sluice::class_rans {
  struct decoder : sluice::class_rans::decoder {
    decoder(const sluice::profile& p, sluice::isa i) : sluice::class_rans::decoder(p, i), tables(p) {}

    void decode(std::span<sluice::decoded_symbols> batch) {
      sluice::class_rans::decoder::decode(batch);
      for (const sluice::decoded_symbols& s : batch) print(s);
    }

   private:
    void print(const sluice::decoded_symbols& s) {
      const sluice::group_place& place = s.tile->place;
      sluice::class_section sections[sluice::max_passes];
      for (int p = 0; p < s.passes; ++p)
        if (!sections[p].parse(s.tile->section(p, sluice::section::entropy), p, s.tile->rows(), place.width()))
          std::exit(1);
      sluice::detail::group_tables known = tables.of(place);
      if (!sections[0].classes.empty()) known.build(sections[0].classes, s.passes);
      const std::uint8_t* nibbles = sections[0].deltas.data();
      for (std::size_t b = 0; b < known.base.size(); ++b) {
        if ((sections[0].delta_blocks >> b & 1) == 0) continue;
        std::uint8_t moved[32];
        sluice::detail::apply_deltas(&known.classes[32 * b], nibbles, moved);
        known.replace_block(b, moved, s.passes);
        nibbles += 16;
      }
      known.count_blocks(s.passes);
      std::printf(
          "%s\n    {\"plane\": \"%s\", \"width\": %d, \"rows\": %d, \"exceptions\": %d, \"deltas\": %s, \"digits\": [",
          first ? "" : ",", place.plane == sluice::plane::key ? "k" : "v", place.width(), s.tile->rows(),
          sections[0].num_exceptions(), sections[0].delta_blocks ? "true" : "false");
      first = false;
      for (int b = 0; b < known.blocks[0]; ++b) {
        int most = 0;
        for (std::size_t lane = 0; lane < 32; ++lane) {
          const std::uint8_t cls = sluice::detail::class_at(known.classes[32 * std::size_t(b) + lane], s.passes - 1);
          most = std::max(most, int(sluice::detail::class_table[cls].digits));
        }
        std::printf("%s%d", b ? ", " : "", most);
      }
      std::printf("], \"passes\": [");
      bool continues = false;
      for (int p = 0; p < s.passes; ++p) {
        const sluice::class_section& c = sections[p];
        const std::size_t states = c.state_bytes(place.width(), continues);
        const bool settles = !c.goes_on && c.code.size() > states;  // in tiles of one part
        std::printf("%s{\"blocks\": %d, \"bytes\": %zu, \"tail\": %d}", p ? ", " : "", known.blocks[p],
                    s.tile->section(p, sluice::section::entropy).size(), settles ? int(c.code[states]) : 0);
        continues = c.goes_on;
      }
      std::printf("]}");
    }

    sluice::detail::profile_tables tables;
    bool first = true;
  };
};

/// Rows of f16 as bf16, in strips of `columns` of them: their code and how much of it are escapes.
void print_strips(const sluice::kv_view& view, sluice::plane which, int columns, bool& first) {
  const sluice::plane_view& v = which == sluice::plane::key ? view.k : view.v;
  const auto rows = static_cast<std::size_t>(std::min<std::int64_t>(view.tokens, 256));
  const auto row = static_cast<std::size_t>(v.token_stride / 2);
  std::vector<std::uint16_t> bits(rows * std::size_t(columns));
  std::vector<std::byte> out(sluice::lossless_max_size(sluice::dtype::bf16, std::int64_t(rows), columns)), workspace;
  for (int l = 0; l < view.num_layers; ++l) {
    const auto* from = reinterpret_cast<const sluice::f16*>(v.layer_bases[l]);
    for (std::size_t r = 0; r < rows; ++r)  // wider rows than there are begin again
      for (std::size_t i = 0; i < std::size_t(columns); ++i)
        bits[r * std::size_t(columns) + i] =
            sluice::from_float<sluice::bf16>(sluice::to_float(from[r * row + i % row])).bits;
    const std::size_t n = sluice::lossless_encode(sluice::dtype::bf16, int(rows), columns,
                                                  reinterpret_cast<const std::byte*>(bits.data()),
                                                  2 * std::size_t(columns), out, workspace);
    sluice::detail::strip_head head;
    std::memcpy(&head, out.data(), sizeof head);
    const bool coded = head.kind == std::uint8_t(sluice::detail::strip_kind::coded);
    std::printf("%s\n    {\"columns\": %d, \"rows\": %zu, \"bytes\": %zu, \"coded\": %s, \"escapes\": %u}",
                first ? "" : ",", columns, rows, n, coded ? "true" : "false", coded ? head.escapes : 0);
    first = false;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: project_statistics PROFILE CAPTURE\n"), 2;
  const auto model = sluice::profile::load(argv[1]);
  safetensors::file file;
  if (!model.has_value() || bool(file.open(argv[2])) || !file.find("k.0"))
    return std::fprintf(stderr, "project_statistics: cannot read %s or %s\n", argv[1], argv[2]), 1;
  const sluice::profile& p = *model;
  std::vector<std::byte*> bases[2];
  sluice::kv_view view;
  view.num_layers = p.shape.num_layers();
  view.num_kv_heads = p.shape.layers[0].num_kv_heads;
  view.tokens = view.capacity = file.find("k.0")->shape[0];
  for (const sluice::plane which : {sluice::plane::key, sluice::plane::value}) {
    for (int l = 0; l < view.num_layers; ++l) {
      const auto* tensor = file.find((which == sluice::plane::key ? "k." : "v.") + std::to_string(l));
      if (!tensor) return std::fprintf(stderr, "project_statistics: a layer is missing\n"), 1;
      bases[int(which)].push_back(file.bytes(*tensor).data());
    }
    sluice::plane_view& v = which == sluice::plane::key ? view.k : view.v;
    v.layer_bases = bases[int(which)].data();
    v.head_dim = p.shape.layers[0].head_dim(which);
    v.element_stride = 2;
    v.head_stride = 2 * v.head_dim;
    v.token_stride = v.head_stride * view.num_kv_heads;
  }
  sluice::encoder<> encoder(p);
  std::vector<std::byte> frame(encoder.max_size(view));
  const auto size = encoder.encode(view, frame);
  if (!size.has_value()) return std::fprintf(stderr, "project_statistics: cannot encode\n"), 1;
  frame.resize(*size);
  std::printf("{\"tokens\": %lld, \"bytes\": %zu, \"strips\": [", static_cast<long long>(view.tokens), frame.size());
  bool first = true;
  for (const int columns : {64, 128, 192, 256})
    for (const sluice::plane which : {sluice::plane::key, sluice::plane::value})
      print_strips(view, which, columns, first);
  std::printf("\n  ], \"tiles\": [");
  using watched = sluice::codec::standard::with_entropy<watched_rans>;
  const auto decoded = sluice::decoder<watched>(p).decode(frame, view);
  std::printf("\n  ]}\n");
  return decoded ? 0 : 1;
}
