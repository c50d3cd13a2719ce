// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <machine.hpp>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <utility>

// What tests and launchers call of the CUDA runtime. A stream does at once what it is given.

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorMemoryAllocation };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrMaxSharedMemoryPerMultiprocessor };
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
struct cuda_on_host_stream;
using cudaStream_t = cuda_on_host_stream*;

namespace cuda_on_host {
inline cudaError_t last_error = cudaSuccess;
/// Remembers an error for cudaGetLastError.
inline cudaError_t failed(cudaError_t e) {
  if (e != cudaSuccess) last_error = e;
  return e;
}
}  // namespace cuda_on_host

inline cudaError_t cudaGetLastError() {
  const cudaError_t e = cuda_on_host::last_error;
  cuda_on_host::last_error = cudaSuccess;
  return e;
}
inline cudaError_t cudaPeekAtLastError() { return cuda_on_host::last_error; }
inline const char* cudaGetErrorString(cudaError_t e) {
  return e == cudaSuccess ? "no error" : e == cudaErrorInvalidValue ? "invalid argument" : "out of memory";
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
/// An H100's.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr of, int) {
  *value = of == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 232448 : 233472;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaStreamCreate(cudaStream_t* s) {
  *s = nullptr;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }

/// Watched memory, see guarded.hpp.
template <class T>
cudaError_t cudaMalloc(T** p, std::size_t bytes) {
  const cuda_on_host::quiet q;
  *p = nullptr;
  if (bytes == 0) return cudaSuccess;
  auto piece = std::make_unique<cuda_on_host::guarded>(bytes, std::max<std::size_t>(16, alignof(T)));
  piece->use(bytes);
  *p = reinterpret_cast<T*>(piece->data());
  cuda_on_host::device_memory().emplace(piece->data(), std::move(piece));
  return cudaSuccess;
}
/// Ends the program where something was written beside the piece.
inline cudaError_t cudaFree(void* p) {
  const cuda_on_host::quiet q;
  if (p == nullptr) return cudaSuccess;
  auto& all = cuda_on_host::device_memory();
  const auto found = all.find(p);
  if (found == all.end()) return cuda_on_host::failed(cudaErrorInvalidValue);
  if (!found->second->intact())
    cuda_on_host::the_machine.fail("a kernel wrote beside a piece of %zu bytes of memory", found->second->size());
  all.erase(found);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t = nullptr) {
  return cudaMemcpy(to, from, bytes, kind);
}
inline cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  if (bytes > 0) std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t = nullptr) {
  return cudaMemset(to, value, bytes);
}
/// How much dynamic shared memory a kernel may have: 48 KB unless it was let have more.
template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int bytes) {
  if (bytes < 0 || static_cast<std::size_t>(bytes) > cuda_on_host::machine::most_shared)
    return cuda_on_host::failed(cudaErrorInvalidValue);
  cuda_on_host::the_machine.allowed[reinterpret_cast<const void*>(kernel)] = static_cast<std::size_t>(bytes);
  return cudaSuccess;
}
