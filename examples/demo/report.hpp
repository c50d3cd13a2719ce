// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <facts.hpp>
#include <resume.hpp>
#include <streaming.hpp>

#include <string>

/// The report: one HTML file that needs nothing else, with plots as SVG, in light and dark.
std::string report(const facts& f, const conversation& c, const streaming& s);
