// SPDX-License-Identifier: Apache-2.0
#pragma once

// Everything that decode_async() may be asked for: kernels of all presets that have any. `smallest`, `fp8`, `turboquant` and
// `cachegen_released` are decoded on hosts only.

#include <sluice/cuda/decode.cuh>
#include <sluice/cuda/entropy/cachegen.cuh>
#include <sluice/cuda/entropy/fixed_width.cuh>
#include <sluice/cuda/entropy/stored.cuh>
