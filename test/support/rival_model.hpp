// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/calibrate/preset_sections.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/tensor/view.hpp>

#include <doctest/doctest.h>
#include <safetensors.hpp>
#include <string>
#include <vector>

/// Models for published methods that are calibrated.
namespace rivals {

using namespace sluice;

/// The capture in test/data, all of its tokens, and two profiles of its model without sections of presets: `tuned` that
/// of test/data, `bare` without calibration, all heads of a layer a group.
struct capture {
  safetensors::file file;
  std::vector<std::byte*> k, v;
  kv_view view;
  profile tuned = *profile::load(SLUICE_TEST_DATA "/smollm2.profile");
  model_shape shape = tuned.shape;
  profile bare = profile::uncalibrated(shape);

  capture() {
    REQUIRE_FALSE(bool(file.open(SLUICE_TEST_DATA "/smollm2_sample.safetensors")));
    for (int l = 0; l < 30; ++l) {
      k.push_back(file.bytes(*file.find("k." + std::to_string(l))).data());
      v.push_back(file.bytes(*file.find("v." + std::to_string(l))).data());
    }
    view.num_layers = 30;
    view.num_kv_heads = 3;
    view.tokens = view.capacity = 256;
    for (plane_view* p : {&view.k, &view.v}) {
      p->head_dim = 64;
      p->element_stride = 2;
      p->head_stride = 128;
      p->token_stride = 384;
    }
    view.k.layer_bases = k.data();
    view.v.layer_bases = v.data();
    REQUIRE(validate(view) == status::ok);
    for (plane_profile& q : bare.planes) q.group_width = q.width;
  }

  /// A profile with the section of one calibrator as well, which has seen the first half of the tokens.
  template <class Calibrator, class... Settings>
  profile with(const profile& base, Settings... settings) const {
    Calibrator c(base, settings...);
    REQUIRE(c.add(view.slice(0, 128)) == status::ok);
    auto section = c.finish();
    REQUIRE(section);
    profile p = base;
    p.set_section(std::move(*section));
    return p;
  }
};

inline const capture& known() {
  static const capture c;
  return c;
}

}  // namespace rivals
