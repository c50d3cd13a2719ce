// SPDX-License-Identifier: Apache-2.0
#pragma once

// All that a host program needs; no CUDA, no Eigen, no third-party header.

#include <sluice/codec/budget.hpp>
#include <sluice/codec/codec.hpp>
#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>
#include <sluice/codec/fit.hpp>
#include <sluice/codec/instances.hpp>
#include <sluice/codec/presets.hpp>
#include <sluice/codec/width/document_steps.hpp>
#include <sluice/config.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/model/pairs.hpp>
#include <sluice/model/position.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/status.hpp>
#include <sluice/stream/plan/plan.hpp>
#include <sluice/stream/plan/policy/cachegen.hpp>
#include <sluice/stream/plan/policy/progressive_cake.hpp>
#include <sluice/tensor/const_layouts.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/layouts.hpp>
#include <sluice/tensor/rope.hpp>
#include <sluice/tensor/shape.hpp>
#include <sluice/tensor/view.hpp>
#include <sluice/version.hpp>

/// \namespace sluice
/// Caches, frames, profiles, encoder and decoder.

/// \namespace sluice::layouts
/// Views of the memory of engines, by their names.

/// \namespace sluice::codec
/// Codecs: basic_codec, stored_codec and the presets.

/// \namespace sluice::stream
/// Plans, stores and the executor: a cache that comes over a link before a deadline.

/// \namespace sluice::stream::policy
/// Planner policies.

/// \namespace sluice::stream::placement_policies
/// Placement policies.

/// \namespace sluice::cuda
/// The same stages on a GPU.
