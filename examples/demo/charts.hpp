// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <facts.hpp>

#include <string>

// The plots of the report, each an <svg> whose colours are classes of the page: l0 to l3 for levels, exact, fixed,
// zstd and raw for the others, k and v for keys and values.

std::string rate_error_chart(const facts& f);
std::string delivery_chart(const facts& f);
std::string bits_chart(const facts& f);
std::string overhead_chart(const facts& f);
std::string layers_chart(const facts& f);

/// The class of a codec's colour.
std::string colour_of(const codec_row& r);
