// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <facts.hpp>
#include <sluice/sluice.hpp>

#include <algorithm>
#include <cstdint>
#include <span>

/// Adds what a tile of one pass holds; `base` is the opened tile of pass 0, which later passes refer to.
inline void account_tile(std::span<const std::uint8_t> bytes, int pass, int tokens, int width, int element_size,
                         sluice::detail::base_tile& base, pass_bytes& to) {
  using namespace sluice::detail;
  if (bytes.empty()) return;
  std::size_t stream = 0, exact = 0, patches = 0, heads = 0;
  if (pass == 0) {
    if (parse_tile(bytes, tokens, width, std::size_t(width * element_size), base) != sluice::status::ok) return;
    stream = base.stream.size();
    heads = sizeof(tile_head);
    exact = base.exact_index.size() + base.exact_rows.size();
    patches = base.deltas.size() + (base.delta_blocks ? 4 : 0) + base.exceptions.size() + base.mean.size() +
              base.classes.size() + (base.classes.empty() ? 0 : 4);
  } else {
    refinement_tile t;
    if (parse_refinement(bytes, base.rows(), width, t) != sluice::status::ok) return;
    stream = t.stream.size();
    heads = sizeof(refinement_head);
    patches = t.exceptions.size();
  }
  const std::size_t states = std::min<std::size_t>(stream, std::size_t(rans_state_bytes));
  to.stream += stream - states;
  to.states += states;
  to.exact += exact;
  to.patches += patches;
  to.heads += heads;
  to.padding += bytes.size() - stream - exact - patches - heads;
}

/// Takes an undamaged frame of the standard codec apart.
inline byte_account account_of(std::span<const std::byte> frame, const sluice::frame_index& index) {
  using sluice::plane;
  byte_account a;
  const sluice::frame_header& h = index.header();
  a.index = std::size_t(index.payload_offset());
  a.passes.resize(h.passes);
  a.layers.assign(h.passes, std::vector<std::array<std::size_t, 2>>(h.layers));
  for (int layer = 0; layer < h.layers; ++layer)
    for (plane which : {plane::key, plane::value}) {
      const int p = int(which);
      const sluice::shape_run& s = index.shape_of(layer);
      for (int tile = 0; tile < index.token_tiles(); ++tile)
        for (int g = 0; g < s.groups(p); ++g) {
          sluice::detail::base_tile base;
          for (int pass = 0; pass < h.passes; ++pass) {
            const sluice::byte_range r = index.range(index.ordinal(pass, {layer, which, tile, g}));
            a.layers[std::size_t(pass)][std::size_t(layer)][std::size_t(p)] += std::size_t(r.size());
            account_tile({reinterpret_cast<const std::uint8_t*>(frame.data()) + r.begin, std::size_t(r.size())}, pass,
                         index.tokens_of(tile), std::min<int>(s.group_width[p], s.width(p) - g * s.group_width[p]),
                         sluice::size_of(index.type(layer, which)), base, a.passes[std::size_t(pass)]);
          }
        }
    }
  return a;
}
