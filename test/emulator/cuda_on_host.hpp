// SPDX-License-Identifier: Apache-2.0
#pragma once

// Enough of CUDA for the kernels of include/sluice/cuda to run, thread by thread, on machines without a GPU. This folder
// comes before include/ in the search path: its sluice/cuda/ptx.cuh and launch.cuh, and what looks like CUDA's headers,
// stand for the real ones. Include this file before any header with kernels.
//
//   threads    contexts on one core, 1-D blocks one after the other; taken in the order of the_machine.how (up, down, or
//              random by the_machine.seed), so that what works by luck in one fails in another
//   meetings   lanes that meet in different operations, or never, end the program and say where
//   shared     exactly as large as the launch says; what lies beside cannot be touched; begins as 0x7f in every byte.
//              A __shared__ variable is a static one: it keeps what the block before left in it
//   cp.async   arrives when it is waited for, and not before
//   memory     of cudaMalloc is bounded and filled in the same way
//   -fsanitize=thread    every thread is one to the sanitizer. __syncwarp and __syncthreads order memory; votes and
//              shuffles do not, as on a GPU. Blocks count as one after the other, unless the_machine.blocks_race
//   -fsanitize=address   knows of all stacks and pieces of memory

#define __device__
#define __host__
#define __global__
#define __constant__
#define __grid_constant__
#define __shared__ static
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __maxnreg__(...)

#include <cuda_runtime.h>
#include <arithmetic.hpp>
#include <machine.hpp>
#include <operations.hpp>

using cuda_on_host::blockDim;
using cuda_on_host::blockIdx;
using cuda_on_host::gridDim;
using cuda_on_host::threadIdx;
