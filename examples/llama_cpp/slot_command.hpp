// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "model.hpp"

#include <command.hpp>
#include <input_file.hpp>
#include <sluice/model/profile.hpp>
#include <threads.hpp>

#include <cstdio>
#include <filesystem>
#include <string>

// What the commands on slots share.

void add_slot_calibrate(program& p);

/// A model's file. Throws data_error over one that is no GGUF.
class model_file {
 public:
  explicit model_file(const std::string& path) try : bytes_(path), tensors_(bytes_.bytes(), true) {
  } catch (const engine::file_error& e) {
    throw data_error(path + ": " + e.what());
  }
  const engine::gguf& tensors() const noexcept { return tensors_; }

 private:
  engine::mapped_file bytes_;
  engine::gguf tensors_;
};

/// The profile that a call names, or that lies beside the model, or one without calibration of the model's shape; `name`
/// becomes what people call it. Throws where there is none, or it is of another model than the one that is named.
inline sluice::profile profile_for(const std::string& given, const std::string& model_path,
                                   const slot::model_facts& model, std::string& name) {
  name = given;
  if (name.empty() && !model_path.empty() && std::filesystem::exists(profile_beside(model_path)))
    name = profile_beside(model_path);
  if (!name.empty()) {
    sluice::profile p = load_profile(name);
    if (model.shape) {
      const sluice::model_shape &a = p.shape, &b = *model.shape;
      bool same = a.num_layers() == b.num_layers(), turned = true;
      for (int l = 0; same && l < a.num_layers(); ++l) {
        const sluice::layer_shape &x = a.layers[std::size_t(l)], &y = b.layers[std::size_t(l)];
        same = x.num_kv_heads == y.num_kv_heads && x.head_dim_k == y.head_dim_k && x.head_dim_v == y.head_dim_v &&
               (x.window > 0) == (y.window > 0);
        if (!same || x.absent() || a.ropes.empty()) continue;
        const sluice::rope &r = a.ropes[std::size_t(x.rope_index)], &s = b.ropes[std::size_t(y.rope_index)];
        turned = turned && std::abs(r.base - s.base) < 1e-3 * s.base && r.scaling == s.scaling &&
                 sluice::rotary_dims(r, x.head_dim_k) == sluice::rotary_dims(s, x.head_dim_k);
      }
      if (!same) throw data_error(name + ": " + sluice::to_string(sluice::status::wrong_shape) + " from " + model_path);
      if (!turned) throw data_error(name + ": another rotary embedding than that of " + model_path);
    }
    return p;
  }
  if (model_path.empty())
    throw usage_error("-p PROFILE or -m MODEL.gguf is needed, or --lossless (see sluice slot pack --help)");
  if (!model.shape) throw data_error(model_path + ": a profile is needed, for it does not tell " + model.missing);
  std::fprintf(stderr,
               "sluice: warning: no profile of %s: packing without calibration takes about twice the bytes (see sluice "
               "slot calibrate, engine calibrate)\n",
               model_path.c_str());
  name = "no profile";
  return sluice::profile::uncalibrated(*model.shape);
}
