// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/ptx.cuh>
#include <sluice/status.hpp>

#include <cuda_on_host.hpp>

#include <cstddef>
#include <cstdint>

// The library's file of this name, for the machine of cuda_on_host.hpp: a kernel has run when launch() returns.

namespace sluice::cuda {

inline constexpr std::size_t max_shared = 232448, max_shared_sm80 = 166912;

template <class... Parameters, class... Arguments>
status launch(void (*kernel)(Parameters...), std::int64_t blocks, int threads, std::size_t shared, cudaStream_t,
              const Arguments&... arguments) {
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "parameters of a kernel");
  if (blocks == 0) return status::ok;
  auto& machine = cuda_on_host::the_machine;
  if (blocks < 0 || blocks > INT32_MAX || threads < 1 || threads > 1024 ||
      shared > machine.allowed_shared(reinterpret_cast<const void*>(kernel)))
    cuda_on_host::failed(cudaErrorInvalidValue);
  if (cudaPeekAtLastError() != cudaSuccess) return status::cuda_error;
  auto body = [&] { kernel(Parameters(arguments)...); };
  machine.run(static_cast<unsigned>(blocks), static_cast<unsigned>(threads), shared, body);
  return status::ok;
}

template <class... Parameters>
status allow_shared(void (*kernel)(Parameters...), std::size_t bytes) {
  if (bytes > INT32_MAX) return status::cuda_error;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)) ==
                 cudaSuccess
             ? status::ok
             : status::cuda_error;
}

}  // namespace sluice::cuda
