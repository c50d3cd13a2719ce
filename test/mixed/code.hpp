// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/sluice.hpp>

#include <span>
#include <vector>

/// Frames of `views` in several codecs and what they decode to, one after the other. The first is made by a translation
/// unit that compiles the bodies, the second by one that links sluice::kernels.
std::vector<std::byte> code_compiled(const sluice::profile& p, std::span<const sluice::kv_view> views, sluice::isa on);
std::vector<std::byte> code_linked(const sluice::profile& p, std::span<const sluice::kv_view> views, sluice::isa on);
