// SPDX-License-Identifier: Apache-2.0
#include "../gguf.hpp"
#include "../config.hpp"
#include "../quants.hpp"
#include "../tokenizer.hpp"
#include "tiny_model.hpp"

#include <doctest/doctest.h>

#include <functional>
#include <random>
#include <string>
#include <vector>

using namespace engine;

namespace {

std::span<const std::byte> bytes_of(const std::string& s) { return std::as_bytes(std::span(s)); }

// What reading a model does to the directory of a file.
void read_all(const std::string& file) {
  const gguf g(bytes_of(file));
  model_config c = read_config(g);
  find_tensors(g, c);
  const tokenizer t(g);
}

file_errc error_of(const std::string& file) {
  try {
    read_all(file);
  } catch (const file_error& e) {
    return e.code;
  }
  FAIL("no error");
  return {};
}

std::string changed(std::string file, std::string_view what, std::string_view with) {
  const std::size_t at = file.find(what);
  REQUIRE(at != file.npos);
  return file.replace(at, what.size(), with);
}

template <class T>
std::string raw(T x) {
  return {reinterpret_cast<const char*>(&x), sizeof x};
}

struct golden {
  tensor_type type;
  const char* hex;
  std::vector<float> values;
};

const golden blocks[] = {
#include "quants_golden.inl"
};

}  // namespace

TEST_CASE("a file's keys and tensors are found as written") {
  const std::string file = tiny::make_gguf({});
  const gguf g(bytes_of(file));
  CHECK(g.text("general.architecture") == "llama");
  CHECK(g.number<int>("llama.block_count") == 2);
  CHECK(g.number<float>("llama.rope.freq_base") == 50000.f);
  CHECK(g.number<int>("llama.rope.freq_base") == std::nullopt);
  CHECK(g.number<int>("absent") == std::nullopt);
  CHECK(g.text("llama.block_count") == std::nullopt);
  CHECK(g.texts("tokenizer.ggml.tokens").size() == 300);
  CHECK(g.numbers<int>("tokenizer.ggml.token_type")[267] == 3);
  const tensor* t = g.find("blk.1.ffn_down.weight");
  REQUIRE(t);
  CHECK(t->type == tensor_type::q6_k);
  CHECK(t->rows == 64);
  CHECK(t->cols == 256);
  CHECK(t->row_bytes() == 210);
  CHECK(g.find("blk.2.ffn_down.weight") == nullptr);
  CHECK_NOTHROW(read_all(file));
}

TEST_CASE("every truncation is a named error") {
  const std::string file = tiny::make_gguf({.vocab = 280});
  const std::size_t directory = file.size() - gguf(bytes_of(file)).tensors().size() * 32;
  for (std::size_t n = 0; n < file.size(); n += n < 40000 ? 7 : 4099) {
    INFO("length ", n, " of ", directory);
    const file_errc e = error_of(file.substr(0, n));
    CHECK((e == file_errc::truncated));
  }
}

TEST_CASE("damage has a name") {
  const std::string file = tiny::make_gguf({});
  CHECK(error_of("not a model file at all") == file_errc::not_gguf);
  CHECK(error_of(changed(file, "GGUF" + raw(3u), "GGUF" + raw(9u))) == file_errc::unsupported_version);
  std::string counts = file;
  counts.replace(8, 8, raw(~0ull));
  CHECK(error_of(counts) == file_errc::truncated);
  counts = file;
  counts.replace(16, 8, raw(1ull << 62));
  CHECK(error_of(counts) == file_errc::truncated);
  CHECK(error_of(changed(file, raw(5ull) + "llama", raw(~0ull) + "llama")) == file_errc::truncated);
  CHECK(error_of(changed(file, "llama" + raw(17ull), "mamba" + raw(17ull))) == file_errc::unknown_architecture);
  CHECK(error_of(changed(file, "output_norm", "output_nerm")) == file_errc::missing);
  CHECK(error_of(changed(file, "output_norm.weight" + raw(1u) + raw(64ull),
                         "output_norm.weight" + raw(1u) + raw(63ull))) == file_errc::wrong_shape);
  CHECK(error_of(changed(file, "output_norm.weight" + raw(1u) + raw(64ull),
                         "output_norm.weight" + raw(1u) + raw(1ull << 60))) == file_errc::malformed);
  CHECK(error_of(changed(file, "output_norm.weight" + raw(1u) + raw(64ull),
                         "output_norm.weight" + raw(5u) + raw(64ull))) == file_errc::malformed);
  CHECK(error_of(changed(file, "output_norm.weight" + raw(1u) + raw(64ull) + raw(0u),
                         "output_norm.weight" + raw(1u) + raw(64ull) + raw(99u))) == file_errc::unknown_type);
  CHECK(error_of(changed(file, "attention.head_count" + raw(4u) + raw(4u),
                         "attention.head_count" + raw(4u) + raw(5u))) == file_errc::malformed);
  CHECK(error_of(changed(file, "attention.head_count" + raw(4u) + raw(4u),
                         "attention.head_count" + raw(4u) + raw(0u))) == file_errc::malformed);
  CHECK(error_of(changed(file, "block_count" + raw(4u) + raw(2u), "block_count" + raw(4u) + raw(3u))) ==
        file_errc::missing);
  CHECK(error_of(changed(file, "block_count" + raw(4u) + raw(2u), "block_count" + raw(4u) + raw(~0u))) ==
        file_errc::malformed);
  CHECK(error_of(changed(file, "smollm", "gptoss")) == file_errc::unsupported);
  CHECK(error_of(changed(file, "he ll", "he lz")) == file_errc::malformed);
  CHECK(error_of(changed(file, "eos_token_id" + raw(4u) + raw(268u), "eos_token_id" + raw(4u) + raw(300u))) ==
        file_errc::malformed);
}

TEST_CASE("random damage is survived") {
  const std::string file = tiny::make_gguf({.layers = 1, .vocab = 280});
  const std::uint64_t seed = 11;
  MESSAGE("seed ", seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 3000; ++i) {
    std::string bad = file;
    for (int edits = 1 + int(random() % 3); edits > 0; --edits) bad[random() % 9000] = char(random());
    try {
      read_all(bad);
    } catch (const file_error&) {
    }
  }
}

TEST_CASE("blocks become the floats that gguf-py makes of them") {
  for (const golden& g : blocks) {
    std::vector<std::byte> block;
    for (const char* p = g.hex; *p; p += 2) block.push_back(std::byte(std::stoi(std::string(p, 2), nullptr, 16)));
    REQUIRE(block.size() == block_of(g.type).bytes);
    REQUIRE(g.values.size() == block_of(g.type).elements);
    std::vector<float> got(g.values.size());
    dequantize(g.type, block.data(), got.data(), got.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      INFO("type ", int(g.type), " element ", i);
      CHECK(double(got[i]) == doctest::Approx(double(g.values[i])).epsilon(3e-6));
    }
  }
}
