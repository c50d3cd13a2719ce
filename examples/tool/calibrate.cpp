// SPDX-License-Identifier: Apache-2.0
#include <capture_file.hpp>
#include <commands.hpp>
#include <input_file.hpp>
#include <output_file.hpp>
#include <sluice/calibrate/preset_sections.hpp>
#include <threads.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

namespace {

struct calibrate_arguments {
  std::vector<std::string> captures, presets;
  std::string out, sensitivity, name;
  int heads_per_basis = 0;
  int threads = default_threads();
  double target_kl = sluice::calibration_options{}.target_kl;
  bool shape_only = false, as_json = false;
};

void describe_calibrate(option_list& c, calibrate_arguments& a) {
  c.add_option("CAPTURE", a.captures,
               "safetensors files, see below; 8 x 1,024 tokens of what the model will read, or more")
      .required();
  c.add_option("-o,--output", a.out, "the profile to write").required();
  c.add_option("--sensitivity", a.sensitivity,
               "JSON {\"k\": [...], \"v\": [...]}, nats per unit of squared error of each layer; without, estimated");
  c.add_option("--heads-per-basis", a.heads_per_basis, "0 = all heads of a layer while they span at most 256 channels")
      .range(0, 4);
  c.add_option("--target-kl", a.target_kl, "nats of KL divergence at level 1").range(1e-9, 10.0);
  c.add_option("--threads", a.threads, "changes the time it takes, not the profile").range(1, 256);
  c.add_option("--name", a.name, "of the model, for people; without, that in the first capture's metadata (model)");
  c.add_flag("--shape-only", a.shape_only,
             "a profile without calibration, of the first capture's shape: twice the bytes, at once");
  c.add_option("--for", a.presets,
               "presets, separated by commas, that are to find in the profile what they need of their own: "
               "cachegen_paper and others of published methods")
      .delimiter(',');
  c.add_flag("--json", a.as_json, "the result as JSON");
  static const std::string notes = std::string(capture_form) +
                                   "\nFor the weights of errors, where they are: q2.{layer} F32 [kv_heads, head_dim] "
                                   "(mean square of un-rotated queries),\n"
                                   "wo.{layer} F32 [kv_heads, head_dim, head_dim] (sum of Wo^T Wo), q.{layer} F16 "
                                   "[tokens, heads, head_dim] (last queries).";
  c.footer(notes);
}

void read_sensitivities(const std::string& path, const sluice::model_shape& shape, sluice::calibration_options& o) {
  const std::vector<std::byte> bytes = read_file(path);
  const char* text = reinterpret_cast<const char*>(bytes.data());
  const json s = json::parse(text, text + bytes.size(), nullptr, false);
  for (const char* which : {"k", "v"}) {
    auto& list = *which == 'k' ? o.sensitivity_k : o.sensitivity_v;
    if (!s.is_object() || !s.contains(which) || !s[which].is_array() || int(s[which].size()) != shape.num_layers())
      throw data_error(path + ": needs \"k\" and \"v\", lists of one number for each of " +
                       std::to_string(shape.num_layers()) + " layers");
    for (const json& x : s[which]) {
      if (!x.is_number()) throw data_error(path + ": holds something that is no number");
      list.push_back(x.get<double>());
    }
  }
}

void open(capture_file& file, const std::string& path) {
  if (const auto wrong = file.open(path)) throw data_error(*wrong);
}

std::string list_of(const std::vector<std::string>& words) {
  std::string all;
  for (std::size_t i = 0; i < words.size() && i < 8; ++i) all += " " + words[i];
  return words.size() > 8 ? all + " ..." : all;
}

// What a capture leaves open, on stderr.
void warn(const capture_file& file, const std::string& path) {
  std::vector<std::string> silent;
  for (std::size_t l = 0; l < file.layout().layers.size(); ++l)
    if (const capture_layout::layer& at = file.layout().layers[l]; at.k && !at.says_rope)
      silent.push_back(std::to_string(l));
  if (!silent.empty())
    std::fprintf(
        stderr,
        "sluice: warning: %s: says nothing about the rotary embedding of layers%s; they are taken to have none, which "
        "costs bytes and quality if they have (metadata rope_base and others, see --help)\n",
        path.c_str(), list_of(silent).c_str());
  if (!file.ignored().empty())
    std::fprintf(stderr, "sluice: warning: %s: not of the form that calibration takes, and left aside:%s\n",
                 path.c_str(), list_of(file.ignored()).c_str());
}

// Why no profile could be made of captures, where their values tell; empty where they do not.
std::string complaint(const std::vector<std::string>& paths, int sinks) {
  struct seen {
    std::int64_t tokens = 0, finite = 0;
    float low = INFINITY, high = -INFINITY;
  };
  std::map<std::string, seen> planes;
  for (const std::string& path : paths) {
    capture_file file;
    open(file, path);
    for (const sluice::kv_view& v : file.views())
      for (std::int32_t i = 0; i < v.num_layers; ++i)
        for (const sluice::plane p : {sluice::plane::key, sluice::plane::value}) {
          if (!v[p].present()) continue;
          seen& s = planes[(p == sluice::plane::key ? "k." : "v.") + std::to_string(v.layer_id(i))];
          for (std::int64_t t = std::max<std::int64_t>(0, sinks - v.position); t < v.tokens; ++t) {
            float low = INFINITY, high = -INFINITY;
            bool finite = true;
            for (std::int32_t h = 0; h < v.num_kv_heads; ++h)
              for (std::int32_t e = 0; e < v[p].head_dim; ++e) {
                const float x = sluice::load_element(v.at(p, i, t, h, e), v[p].type);
                finite &= std::isfinite(x);
                low = std::min(low, x);
                high = std::max(high, x);
              }
            ++s.tokens;
            if (!finite) continue;
            ++s.finite;
            s.low = std::min(s.low, low);
            s.high = std::max(s.high, high);
          }
        }
  }
  bool constant = true;
  for (const auto& [name, s] : planes) {
    if (s.tokens < 2)
      return name + " has " + std::to_string(s.tokens) + " tokens behind the first " + std::to_string(sinks) +
             " of the sequence, which are kept exact; calibration takes 2 at least, and 8 x 1,024 to be good";
    if (s.finite < 2)
      return name + ": only " + std::to_string(s.finite) + " of " + std::to_string(s.tokens) +
             " tokens are without a NaN or an infinity";
    if (const float most = std::max(-s.low, s.high); most > 65504) {
      char text[32];
      std::snprintf(text, sizeof text, "%.3g", double(most));
      return name + " holds values up to " + text + "; a profile knows values up to 65504";
    }
    constant &= s.low == s.high;
  }
  return constant ? "all values of each k and v are the same: there is nothing to learn" : "";
}

sluice::profile make_profile(const calibrate_arguments& a, const sluice::model_shape& shape, std::int64_t& tokens) {
  sluice::calibration_options o;
  o.heads_per_basis = a.heads_per_basis;
  o.threads = a.threads;
  o.target_kl = a.target_kl;
  if (!a.sensitivity.empty()) read_sensitivities(a.sensitivity, shape, o);
  const auto refuse = [&](const std::string& path, sluice::status s) {
    const std::string why = complaint(a.captures, o.sinks);
    throw data_error(path + ": no profile can be made of it: " + (why.empty() ? sluice::to_string(s) : why));
  };
  std::string all = a.captures[0];
  for (std::size_t i = 1; i < a.captures.size(); ++i) all += ", " + a.captures[i];
  sluice::calibrator c(shape, o);
  progress bar("calibrating");
  std::size_t done = 0;
  for (int pass = 0; pass < 2; ++pass)
    for (const std::string& path : a.captures) {
      capture_file file;
      open(file, path);
      if (!(file.shape() == shape)) throw data_error(path + ": another model than " + a.captures[0]);
      if (!pass) tokens += file.tokens();
      if (!pass) warn(file, path);
      for (const sluice::capture& x : file.captures()) {
        for (const sluice::plane p : {sluice::plane::key, sluice::plane::value})
          if (x.cache[p].present() && x.cache[p].type == sluice::dtype::bytes)
            throw data_error(path + ": " + (p == sluice::plane::key ? "k." : "v.") +
                             std::to_string(x.cache.layer_id(0)) +
                             " is opaque bytes (U8), which cannot be calibrated on");
        if (const sluice::status s = pass ? c.measure(x) : c.add(x); s != sluice::status::ok) refuse(all, s);
      }
      bar.at(++done, 2 * a.captures.size());
    }
  sluice::result<sluice::profile> r = c.finish();
  if (!r) refuse(all, r.status());
  return std::move(*r);
}

// What presets need of their own, in one more sweep, since it is learnt in the groups of the profile.
void add_sections(const calibrate_arguments& a, sluice::profile& profile) {
  sluice::preset_calibrator c(profile);
  for (const std::string& name : a.presets) c.want(name.c_str());
  if (c.empty()) return;
  progress bar("learning");
  for (std::size_t i = 0; i < a.captures.size(); ++i) {
    capture_file file;
    open(file, a.captures[i]);
    for (const sluice::kv_view& v : file.views())
      if (const sluice::status s = c.add(v); s != sluice::status::ok)
        throw data_error(a.captures[i] + ": nothing can be learnt of it for --for: " + sluice::to_string(s));
    bar.at(i + 1, a.captures.size());
  }
  if (const sluice::status s = c.finish(profile); s != sluice::status::ok)
    throw data_error(std::string("nothing can be learnt for --for: ") + sluice::to_string(s));
}

int calibrate(const calibrate_arguments& a) {
  for (const std::string& name : a.presets)
    if (!sluice::codec::with_preset(name.c_str(), []<class>() {}))
      throw usage_error("--for: no codec is called " + name);
  capture_file first;
  open(first, a.captures[0]);
  std::int64_t tokens = 0;
  sluice::profile profile;
  if (a.shape_only) {
    warn(first, a.captures[0]);
    profile = sluice::profile::uncalibrated(first.shape());
  } else {
    profile = make_profile(a, first.shape(), tokens);
  }
  add_sections(a, profile);
  profile.set_name((a.name.empty() ? first.model() : a.name).c_str());
  const auto bytes = profile.serialize();
  // What the loader refuses is not written.
  if (const auto again = sluice::profile::parse(bytes); !again)
    throw data_error(a.captures[0] + ": its shape or its values are beyond what a profile holds (" +
                     sluice::to_string(again.status()) + ")");
  output_file file(a.out);
  file.write(bytes);
  if (!file.commit()) throw data_error(file.error());

  std::vector<double> loss;
  for (int j = 0; j < profile.passes; ++j) loss.push_back(profile.loss_of(j));
  char id[17];
  std::snprintf(id, sizeof id, "%016llx", static_cast<unsigned long long>(profile.fingerprint()));
  if (a.as_json) {
    program::print({{"profile", a.out},
                    {"model", profile.name.data()},
                    {"fingerprint", id},
                    {"layers", profile.shape.num_layers()},
                    {"calibrated", profile.calibrated()},
                    {"tokens", tokens},
                    {"bytes", bytes.size()},
                    {"expected_loss", loss}});
    return 0;
  }
  std::printf("%s: %s, %d layers, fingerprint %s, %.2f MB\n", a.out.c_str(), profile.name.data(),
              profile.shape.num_layers(), id, double(bytes.size()) / 1e6);
  if (profile.calibrated()) {
    std::printf("calibrated on %lld tokens; expected loss in nats by level:", static_cast<long long>(tokens));
    for (double x : loss) std::printf(" %.4f", x);
    std::printf("%s\n", a.sensitivity.empty() ? " (estimated: no sensitivities were given)" : "");
  } else {
    std::printf("not calibrated: frames take about twice the bytes at equal quality\n");
  }
  return 0;
}

}  // namespace

void add_calibrate(program& p) {
  p.add<calibrate_arguments>("calibrate", "Makes the profile of a model from captures of its cache.",
                             describe_calibrate, calibrate);
}
