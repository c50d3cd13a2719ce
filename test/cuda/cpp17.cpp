// SPDX-License-Identifier: Apache-2.0
// An engine of C++17 without nvcc: sluice::cuda_kernels through sluice/cuda/kernels.hpp. What a host can say is checked
// without a GPU; with one, a golden frame is decoded. Exits 77 where that was left out.
#include <cuda_runtime_api.h>
#include <sluice/cuda/kernels.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

static_assert(__cplusplus < 202002L, "this is for C++17");

namespace {

namespace cuda = sluice::cuda;
using sluice::status;

int failures = 0;
#define EXPECT(...) \
  if (!(__VA_ARGS__)) ++failures, std::printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #__VA_ARGS__)

std::vector<char> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// An array on the device.
struct on_device {
  void* p = nullptr;
  explicit on_device(std::size_t n, const void* from = nullptr) {
    EXPECT(cudaMalloc(&p, n + 1) == cudaSuccess && cudaMemset(p, 0, n + 1) == cudaSuccess);
    if (from) EXPECT(cudaMemcpy(p, from, n, cudaMemcpyHostToDevice) == cudaSuccess);
  }
  ~on_device() { cudaFree(p); }
  on_device(const on_device&) = delete;
  std::byte* bytes() const { return static_cast<std::byte*>(p); }
};

float value_of(std::uint16_t f16) {
  const float magnitude = (f16 >> 10 & 31) ? std::ldexp(1024.f + float(f16 & 1023), (f16 >> 10 & 31) - 25)
                                           : std::ldexp(float(f16 & 1023), -24);
  return f16 & 0x8000 ? -magnitude : magnitude;
}

}  // namespace

int main() {
  const std::string golden = SLUICE_SOURCE_DIR "/test/golden/";
  const std::vector<char> profile = read(golden + "small.profile"), frame = read(golden + "standard.slc");
  EXPECT(cuda::make_model("none", profile.data(), profile.size()).status() == status::not_found);
  EXPECT(cuda::make_model("standard", profile.data(), profile.size() / 2).status() == status::corrupt_profile);
  auto made = cuda::make_model("standard", profile.data(), profile.size());
  EXPECT(made.has_value());
  if (!made) return 1;
  cuda::any_model& model = **made;
  EXPECT(model.image() && model.image_size() % 16 == 0 && model.image_size() > profile.size() / 2);

  cuda::request r;
  EXPECT(cuda::read_sizes(frame.data(), 3, r) == status::truncated);
  EXPECT(cuda::read_sizes(frame.data(), 87, r) == status::truncated);
  EXPECT(cuda::read_sizes(profile.data(), profile.size(), r) == status::not_a_frame);
  std::vector<char> damaged = frame;
  damaged[40] = static_cast<char>(damaged[40] ^ 1);
  EXPECT(cuda::read_sizes(damaged.data(), damaged.size(), r) == status::corrupt_header);
  EXPECT(cuda::read_sizes(frame.data(), frame.size(), r) == status::ok && r.tokens == 40);

  constexpr int heads = 2, dim = 32, tokens = 40, plane = tokens * heads * dim * 2;
  r.size = frame.size();
  r.cache.num_layers = 1;
  r.cache.num_kv_heads = heads;
  r.cache.capacity = r.cache.tokens = tokens;
  r.cache.k.head_dim = dim;
  r.cache.k.element_stride = 2;
  r.cache.k.head_stride = 2 * dim;
  r.cache.k.token_stride = 2 * dim * heads;
  r.cache.k.base = reinterpret_cast<std::byte*>(plane);  // not looked at before there is a device
  r.cache.v = r.cache.k;
  auto one = model.decode_workspace_bytes(&r, 1);
  EXPECT(one.has_value() && *one > plane);
  const cuda::request twice[] = {r, r};
  EXPECT(*model.decode_workspace_bytes(twice, 2) > *one);
  EXPECT(model.decode_async(nullptr, &r, 1, nullptr, 0, nullptr) == status::invalid_argument);
  EXPECT(model.decode_async(nullptr, &r, 0, nullptr, 0, nullptr) == status::ok);

  EXPECT(cuda::make_encoder_model("exact", profile.data(), profile.size()).status() == status::not_found);
  auto made_encoder = cuda::make_encoder_model("standard", profile.data(), profile.size());
  EXPECT(made_encoder.has_value());
  if (!made_encoder) return 1;
  cuda::any_encoder_model& encoder = **made_encoder;
  cuda::encode_request e;
  e.cache = r.cache;
  EXPECT(encoder.image_size() > model.image_size());
  EXPECT(encoder.max_frame_size(e) > 2 * plane);
  EXPECT(encoder.encode_workspace_bytes(&e, 1).has_value() && *encoder.encode_workspace_bytes(&e, 1) > 2 * plane);
  EXPECT(encoder.encode_async(nullptr, &e, 1, nullptr, 0, nullptr) == status::invalid_argument);

  if (cudaFree(nullptr) != cudaSuccess) {
    std::printf("skipped: no GPU answers; %d failures on the host\n", failures);
    return failures ? 1 : 77;
  }
  EXPECT(model.init() == status::ok);
  one = model.decode_workspace_bytes(&r, 1);
  const on_device image(model.image_size(), model.image()), bytes(frame.size(), frame.data()), workspace(*one);
  const on_device cache(2 * plane), report(sizeof(cuda::report));
  r.frame = bytes.bytes();
  r.cache.k.base = cache.bytes();
  r.cache.v.base = cache.bytes() + plane;
  r.out = static_cast<cuda::report*>(report.p);
  EXPECT(model.decode_async(image.bytes(), &r, 1, workspace.bytes(), *one, nullptr) == status::ok);
  cuda::report said{};
  std::vector<std::uint16_t> got(2 * plane / 2), expected(got.size());
  EXPECT(cudaMemcpy(&said, report.p, sizeof said, cudaMemcpyDeviceToHost) == cudaSuccess);
  EXPECT(cudaMemcpy(got.data(), cache.p, 2 * plane, cudaMemcpyDeviceToHost) == cudaSuccess);
  EXPECT(cuda::status_of(said.worst) == status::ok && said.tiles > 0 && said.damaged == 0);
  const std::vector<char> values = read(golden + "standard.values");
  EXPECT(values.size() == 2 * plane);
  std::memcpy(expected.data(), values.data(), values.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    if (got[i] != expected[i])  // a NaN among the exact tokens has its bits
      EXPECT(std::abs(value_of(got[i]) - value_of(expected[i])) <=
             2e-3f * std::fmax(1.f, std::abs(value_of(expected[i]))));

  // And back into a frame, which is about as large.
  EXPECT(encoder.init() == status::ok);
  const std::size_t most = encoder.max_frame_size(e), room = *encoder.encode_workspace_bytes(&e, 1);
  const on_device encoder_image(encoder.image_size(), encoder.image()), again(most), scratch(room);
  const on_device answer(sizeof(cuda::encoded));
  e.cache = r.cache;
  e.frame = again.bytes();
  e.capacity = most;
  e.out = static_cast<cuda::encoded*>(answer.p);
  EXPECT(encoder.encode_async(encoder_image.bytes(), &e, 1, scratch.bytes(), room, nullptr) == status::ok);
  cuda::encoded coded{};
  EXPECT(cudaMemcpy(&coded, answer.p, sizeof coded, cudaMemcpyDeviceToHost) == cudaSuccess);
  EXPECT(coded.state == status::ok && coded.size > frame.size() / 2 && coded.size < frame.size() * 3 / 2);
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
