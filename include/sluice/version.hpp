// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Library version; CMake reads it from here. Semantic versioning of the documented names.
#define SLUICE_VERSION_MAJOR 0
#define SLUICE_VERSION_MINOR 1
#define SLUICE_VERSION_PATCH 0
#define SLUICE_VERSION (SLUICE_VERSION_MAJOR * 10000 + SLUICE_VERSION_MINOR * 100 + SLUICE_VERSION_PATCH)

/// Version of the bitstream (format/FORMAT.md), independent of the library's.
/// A decoder refuses a frame with another major number, and one of version 0 with another minor number as well.
#define SLUICE_FORMAT_VERSION_MAJOR 0
#define SLUICE_FORMAT_VERSION_MINOR 4
