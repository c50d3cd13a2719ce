// SPDX-License-Identifier: Apache-2.0
// A planner policy and a byte source that the library does not know, under its planner, simulator and executor.
#include "my_policy.hpp"
#include "my_source.hpp"

#include <sluice/sluice.hpp>
#include <sluice/stream/run/group.hpp>
#include <sluice/stream/run/loops.hpp>
#include <sluice/stream/run/page_decoder.hpp>
#include <sluice/stream/store/chunk.hpp>
#include <sluice/stream/study/simulator.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace sluice;
using namespace sluice::stream;

constexpr int tokens = 256, chunk_tokens = 32, heads = 3, head_dim = 64;
constexpr double latency = 0.02;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "custom stream: %s\n", what);
  std::exit(1);
}

// The bytes of a tensor in a safetensors file: where its entry in the header says.
const std::byte* tensor(const std::string& file, const std::string& name) {
  std::uint64_t header = 0;
  std::memcpy(&header, file.data(), sizeof header);
  const std::string_view text = std::string_view(file).substr(sizeof header, header);
  const std::size_t entry = text.find('"' + name + '"'), at = text.find('[', text.find("\"data_offsets\"", entry));
  require(entry != text.npos && at != text.npos, "the capture lacks a tensor");
  const std::size_t begin = std::strtoull(text.data() + at + 1, nullptr, 10);
  return reinterpret_cast<const std::byte*>(file.data()) + sizeof header + header + begin;
}

// Contiguous pages of an engine.
struct pages {
  std::vector<std::byte> memory;
  std::vector<std::byte*> k, v;
  kv_view view;
  explicit pages(int layers) : memory(std::size_t(2 * layers) * tokens * heads * head_dim * 2) {
    const std::size_t plane = memory.size() / std::size_t(2 * layers);
    for (int l = 0; l < layers; ++l) {
      k.push_back(memory.data() + plane * std::size_t(2 * l));
      v.push_back(k.back() + plane);
    }
    view = layouts::llama_cpp(k, v, {heads, head_dim, head_dim, tokens}, 0, tokens);
  }
};

struct sink {
  page_decoder<> decoder;
  page_status decode(int chunk, int level, std::span<const std::byte> frame) {
    return decoder.decode(chunk, level, frame);
  }
  status compute(const step&, const std::stop_token&) { return status::unsupported_type; }
};

template <class Policy>
std::vector<step> plan_of(const cost_model& cost, double rate, double deadline) {
  std::vector<chunk_progress> chunks(std::size_t(cost.num_chunks()));
  request_progress now;
  now.chunks = chunks;
  now.deadline_seconds = deadline;
  const auto steps = planner<Policy>(cost).plan(link_history(rate), now);
  require(bool(steps), Policy::name);
  std::printf("%-12s", Policy::name);
  for (const step& s : *steps) std::printf(" %d@%d", s.chunk, s.level);
  std::printf("\n");
  return *steps;
}

template <class Policy>
outcome simulated(const cost_model& cost, double rate, double deadline) {
  const simulated_request request{0, deadline, &cost};
  return simulate({&request, 1}, link_trace::constant(rate, latency), Policy{}).value().front();
}

}  // namespace

int main() {
  const std::string data = DATA;
  const profile model = profile::load((data + "/smollm2.profile").c_str()).value();
  const int layers = model.shape.num_layers();
  std::ifstream in(data + "/smollm2_sample.safetensors", std::ios::binary);
  const std::string file{std::istreambuf_iterator<char>(in), {}};
  require(file.size() > 8, "there is no capture");
  std::vector<const std::byte*> k, v;
  for (int l = 0; l < layers; ++l) {
    k.push_back(tensor(file, "k." + std::to_string(l)));
    v.push_back(tensor(file, "v." + std::to_string(l)));
  }
  const const_kv_view cache = layouts::llama_cpp(k, v, {heads, head_dim, head_dim, tokens}, 0, tokens);

  // The store: one object a chunk.
  std::string folder = (std::filesystem::temp_directory_path() / "sluice_custom_XXXXXX").string();
  require(::mkdtemp(folder.data()) != nullptr, "no temporary folder");
  mine::mapped_folder source(folder, latency);
  encoder<> encode(model);
  std::vector<std::vector<std::byte>> frames;
  std::vector<stored_chunk> names;
  std::vector<chunk_cost> chunks;
  const context_loss loss = context_loss::of(model, tokens);
  for (int t = 0; t < tokens; t += chunk_tokens) {
    const const_kv_view part = cache.slice(t, t + chunk_tokens);
    std::vector<std::byte> frame(encode.max_size(part));
    frame.resize(encode.encode(part, frame).value());
    names.push_back({sha256().add(std::uint64_t(t)).finish()});
    const object_header head = make_object_header(names.back().key);
    std::vector<std::byte> object(sizeof head);
    std::memcpy(object.data(), &head, sizeof head);
    object.insert(object.end(), frame.begin(), frame.end());
    require(put_checked(source, to_hex(names.back().key), object, 1) == status::ok, "an object was not kept");
    frame_index index;
    require(index.parse(frame) == status::ok, "no frame");
    chunks.push_back(chunk_of(index, 0, loss));
    frames.push_back(std::move(frame));
  }
  const cost_model cost =
      cost_model::make(chunks, {.recompute_seconds_per_token = 1, .latency_seconds = latency}, loss.levels()).value();
  const int top = cost.num_levels() - 1, n = cost.num_chunks();

  // The policy decides: on one link, other steps than a built-in one, and another loss.
  double base = 0;
  for (int c = 0; c < n; ++c) base += double(cost.bytes(c, 0));
  const double deadline = 1, rate = 2 * base / deadline;  // twice what the base of everything needs
  const std::vector<step> ours = plan_of<mine::ends_first>(cost, rate, deadline);
  const std::vector<step> theirs = plan_of<policy::progressive>(cost, rate, deadline);
  require(ours != theirs, "the plan is a built-in policy's");
  require(ours[0].chunk == 0 && ours[0].level == top && ours[1].chunk == n - 1 && ours[1].level == top &&
              ours[2].level == 0,
          "the policy was not asked");
  const outcome a = simulated<mine::ends_first>(cost, rate, deadline);
  const outcome b = simulated<policy::progressive>(cost, rate, deadline);
  std::printf("simulated: %.3f s, %.0f bytes, %.5f nats; progressive %.3f s, %.0f bytes, %.5f nats\n", a.seconds,
              a.bytes, a.loss, b.seconds, b.bytes, b.loss);
  require(a.met && (a.loss != b.loss || a.bytes != b.bytes), "the simulator asks somebody else");

  // The source delivers, with its latency: what the report says is in the pages.
  pages cold(layers), expected(layers);
  sink to{page_decoder<>(model, cost, {&cold.view, 1})};
  link_history link;
  const planner<mine::ends_first> plan(cost);
  executor<mine::ends_first, mine::mapped_folder> request(plan, source, names, link, 30);
  const report& r = run(request, to);
  require(r.outcome == status::ok && r.faults.empty() && r.recomputed_tokens == 0, "the request went wrong");
  require(r.seconds >= latency, "the source's latency is not seen");
  decoder<> decode(model);
  for (int c = 0; c < n; ++c) {
    const int level = r.chunks[std::size_t(c)].level;
    require(level >= 0 && decode.decode(frames[std::size_t(c)], expected.view, {.level = level}).worst == status::ok,
            "a chunk is missing");
  }
  require(r.chunks[0].level == top && r.chunks[std::size_t(n - 1)].level == top,
          "the ends are not at the finest level");
  require(std::equal(cold.memory.begin(), cold.memory.end(), expected.memory.begin()), "other bytes were decoded");

  // Two requests at once, one link and one engine: both get what one alone gets.
  pages two[] = {pages(layers), pages(layers)};
  sink sinks[] = {sink{page_decoder<>(model, cost, {&two[0].view, 1})},
                  sink{page_decoder<>(model, cost, {&two[1].view, 1})}};
  request_group<mine::ends_first, mine::mapped_folder> group(source, link);
  const int first = group.add(plan, names, 30), second = group.add(plan, names, 20);
  int in_time = 0;
  run_group(
      group, [&](int number) -> sink& { return sinks[number == second]; },
      [&](int number) { in_time += group.result(number).met && group.result(number).faults.empty(); });
  require(first != second && in_time == 2, "requests that share a link went wrong");
  for (const pages& p : two)
    require(std::equal(p.memory.begin(), p.memory.end(), expected.memory.begin()), "a request got other bytes");

  // What the source says of a missing object reaches the report.
  std::filesystem::remove(folder + "/" + to_hex(names[3].key));
  executor<mine::ends_first, mine::mapped_folder> broken(plan, source, names, link, 30);
  const report& missing = run(broken, to);
  require(missing.outcome == status::unsupported_type && !missing.faults.empty() &&
              missing.faults.front().what == status::not_found && !missing.faults.front().detail.empty(),
          "a missing object is not reported");
  std::filesystem::remove_all(folder);
  std::printf("ends_first from a mapped folder: %d chunks, %llu bytes, %.3f s\n", n, (unsigned long long)r.bytes,
              r.seconds);
  std::printf("sluice %d.%d.%d\n", SLUICE_VERSION_MAJOR, SLUICE_VERSION_MINOR, SLUICE_VERSION_PATCH);
}
