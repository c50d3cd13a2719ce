// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/ptx.cuh>
#include <sluice/status.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

// Launches, by value: nothing here allocates, synchronises or queries. The tests' emulator has a file of the same name.

namespace sluice::cuda {

/// Most dynamic shared memory of a block: of the H100 and B200, and of the A100.
inline constexpr std::size_t max_shared = 232448, max_shared_sm80 = 166912;

/// Puts a kernel into a stream; nothing where there are no blocks. Errors: cuda_error.
template <class... Parameters, class... Arguments>
status launch(void (*kernel)(Parameters...), std::int64_t blocks, int threads, std::size_t shared, cudaStream_t stream,
              const Arguments&... arguments) {
  if (blocks == 0) return status::ok;
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), shared, stream>>>(Parameters(arguments)...);
  return cudaPeekAtLastError() == cudaSuccess ? status::ok : status::cuda_error;
}

/// Lets a kernel have more dynamic shared memory than 48 KB; once for each device, outside of a capture.
/// Errors: cuda_error.
template <class... Parameters>
status allow_shared(void (*kernel)(Parameters...), std::size_t bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)) ==
                 cudaSuccess
             ? status::ok
             : status::cuda_error;
}

}  // namespace sluice::cuda
