// SPDX-License-Identifier: Apache-2.0
// Sources that need no server: memory, files, and both behind a shaped link.
#include <doctest/doctest.h>
#include <sluice/stream/source/file.hpp>
#include <sluice/stream/source/memory.hpp>
#include <sluice/stream/source/shaped.hpp>
#include <stream/servers.hpp>

#include <sys/resource.h>
#include <csignal>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using namespace sluice::stream;

std::vector<std::byte> noise(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> b(n);
  for (std::byte& x : b) x = std::byte(random() & 255);
  return b;
}

template <class Source>
struct fixture;
template <>
struct fixture<memory_source> {
  memory_source source;
};
template <>
struct fixture<file_source> {
  servers::temporary_folder folder;
  file_source source{folder.path + "/objects"};
  fixture() { REQUIRE(source.create() == status::ok); }
};

std::size_t files_in(const std::string& folder) {
  std::size_t n = 0;
  for ([[maybe_unused]] const auto& e : std::filesystem::directory_iterator(folder)) ++n;
  return n;
}

}  // namespace

TEST_CASE_TEMPLATE("a source gives back what was put into it, range by range", Source, memory_source, file_source) {
  const std::size_t descriptors = servers::open_descriptors();
  {
    fixture<Source> f;
    Source& s = f.source;
    const unsigned seed = 7;
    CAPTURE(seed);
    const auto a = noise(3'000'000, seed), b = noise(1000, seed + 1);
    CHECK(s.size("a").status() == status::not_found);
    REQUIRE(s.put("a", a) == status::ok);
    REQUIRE(s.put("b", b) == status::ok);
    REQUIRE(s.put("b", a) == status::ok);
    REQUIRE(s.put("b", b) == status::ok);
    CHECK(s.size("a").value() == a.size());
    CHECK(s.size("b").value() == b.size());
    CHECK(read_object(s, "a", 5).value() == a);

    std::mt19937 random(seed);
    std::vector<std::vector<std::byte>> buffers;
    std::vector<std::pair<ticket, std::size_t>> reads;  // and where they begin
    for (int i = 0; i < 40; ++i) {
      const std::size_t begin = random() % a.size();
      buffers.emplace_back(random() % (a.size() - begin + 1));
      reads.push_back({s.submit({"a", begin, buffers.back()}), begin});
    }
    for (std::size_t i = 0; i < reads.size(); i += 7) s.cancel(reads[i].first);
    std::size_t seen = 0;
    completion done[3];
    while (const std::size_t n = s.poll(done, 1)) {
      for (std::size_t k = 0; k < n; ++k, ++seen) {
        std::size_t i = 0;
        while (reads[i].first != done[k].which) ++i;
        CHECK(i % 7 != 0);
        CHECK(done[k].state == status::ok);
        CHECK(done[k].bytes == buffers[i].size());
        CHECK(std::equal(buffers[i].begin(), buffers[i].end(), a.begin() + std::ptrdiff_t(reads[i].second)));
      }
    }
    CHECK(seen == 40 - 6);

    std::vector<std::byte> buffer(2000);
    CHECK(read(s, {"b", 0, buffer}, 1) == status::wrong_length);
    CHECK(std::equal(b.begin(), b.end(), buffer.begin()));  // what there is has come
    CHECK(read(s, {"b", 5000, buffer}, 1) == status::wrong_length);
    CHECK(read(s, {"b", UINT64_MAX / 2, buffer}, 1) != status::ok);
    CHECK(read(s, {"c", 0, buffer}, 1) == status::not_found);
    CHECK(read(s, {"b", 10, {}}, 1) == status::ok);
    CHECK(read_object(s, "a", 1, 100).status() == status::too_large);
    CHECK(s.poll(done, 0) == 0);
    CHECK(s.cancel(12345) == 0);
  }
  CHECK(servers::open_descriptors() == descriptors);
}

TEST_CASE("a memory source refuses what does not fit and keeps what it has") {
  memory_source s(1000);
  REQUIRE(s.put("a", noise(600, 1)) == status::ok);
  CHECK(s.put("b", noise(500, 2)) == status::no_space);
  CHECK(s.put("a", noise(1001, 2)) == status::no_space);
  CHECK(read_object(s, "a", 1).value() == noise(600, 1));
  CHECK(s.put("a", noise(1000, 3)) == status::ok);
  CHECK(s.erase("a") == status::ok);
  CHECK(s.erase("a") == status::not_found);
  CHECK(s.put("b", noise(1000, 2)) == status::ok);
}

TEST_CASE("names that leave the folder are refused") {
  fixture<file_source> f;
  std::vector<std::byte> buffer(10);
  for (const char* key : {"", "..", "../a", "a/b", "/etc/passwd", ".hidden", "a.tmp1.1"}) {
    CAPTURE(key);
    CHECK(f.source.put(key, buffer) == status::invalid_argument);
    CHECK(f.source.size(key).status() == status::invalid_argument);
    CHECK(read(f.source, {key, 0, buffer}, 1) == status::invalid_argument);
  }
  CHECK(files_in(f.folder.path + "/objects") == 0);
  file_source nowhere(f.folder.path + "/no/such/folder");
  CHECK(nowhere.create() == status::not_found);
  CHECK(nowhere.put("a", buffer) == status::not_found);
}

TEST_CASE("a full disk has a name, and nothing is lost") {
  fixture<file_source> f;
  const auto old = noise(5000, 1);
  REQUIRE(f.source.put("a", old) == status::ok);
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  struct restore {
    rlimit limit;
    void (*handler)(int);
    ~restore() {
      ::setrlimit(RLIMIT_FSIZE, &limit);
      std::signal(SIGXFSZ, handler);
    }
  } restore{before, std::signal(SIGXFSZ, SIG_IGN)};
  rlimit small = before;
  small.rlim_cur = 6000;
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  CHECK(f.source.put("a", noise(100'000, 2)) == status::no_space);
  CHECK(f.source.put("b", noise(6001, 2)) == status::no_space);
  CHECK(f.source.put("c", noise(6000, 2)) == status::ok);
  CHECK(read_object(f.source, "a", 1).value() == old);
  CHECK(f.source.size("b").status() == status::not_found);
  CHECK(files_in(f.folder.path + "/objects") == 2);  // no temporary file is left
}

TEST_CASE("a file that is replaced or cut while it is read never gives mixed or missing bytes unnoticed") {
  fixture<file_source> f;
  const auto a = noise(4 << 20, 1), b = noise(4 << 20, 2);
  REQUIRE(f.source.put("a", a) == status::ok);
  std::vector<std::byte> buffer(a.size());
  const ticket t = f.source.submit({"a", 0, buffer});
  completion done;
  REQUIRE(f.source.poll({&done, 1}, 0) == 0);  // a block has been read
  CHECK(f.source.arrived(t) > 0);
  REQUIRE(f.source.put("a", b) == status::ok);
  REQUIRE(f.source.poll({&done, 1}, 5) == 1);
  CHECK(done.state == status::ok);
  CHECK(buffer == a);  // the file that was opened

  const ticket u = f.source.submit({"a", 0, buffer});
  REQUIRE(f.source.poll({&done, 1}, 0) == 0);
  std::filesystem::resize_file(f.folder.path + "/objects/a", 2 << 20);
  REQUIRE(f.source.poll({&done, 1}, 5) == 1);
  CHECK(done.which == u);
  CHECK(done.state == status::wrong_length);
  CHECK(done.bytes == std::size_t{2} << 20);
}

TEST_CASE("a shaped link delivers in order, never before the trace allows, and shows how far it is") {
  memory_source memory;
  const auto a = noise(100'000, 3);
  REQUIRE(memory.put("a", a) == status::ok);
  const link_trace trace = link_trace::constant(1e6, 0.01);
  shaped_source<memory_source> s(memory, trace);
  std::vector<std::byte> first(50'000), second(30'000);
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  const ticket t1 = s.submit({"a", 0, first}), t2 = s.submit({"a", 50'000, second});
  completion done;
  CHECK(s.poll({&done, 1}, 0) == 0);
  REQUIRE(s.poll({&done, 1}, 5) == 1);
  CHECK(elapsed() >= 0.06 - 1e-4);
  CHECK(done.which == t1);
  CHECK(s.arrived(t2) <= 30'000);
  REQUIRE(s.poll({&done, 1}, 5) == 1);
  CHECK(elapsed() >= 0.09 - 1e-4);
  CHECK(done.which == t2);
  CHECK(std::equal(second.begin(), second.end(), a.begin() + 50'000));
  const ticket t3 = s.submit({"a", 0, first});
  CHECK(s.poll({&done, 1}, 0.03) == 0);
  const std::size_t part = s.cancel(t3);
  CHECK(part > 0);
  CHECK(part < first.size());
  CHECK(s.poll({&done, 1}, 0.1) == 0);
}
