// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <slc_file.hpp>
#include <sluice/model/profile.hpp>

#include <vector>

/// Bytes that an ideal entropy coder would need at each level for the symbols of a file under the tables it was coded
/// with; exact tokens, exceptions and a tile's own classes count as payload. Empty where the file is not of the standard codec or not
/// whole.
std::vector<double> ideal_bytes(slc_file& file, const sluice::profile& profile);
