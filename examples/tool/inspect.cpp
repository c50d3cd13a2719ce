// SPDX-License-Identifier: Apache-2.0
// info and verify: what a .slc file holds, without decoding values.

#include <class_account.hpp>
#include <commands.hpp>
#include <ideal.hpp>
#include <input_file.hpp>
#include <presets.hpp>
#include <slc_file.hpp>
#include <sluice/format/account.hpp>

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace {

using sluice::plane;

// Numbers of the policies of a codec, and behind a colon what tells each from others of its number.
std::vector<std::pair<const char*, std::string>> stages_of(const sluice::codec_id& id) {
  std::vector<std::pair<const char*, std::string>> stages;
  const auto add = [&](const char* name, const sluice::stage_id& s) {
    std::string& text = stages.emplace_back(name, std::to_string(s.id)).second;
    if (s.value()) text.append(":").append(std::to_string(s.value()));
  };
  add("method", id.method);
  add("predictor", id.predictor);
  add("transform", id.transform);
  add("quantizer", id.quantizer);
  add("bit_widths", id.bit_widths);
  add("entropy", id.entropy);
  return stages;
}

// Element types of K or V of all layers, such as f16 or f16+bf16; - where no layer has any.
std::string types_of(const slc_file& file, plane which) {
  std::string all;
  std::vector<sluice::dtype> seen;
  for (int l = 0; l < file.layers(); ++l) {
    if (!file.holds(l, which)) continue;
    const sluice::dtype t = file.type(l, which);
    if (std::find(seen.begin(), seen.end(), t) != seen.end()) continue;
    seen.push_back(t);
    if (!all.empty()) all += '+';
    all += sluice::to_string(t);
  }
  return all.empty() ? "-" : all;
}

// All frames of a file.
frame_account take_apart(slc_file& file) {
  frame_account all;
  for (const slc_file::frame& f : file.frames()) all += account_of(f.index, f.bytes);
  return all;
}

struct verify_arguments {
  std::string in;
  bool as_json = false;
};

void describe_verify(option_list& c, verify_arguments& a) {
  c.add_option("SLC", a.in, "a .slc file").required();
  c.add_flag("--json", a.as_json, "the result as JSON");
}

int verify(const verify_arguments& a) {
  const std::string& in = a.in;
  slc_file file(in);
  const sluice::byte_account c = take_apart(file).bytes;
  const bool whole = file.trouble() == sluice::status::ok && !c.damaged && !c.missing;
  if (a.as_json) {
    program::print({{"file", in},
                    {"ok", whole},
                    {"frames", file.frames().size()},
                    {"tiles", c.tiles},
                    {"damaged_tiles", c.damaged},
                    {"missing_tiles", c.missing},
                    {"cut_tiles", c.cut},
                    {"status", sluice::to_string(file.trouble())},
                    {"whole_bytes", file.stopped_at()}});
  } else if (whole) {
    std::printf("%s: whole: %zu frames, %zu tiles\n", in.c_str(), file.frames().size(), c.tiles);
  } else {
    std::printf("%s: NOT whole: %zu of %zu tiles damaged, %zu missing", in.c_str(), c.damaged, c.tiles, c.missing);
    if (file.trouble() != sluice::status::ok)
      std::printf("; at byte %zu: %s", file.stopped_at(), sluice::to_string(file.trouble()));
    std::printf("\n");
  }
  return whole ? 0 : 1;
}

struct info_arguments {
  std::string in, profile;
  bool as_json = false;
};

void describe_info(option_list& c, info_arguments& a) {
  c.add_option("SLC", a.in, "a .slc file").required();
  c.add_option("-p,--profile", a.profile, "its profile: tells how far above an ideal coder each level is");
  c.add_flag("--json", a.as_json, "the result as JSON");
}

int info(const info_arguments& a) {
  const std::string& in = a.in;
  slc_file file(in);
  const frame_account account = take_apart(file);
  const sluice::byte_account& c = account.bytes;
  const sluice::pass_account all = c.all_passes();
  const class_bytes classes = account.classes_of(sluice::max_passes);
  const sluice::frame_header& h = file.frames()[0].index.header();
  const double values = double(std::max<std::uint64_t>(c.values, 1)), raw = double(c.raw);
  int passes = 0, present = 0;  // frames that were made to fit have passes of their own
  for (const slc_file::frame& f : file.frames()) {
    passes = std::max<int>(passes, f.index.header().passes);
    present = std::max<int>(present, f.index.header().levels_present);
  }
  std::vector<std::size_t> size_at(std::size_t(passes), 0);
  for (const slc_file::frame& f : file.frames())
    for (int j = 0; j < passes; ++j)
      size_at[std::size_t(j)] += std::size_t(f.index.size_at(std::min(j, f.index.header().passes - 1)));

  // What its frames say that a level loses, of tokens alike; 0 where one of them does not say.
  const auto loss_at = [&](std::size_t level) {
    double sum = 0, tokens = 0;
    for (const slc_file::frame& f : file.frames()) {
      const double said = f.index.header().loss_of(int(level));
      if (said < 0) return 0.0;
      sum += said * f.index.header().tokens;
      tokens += f.index.header().tokens;
    }
    return sum / tokens;
  };

  std::vector<double> ideal;
  if (!a.profile.empty()) {
    ideal = ideal_bytes(file, load_profile(a.profile));
    if (ideal.empty()) throw data_error(in + ": not a whole file of the standard codec made with this profile");
  }

  std::size_t keys = 0, vals = 0;
  for (const auto& l : all.layers) keys += l[0], vals += l[1];
  const std::size_t overhead = c.index + all.heads + classes.states;
  const auto bits = [&](std::size_t bytes) { return 8 * double(bytes) / values; };
  const auto ratio = [&](std::size_t bytes) { return raw / double(std::max<std::size_t>(bytes, 1)); };
  if (a.as_json) {
    json stages, layers = json::array(), levels = json::array(), payload = {{"exact_tokens", all.exact}};
    for (const auto& [name, id] : stages_of(h.codec)) stages[name] = id;
    for (const auto& l : all.layers) layers.push_back({{"k", l[0]}, {"v", l[1]}});
    for (std::size_t j = 0; j < size_at.size(); ++j)
      levels.push_back({{"level", j},
                        {"present", int(j) < present},
                        {"bytes", size_at[j]},
                        {"bits_per_value", bits(size_at[j])},
                        {"ratio", ratio(size_at[j])}});
    for (std::size_t j = 0; j < size_at.size(); ++j)
      if (loss_at(j) > 0) levels[j]["expected_loss"] = loss_at(j);
    for (std::size_t j = 0; j < ideal.size(); ++j) {
      levels[j]["ideal_bytes"] = ideal[j];
      levels[j]["overhead"] = double(size_at[j]) / ideal[j] - 1;
    }
    for (int s = 0; s < sluice::max_sections; ++s)
      if (all.sections[s])
        payload[to_string(sluice::section(s))] =
            all.sections[s] - (sluice::section(s) == sluice::section::entropy ? classes.states : 0);
    if (!account.classes.empty())
      payload["class_rans"] = {{"codes", classes.code},
                               {"exceptions", classes.exceptions},
                               {"class_deltas", classes.deltas},
                               {"classes", classes.classes},
                               {"flags", classes.flags}};
    program::print({{"file", in},
                    {"bytes", file.size()},
                    {"raw_bytes", c.raw},
                    {"ratio", ratio(file.size())},
                    {"bits_per_value", bits(file.size())},
                    {"frames", file.frames().size()},
                    {"tokens", file.end_position() - file.first_position()},
                    {"position", file.first_position()},
                    {"codec", codec_name(h.codec)},
                    {"stages", stages},
                    {"types", {types_of(file, plane::key), types_of(file, plane::value)}},
                    {"levels_present", present},
                    {"cut_tiles", c.cut},
                    {"levels", levels},
                    {"k_bytes", keys},
                    {"v_bytes", vals},
                    {"layers", layers},
                    {"overhead",
                     {{"headers_and_index", c.index},
                      {"tile_heads", all.heads},
                      {"coder_states", classes.states},
                      {"total", overhead}}},
                    {"payload", payload},
                    {"unread_bytes", all.unread},
                    {"damaged_tiles", c.damaged},
                    {"missing_tiles", c.missing},
                    {"status", sluice::to_string(file.trouble())}});
    return 0;
  }
  std::printf("%s: %s, %zu frames, tokens %lld to %lld, %d layers, %s/%s\n", in.c_str(), codec_name(h.codec).c_str(),
              file.frames().size(), static_cast<long long>(file.first_position()),
              static_cast<long long>(file.end_position()), h.layers, types_of(file, plane::key).c_str(),
              types_of(file, plane::value).c_str());
  const char* between = "";
  for (const auto& [name, id] : stages_of(h.codec)) {
    std::printf("%s%s %s", between, name, id.c_str());
    between = ", ";
  }
  std::printf("\n%zu bytes for %llu: %.2f times smaller, %.3f bits per value\n\n", file.size(),
              static_cast<unsigned long long>(c.raw), ratio(file.size()), bits(file.size()));
  std::printf("level      bytes   bits/value    ratio%s\n", ideal.empty() ? "" : "   above an ideal coder");
  for (std::size_t j = 0; j < size_at.size(); ++j) {
    std::printf("%5zu %10zu %12.3f %8.2f", j, size_at[j], bits(size_at[j]), ratio(size_at[j]));
    if (j < ideal.size()) std::printf("%20.2f %%", 100 * (double(size_at[j]) / ideal[j] - 1));
    if (loss_at(j) > 0) std::printf("   loses about %.4f nats", loss_at(j));
    std::printf("%s\n", int(j) < present ? "" : "   not here");
  }
  if (c.cut)
    std::printf("made or cut to fit: %zu of %zu tiles left out of levels above the base\n", c.cut, c.cut + c.tiles);
  std::printf("\nK %zu bytes, V %zu bytes\npayload: exact tokens %zu", keys, vals, all.exact);
  for (int s = 0; s < sluice::max_sections; ++s)
    if (all.sections[s] && (account.classes.empty() || sluice::section(s) != sluice::section::entropy))
      std::printf(", %s %zu", to_string(sluice::section(s)), all.sections[s]);
  if (!account.classes.empty())
    std::printf(", codes %zu, exceptions %zu, class deltas %zu, classes %zu, flags %zu", classes.code,
                classes.exceptions, classes.deltas, classes.classes, classes.flags);
  std::printf("\noverhead: headers and index %zu, tile heads %zu, coder states %zu: %.2f %%\n", c.index, all.heads,
              classes.states, 100 * double(overhead) / double(std::max<std::size_t>(c.total(), 1)));
  std::printf("\nlayer          K          V\n");
  for (std::size_t l = 0; l < all.layers.size(); ++l)
    std::printf("%5zu %10zu %10zu\n", l, all.layers[l][0], all.layers[l][1]);
  if (c.damaged || c.missing || file.trouble() != sluice::status::ok)
    std::printf("\n%zu tiles damaged, %zu missing, %s\n", c.damaged, c.missing, sluice::to_string(file.trouble()));
  return 0;
}

}  // namespace

void add_inspect(program& p) {
  p.add<info_arguments>("info", "Tells what a .slc file holds: bytes by level, layer, K and V.", describe_info, info);
  p.add<verify_arguments>("verify", "Checks that a .slc file is whole.", describe_verify, verify);
}
