// SPDX-License-Identifier: Apache-2.0
// A header that is accepted describes tensors that tile the file; written again it is accepted again and says the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <safetensors.hpp>
#include <span>
#include <string>

namespace {
void require(bool fact) {
  if (!fact) std::abort();
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  safetensors::header header;
  if (safetensors::parse_header(bytes, size, header)) return 0;

  safetensors::writer writer(header.meta);
  std::uint64_t at = header.data_begin;
  for (const safetensors::tensor& t : header.tensors) {
    require(header.data_begin + t.begin == at && t.end <= size - header.data_begin);
    at += t.size_bytes();
    const bool added = !writer.add(t.name, t.type, t.shape, bytes.subspan(header.data_begin + t.begin, t.size_bytes()));
    require(added);
  }
  require(at == size);

  const std::string front = writer.header_bytes();
  safetensors::header again;
  require(
      !safetensors::parse_header(std::as_bytes(std::span(front)), front.size() + (size - header.data_begin), again));
  require(again.meta == header.meta && again.tensors.size() == header.tensors.size());
  for (std::size_t i = 0; i < again.tensors.size(); ++i)
    require(again.tensors[i].name == header.tensors[i].name && again.tensors[i].shape == header.tensors[i].shape &&
            again.tensors[i].type == header.tensors[i].type && again.tensors[i].begin == header.tensors[i].begin);
  return 0;
}
