// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/model/profile.hpp>
#include <sluice/tensor/view.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <safetensors.hpp>
#include <string>
#include <utility>
#include <vector>

/// The capture in test/data as an engine's memory, and the profile that was calibrated for its model.
struct real_cache {
  safetensors::file file;
  sluice::profile model;
  std::vector<std::byte*> bases[2];
  sluice::kv_view view;

  real_cache() {
    REQUIRE_FALSE(bool(file.open(SLUICE_TEST_DATA "/smollm2_sample.safetensors")));
    model = sluice::profile::load(SLUICE_TEST_DATA "/smollm2.profile").value();
    const sluice::layer_shape& s = model.shape.layers[0];  // all are alike
    view.num_layers = model.shape.num_layers();
    view.num_kv_heads = s.num_kv_heads;
    view.tokens = view.capacity = file.find("k.0")->shape[0];
    for (const sluice::plane which : {sluice::plane::key, sluice::plane::value}) {
      auto& at = bases[int(which)];
      for (int l = 0; l < view.num_layers; ++l)
        at.push_back(file.bytes(*file.find((which == sluice::plane::key ? "k." : "v.") + std::to_string(l))).data());
      sluice::plane_view& v = which == sluice::plane::key ? view.k : view.v;
      v.layer_bases = at.data();
      v.head_dim = s.head_dim(which);
      v.element_stride = 2;
      v.head_stride = 2 * v.head_dim;
      v.token_stride = v.head_stride * s.num_kv_heads;
    }
  }
  real_cache(const real_cache&) = delete;
};
