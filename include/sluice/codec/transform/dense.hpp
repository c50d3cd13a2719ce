// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/quantize/ternary.hpp>
#include <sluice/codec/transform/product.hpp>
#include <sluice/tensor/rotate.hpp>
#include <sluice/tensor/rows.hpp>
