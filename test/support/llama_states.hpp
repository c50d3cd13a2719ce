// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/tensor/half.hpp>
#include <sluice/tensor/view.hpp>

#include <../examples/llama_cpp/blocks.hpp>
#include <../examples/llama_cpp/state.hpp>

#include <cstdint>
#include <string>
#include <vector>

/// Saved states as llama.cpp writes them, of caches that tests have.
namespace llama_states {

using sluice::plane;

/// A cell: its position, and the sequences that it belongs to.
struct cell {
  std::int32_t position = 0;
  std::vector<std::int32_t> sequences{0};
  std::int64_t token = 0;  ///< of the cache that it is a copy of
};

/// What to write, and how.
struct form {
  enum kinds { slot, session, sequence_bytes, context_bytes } kind = slot;
  std::uint32_t version = 4;             ///< of a slot; a session's is 7 more
  bool turns = true;                     ///< whether caches name their Hadamard matrices
  std::int32_t type = ::slot::type_f16;  ///< of K and V
  bool v_trans = false;
  int turn = 0;        ///< size of the Hadamard matrices
  int cell_extra = 0;  ///< bytes behind each cell's head
  bool values = true;
  std::vector<std::vector<cell>> streams;  ///< cells of each
  std::vector<std::vector<int>> layers;    ///< of each cache
  int recurrent_layers = 0;                ///< behind the caches
  std::string architecture = "llama";
};

class writer {
 public:
  explicit writer(std::vector<std::byte>& out) : out_(out) {}
  template <class T>
  void put(const T& x) {
    const auto* p = reinterpret_cast<const std::byte*>(&x);
    out_.insert(out_.end(), p, p + sizeof x);
  }
  void fill(std::size_t n, int with) { out_.insert(out_.end(), n, std::byte(with)); }

 private:
  std::vector<std::byte>& out_;
};

/// Elements of one token of one layer, as floats.
inline std::vector<float> row(const sluice::kv_view& v, plane which, int layer, std::int64_t token) {
  std::vector<float> x;
  for (int h = 0; h < v.num_kv_heads; ++h)
    for (int e = 0; e < v[which].head_dim; ++e)
      x.push_back(sluice::load_element(v.at(which, layer, token, h, e), v[which].type));
  return x;
}

/// `from` has all layers of the model.
inline std::vector<std::byte> write(const form& f, const sluice::kv_view& from) {
  std::vector<std::byte> out;
  writer w(out);
  const auto u32 = [&](auto x) { w.put(std::uint32_t(x)); };
  std::size_t cells = 0;
  for (const auto& s : f.streams) cells += s.size();
  if (f.kind == form::slot || f.kind == form::session) {
    u32(f.kind == form::slot ? 0x67677371 : 0x6767736e);
    u32(f.version + (f.kind == form::session ? 7 : 0));
    u32(cells);
    for (std::size_t i = 0; i < cells; ++i) u32(i * 31 % 1009);
  } else if (f.kind == form::sequence_bytes) {
    u32(0xaf143cd8), u32(0);
  }
  if (f.kind == form::session || f.kind == form::context_bytes) {
    u32(f.architecture.size());
    for (const char c : f.architecture) w.put(c);
  }
  for (const std::vector<int>& layers : f.layers) {
    u32(f.streams.size());
    for (const std::vector<cell>& stream : f.streams) {
      u32(stream.size());
      if (stream.empty()) continue;
      for (const cell& c : stream) {
        w.put(c.position), u32(c.sequences.size());
        w.fill(std::size_t(f.cell_extra), c.position & 255);
        for (const std::int32_t s : c.sequences) w.put(s);
      }
      u32(f.v_trans), u32(layers.size());
      if (f.turns) u32(f.turn), u32(f.turn);
      for (const plane which : {plane::key, plane::value}) {
        if (which == plane::value && !f.values) continue;
        const int width = from.num_kv_heads * from[which].head_dim;
        const bool floats = f.type == ::slot::type_f32 || f.type == ::slot::type_f16 || f.type == ::slot::type_bf16;
        const sluice::dtype type = f.type == ::slot::type_f32    ? sluice::dtype::f32
                                   : f.type == ::slot::type_bf16 ? sluice::dtype::bf16
                                                                 : sluice::dtype::f16;
        for (const int l : layers) {
          w.put(f.type);
          const bool transposed = which == plane::value && f.v_trans;
          if (transposed)
            u32(size_of(type)), u32(width);
          else
            w.put(std::uint64_t(floats                        ? width * size_of(type)
                                : f.type == ::slot::type_q8_0 ? width / 32 * 34
                                                              : width / 32 * 18));
          std::vector<std::vector<float>> rows;
          for (const cell& c : stream) rows.push_back(row(from, which, l, c.token));
          const auto put = [&](float x) {
            std::byte b[4];
            store_element(b, type, x);
            for (int i = 0; i < size_of(type); ++i) w.put(b[i]);
          };
          if (transposed) {
            for (int e = 0; e < width; ++e)
              for (const auto& x : rows) put(x[std::size_t(e)]);
            continue;
          }
          for (auto& x : rows) {
            if (floats) {
              for (const float y : x) put(y);
              continue;
            }
            if (f.turn) ::slot::detail::hadamard(x.data(), width, f.turn);
            std::vector<std::byte> blocks(std::size_t(width / 32 * 34));
            ::slot::detail::store_q8_0(x.data(), blocks.data(), width);
            if (f.type != ::slot::type_q8_0) blocks.resize(std::size_t(width / 32 * 18));  // some other type's bytes
            out.insert(out.end(), blocks.begin(), blocks.end());
          }
        }
      }
    }
  }
  if (f.recurrent_layers) {
    u32(1), w.put(std::int32_t(cells) - 1), u32(0);  // one cell, at the last position
    u32(0), u32(f.recurrent_layers);
    for (int i = 0; i < 2 * f.recurrent_layers; ++i) {
      w.put(std::int32_t{0}), w.put(std::uint64_t{48});
      for (int j = 0; j < 12; ++j) w.put(float(i) + 0.25f * float(j));
    }
  }
  return out;
}

}  // namespace llama_states
