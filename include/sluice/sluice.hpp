// SPDX-License-Identifier: Apache-2.0
#pragma once

// All that a host program needs; no CUDA, no Eigen, no third-party header.

#include <sluice/config.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/shape.hpp>
#include <sluice/tensor/view.hpp>
#include <sluice/version.hpp>
#include <sluice/warp/targets.hpp>
