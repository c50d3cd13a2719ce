// SPDX-License-Identifier: Apache-2.0
// slot pack, unpack, info: what llama.cpp saves, smaller, and back.

#include "slot.hpp"
#include "model.hpp"
#include "slot_command.hpp"

#include <commands.hpp>
#include <input_file.hpp>
#include <output_file.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>

namespace {

using engine::mapped_file;
using sluice::rope_pairing;
using sluice::status;

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

constexpr const char* slot_form =
    "SLOT is what llama.cpp saved: a slot of llama-server (--slot-save-path), a file of llama_state_seq_save_file or\n"
    "llama_state_save_file, or the bytes of llama_state_seq_get_data or llama_state_get_data.";

struct pack_arguments {
  std::string in, out, profile, model;
  int level = 1, threads = default_threads();
  bool lossless = false, as_json = false;
};

void describe_pack(option_list& c, pack_arguments& a) {
  c.add_option("SLOT", a.in, "the state to pack, see below").required();
  c.add_option("-o,--output", a.out, "the packed file to write").required();
  c.add_option("-m,--model", a.model, "the GGUF file of the model: tells how K is rotated");
  c.add_option("-p,--profile", a.profile, "profile of the model; by default M.profile beside M.gguf, if it is there");
  c.add_option("--level", a.level, "quality, 0 the coarsest").range(0, sluice::max_passes - 1);
  c.add_flag("--lossless", a.lossless, "the same bytes back; needs neither model nor profile");
  c.add_option("--threads", a.threads, "changes the time it takes, not the bytes").range(1, 256);
  c.add_flag("--json", a.as_json, "the result as JSON");
  c.footer(slot_form);
}

const char* name_of(rope_pairing p) {
  return p == rope_pairing::half ? "half" : p == rope_pairing::interleaved ? "interleaved" : "none";
}

// "30 layers, K 384 and V 384 elements a token", of a state and of a profile.
std::string size_of_cache(const slot::state& s) {
  if (s.parts.empty()) return "no cells";
  std::size_t layers = 0;
  for (const slot::part& p : s.parts)
    if (p.cache != 0 || &p == &s.parts[0]) layers += p.k.size();
  const auto width = [](const std::vector<slot::rows>& r) {
    const slot::block_size b = r.empty() ? slot::block_size{} : slot::block_of(r[0].type);
    return r.empty() ? std::string("no")
           : b.bytes ? std::to_string(r[0].row / b.bytes * b.elements) + " elements of"
                     : std::to_string(r[0].row) + " bytes of";
  };
  return std::to_string(layers) + " layers, " + width(s.parts[0].k) + " K and " + width(s.parts[0].v) + " V a token";
}
std::string size_of_cache(const sluice::model_shape& s) {
  std::size_t layers = 0;
  const sluice::layer_shape* first = nullptr;
  for (const sluice::layer_shape& l : s.layers)
    if (!l.absent() && ++layers == 1) first = &l;
  if (!first) return "no layers";
  return std::to_string(layers) + " layers, " + std::to_string(first->num_kv_heads * first->head_dim_k) +
         " elements of K and " + std::to_string(first->num_kv_heads * first->head_dim_v) + " elements of V a token";
}

// What to do about a state that cannot be packed or unpacked.
[[noreturn]] void refuse(const std::string& path, status s, const std::string& more = {}) {
  std::string why = sluice::to_string(s);
  if (s == status::parse_error) why = "no state that llama.cpp saved";
  if (s == status::wrong_version)
    why = "a version of llama.cpp's states that is not known here (files 3 and 4, sessions 9 to 11)";
  throw data_error(path + ": " + why + more);
}

int pack(const pack_arguments& a) {
  const mapped_file file(a.in);
  const auto state = slot::parse(file.bytes());
  if (!state) refuse(a.in, state.status());
  slot::options o;
  o.level = a.level, o.lossless = a.lossless, o.threads = a.threads;
  o.pairs = state->architecture.empty() ? rope_pairing::none : slot::pairs_of(state->architecture);
  std::string profile_name;
  slot::fitted with;
  if (!o.lossless) {
    slot::model_facts model;
    if (!a.model.empty()) {
      model = slot::read_model(model_file(a.model).tensors());
      o.pairs = model.pairs;
      if (!state->architecture.empty() && state->architecture != model.architecture)
        throw data_error(a.in + ": saved by a model of architecture " + state->architecture + ", and " + a.model +
                         " is " + model.architecture);
    }
    const sluice::profile profile = profile_for(a.profile, a.model, model, profile_name);
    double ratio = 0;
    auto fitted = slot::fit(*state, file.bytes(), profile, o, &ratio);
    if (fitted.status() == status::wrong_shape)
      refuse(a.in, status::wrong_shape,
             ": " + size_of_cache(*state) + " here; " + size_of_cache(profile.shape) + " in " + profile_name);
    if (fitted.status() == status::profile_does_not_fit) {
      char times[32];
      std::snprintf(times, sizeof times, "%.2f", ratio);
      refuse(a.in, status::profile_does_not_fit,
             ": with " + profile_name + " it would take " + times +
                 " times what the profile promises; it is another model's, or was made of another rotary embedding");
    }
    if (!fitted) refuse(a.in, fitted.status());
    with = *std::move(fitted);
  }

  output_file out(a.out);
  progress bar("packing");
  o.on_progress = [&](std::size_t done, std::size_t all) { bar.at(done, all); };
  std::size_t size = 0;
  const double start = seconds();
  const status s = slot::pack(*state, file.bytes(), &with, o, [&](std::span<const std::byte> x) {
    size += x.size();
    return out.write(x);
  });
  const double time = seconds() - start;
  if (!out) throw data_error(out.error());
  if (s != status::ok) refuse(a.in, s);
  if (!out.commit()) throw data_error(out.error());
  const double ratio = double(file.bytes().size()) / double(size);
  if (a.as_json) {
    program::print({{"output", a.out},
                    {"state_bytes", file.bytes().size()},
                    {"bytes", size},
                    {"ratio", ratio},
                    {"level", a.lossless ? json(nullptr) : json(a.level)},
                    {"lossless", a.lossless},
                    {"profile", profile_name},
                    {"fit", with.ratio},
                    {"seconds", time}});
  } else {
    std::printf("%s: %zu bytes for %zu, %s: %.2f times smaller, in %.2f s\n", a.out.c_str(), size, file.bytes().size(),
                a.lossless ? "lossless" : ("level " + std::to_string(a.level)).c_str(), ratio, time);
  }
  return 0;
}

struct unpack_arguments {
  std::string in, out, profile, model;
  int threads = default_threads();
  bool as_json = false;
};

void describe_unpack(option_list& c, unpack_arguments& a) {
  c.add_option("PACKED", a.in, "what `slot pack` wrote").required();
  c.add_option("-o,--output", a.out, "the state to write, which llama.cpp loads").required();
  c.add_option("-p,--profile", a.profile, "the profile that it was packed with");
  c.add_option("-m,--model", a.model, "the GGUF file of the model: its profile is M.profile beside M.gguf");
  c.add_option("--threads", a.threads, "changes the time it takes, not the bytes").range(1, 256);
  c.add_flag("--json", a.as_json, "the result as JSON");
}

int unpack(const unpack_arguments& a) {
  const mapped_file file(a.in);
  const auto header = slot::read_header(file.bytes());
  if (!header) {
    if (header.status() == status::parse_error) throw data_error(a.in + ": not what `slot pack` writes");
    if (header.status() == status::wrong_version) throw data_error(a.in + ": packed by another version of sluice");
    throw data_error(a.in +
                     (header.status() == status::truncated ? ": truncated" : ": damaged: its checksum is wrong"));
  }
  sluice::profile profile;
  const bool needs = !header->lossless && header->profile.empty();
  std::string name = a.profile;
  if (needs) {
    if (name.empty() && !a.model.empty()) name = profile_beside(a.model);
    if (name.empty()) throw usage_error("it was packed with a profile: -p PROFILE or -m MODEL.gguf says which");
    profile = load_profile(name);
  }
  output_file out(a.out);
  if (!out) throw data_error(out.error());
  progress bar("unpacking");
  slot::options o;
  o.threads = a.threads;
  o.on_progress = [&](std::size_t done, std::size_t all) { bar.at(done, all); };
  const double start = seconds();
  std::vector<std::byte> memory;
  std::span<std::byte> to = out.map(std::size_t(header->size));
  const bool mapped = !to.empty();
  if (!mapped) {
    if (std::filesystem::is_regular_file(a.out) || !std::filesystem::exists(a.out))
      throw data_error(a.out + ": no room for " + std::to_string(header->size) + " bytes");
    memory.resize(std::size_t(header->size));
    to = memory;
  }
  const status s = slot::unpack(*header, needs ? &profile : nullptr, to, o);
  if (s == status::wrong_profile) throw data_error(a.in + ": packed with another profile than " + name);
  if (s != status::ok) throw data_error(a.in + ": " + sluice::to_string(s));
  const double time = seconds() - start;
  if (!mapped) out.write(to);
  if (!out.commit()) throw data_error(out.error());
  if (a.as_json)
    program::print({{"output", a.out},
                    {"bytes", header->size},
                    {"packed_bytes", file.bytes().size()},
                    {"lossless", header->lossless},
                    {"seconds", time}});
  else
    std::printf("%s: %llu bytes, in %.3f s\n", a.out.c_str(), static_cast<unsigned long long>(header->size), time);
  return 0;
}

struct info_arguments {
  std::string in;
  bool as_json = false;
};

void describe_info(option_list& c, info_arguments& a) {
  c.add_option("FILE", a.in, "a packed state, or one as llama.cpp saved it").required();
  c.add_flag("--json", a.as_json, "the result as JSON");
  c.footer(slot_form);
}

std::string type_name(std::int32_t t) {
  switch (t) {
    case slot::type_f32: return "f32";
    case slot::type_f16: return "f16";
    case slot::type_bf16: return "bf16";
    case slot::type_q8_0: return "q8_0";
  }
  return "ggml type " + std::to_string(t);
}

int info(const info_arguments& a) {
  const mapped_file file(a.in);
  const auto header = slot::read_header(file.bytes());
  const bool packed = header.status() != status::parse_error;
  if (packed && !header) throw data_error(a.in + ": " + sluice::to_string(header.status()));
  const auto state =
      packed ? slot::detail::read_skeleton(header->skeleton, header->size, header->how) : slot::parse(file.bytes());
  if (!state) refuse(a.in, state.status());
  json parts = json::array();
  for (const slot::part& p : state->parts) {
    const auto [first, last] = std::minmax_element(p.positions.begin(), p.positions.end());
    const auto sequences = *std::max_element(p.sequences.begin(), p.sequences.end()) + 1;
    parts.push_back({{"cells", p.positions.size()},
                     {"positions", {*first, *last + 1}},
                     {"sequence_sets", sequences},
                     {"layers", p.k.size()},
                     {"window", p.cache != 0},
                     {"k", type_name(p.k[0].type)},
                     {"v", p.v.empty() ? json(nullptr) : json(type_name(p.v[0].type))},
                     {"v_transposed", p.v_trans},
                     {"hadamard", p.turn[0] > 0}});
  }
  json facts = {{"file", a.in},
                {"packed", packed},
                {"bytes", file.bytes().size()},
                {"state_bytes", state->size},
                {"tokens", state->tokens.size()},
                {"architecture", state->architecture},
                {"parts", parts}};
  char id[17] = "";
  if (packed) {
    std::snprintf(id, sizeof id, "%016llx", static_cast<unsigned long long>(header->fingerprint));
    facts["lossless"] = header->lossless;
    if (!header->lossless) facts["level"] = header->level, facts["pairs"] = name_of(header->pairs);
    facts["profile"] = header->lossless ? json(nullptr) : header->profile.empty() ? json(id) : json("none needed");
    facts["skeleton_bytes"] = header->skeleton.size();
    facts["chunks"] = header->chunks;
    facts["ratio"] = double(state->size) / double(file.bytes().size());
  }
  if (a.as_json) {
    program::print(facts);
    return 0;
  }
  std::printf("%s: %s, %zu bytes", a.in.c_str(), packed ? "packed" : "as llama.cpp saved it", file.bytes().size());
  if (packed)
    std::printf(" for %llu: %.2f times smaller, %s", static_cast<unsigned long long>(state->size),
                double(state->size) / double(file.bytes().size()),
                header->lossless ? "lossless" : ("level " + std::to_string(header->level)).c_str());
  std::printf("\n%zu tokens named", state->tokens.size());
  if (!state->architecture.empty()) std::printf(", architecture %s", state->architecture.c_str());
  if (packed && !header->lossless)
    std::printf(", profile %s (pairs %s)", header->profile.empty() ? id : "not needed", name_of(header->pairs));
  std::printf("\n");
  for (const json& p : parts)
    std::printf("%zu cells at positions %d to %d, %zu layers%s, K %s, V %s%s\n", p["cells"].get<std::size_t>(),
                p["positions"][0].get<int>(), p["positions"][1].get<int>() - 1, p["layers"].get<std::size_t>(),
                p["window"].get<bool>() ? " with a window" : "", p["k"].get<std::string>().c_str(),
                p["v"].is_null() ? "none" : p["v"].get<std::string>().c_str(),
                p["v_transposed"].get<bool>() ? " transposed" : "");
  return 0;
}

}  // namespace

void add_slot(program& p) {
  p.add<pack_arguments>("slot pack", "Packs a state that llama.cpp saved.", describe_pack, pack);
  p.add<unpack_arguments>("slot unpack", "Makes a state that llama.cpp loads of a packed one.", describe_unpack,
                          unpack);
  p.add<info_arguments>("slot info", "Tells what a packed or a saved state holds.", describe_info, info);
  add_slot_calibrate(p);
  p.name_group("slot", "Saved states of llama.cpp, several times smaller: pack, unpack, info, calibrate.");
}
