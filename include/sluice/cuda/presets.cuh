// SPDX-License-Identifier: Apache-2.0
#pragma once

// The kernels' halves of all presets that have some: who decodes or encodes one of codec/presets.hpp on a device includes
// this. Nothing of a preset is compiled but what is used.
#include <sluice/cuda/decode.cuh>
#include <sluice/cuda/fixed_width.cuh>
#include <sluice/cuda/stored.cuh>
