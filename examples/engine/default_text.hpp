// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace engine {

/// A text to calibrate on where none is given: the documents of this project, some 25,000 tokens.
std::string_view default_text() noexcept;

}  // namespace engine
