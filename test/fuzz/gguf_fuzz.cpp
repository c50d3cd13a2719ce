// SPDX-License-Identifier: Apache-2.0
// Model files of the engine as untrusted bytes: directory, hyper-parameters, tensors by role, blocks of weights, vocabulary.
#include "../../examples/engine/config.hpp"
#include "../../examples/engine/gguf.hpp"
#include "../../examples/engine/quants.hpp"
#include "../../examples/engine/tokenizer.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::uint8_t> input(data, size);
  try {
    const engine::gguf file(std::as_bytes(input));
    for (const auto& [name, t] : file.tensors()) {
      if (t.data + t.rows * t.row_bytes() > std::as_bytes(input).data() + size) std::abort();
      const std::size_t n = std::min<std::size_t>(t.cols, 4096);  // whole blocks of any type
      std::vector<float> row(n);
      engine::dequantize(t.type, t.row(t.rows - 1), row.data(), n);
    }
    try {
      engine::model_config config = engine::read_config(file);
      engine::find_tensors(file, config);
      engine::kv_shape(config);
    } catch (const engine::file_error&) {
    }
    const engine::tokenizer text(file);
    const std::string_view sample(reinterpret_cast<const char*>(data), std::min<std::size_t>(size, 256));
    for (const std::int32_t t : text.encode(sample)) {
      if (t < 0 || t >= text.size()) std::abort();
      text.decode(t);
    }
  } catch (const engine::file_error&) {
  }
  return 0;
}
