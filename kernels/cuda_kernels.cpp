// SPDX-License-Identifier: Apache-2.0
// Presets of sluice::cuda_kernels by name; cuda_presets.inc lists those that it was made of.
#include <cuda_presets.inc>
#include <sluice/cuda/kernels.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/model/profile.hpp>

#include <cstdint>
#include <cstring>

namespace sluice::cuda {

#define SLUICE_DECLARE(name) result<std::unique_ptr<any_model>> make_##name(const profile& p);
SLUICE_CUDA_PRESETS(SLUICE_DECLARE)
#undef SLUICE_DECLARE
#define SLUICE_DECLARE(name) result<std::unique_ptr<any_encoder_model>> make_##name##_encoder(const profile& p);
SLUICE_CUDA_ENCODERS(SLUICE_DECLARE)
#undef SLUICE_DECLARE

result<std::unique_ptr<any_model>> make_model(const char* preset, const void* bytes, std::size_t size) {
  const auto p = profile::parse({static_cast<const std::byte*>(bytes), size});
#define SLUICE_CASE(name) \
  if (std::strcmp(preset, #name) == 0) return p ? make_##name(*p) : result<std::unique_ptr<any_model>>(p.status());
  SLUICE_CUDA_PRESETS(SLUICE_CASE)
#undef SLUICE_CASE
  return status::not_found;
}

result<std::unique_ptr<any_encoder_model>> make_encoder_model(const char* preset, const void* bytes, std::size_t size) {
  const auto p = profile::parse({static_cast<const std::byte*>(bytes), size});
#define SLUICE_CASE(name)              \
  if (std::strcmp(preset, #name) == 0) \
    return p ? make_##name##_encoder(*p) : result<std::unique_ptr<any_encoder_model>>(p.status());
  SLUICE_CUDA_ENCODERS(SLUICE_CASE)
#undef SLUICE_CASE
  return status::not_found;
}

status read_sizes(const void* frame, std::size_t size, request& r) noexcept {
  std::uint32_t magic = 0;
  if (size >= sizeof magic) {
    std::memcpy(&magic, frame, sizeof magic);
    if (magic != frame_magic) return status::not_a_frame;
  }
  frame_header h;
  if (size < sizeof h) return status::truncated;
  std::memcpy(&h, frame, sizeof h);
  if (const status s = sluice::detail::check_header(h, header_checksum(h)); s != status::ok) return s;
  r.tokens = h.tokens;
  r.tile_tokens = h.tile_tokens;
  return status::ok;
}

}  // namespace sluice::cuda
