// SPDX-License-Identifier: Apache-2.0
// Sources that need no server: memory, files, and both behind a shaped link.
#include <doctest/doctest.h>
#include <sluice/stream/store/sources/file.hpp>
#include <sluice/stream/store/sources/memory.hpp>
#include <sluice/stream/store/sources/shaped.hpp>
#include <stream/servers.hpp>

#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <atomic>
#include <csignal>
#include <output_file.hpp>
#include <random>
#include <string>
#include <thread>
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

    std::vector<std::string> keys = s.keys().value();
    std::sort(keys.begin(), keys.end());
    CHECK(keys == std::vector<std::string>{"a", "b"});
    CHECK(s.erase("a") == status::ok);
    CHECK(s.erase("a") == status::not_found);
    CHECK(s.size("a").status() == status::not_found);
    CHECK(s.keys().value() == std::vector<std::string>{"b"});
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
}

TEST_CASE("what is wrong with a folder or a file is said in words, and a missing folder is no missing key") {
  fixture<file_source> f;
  std::vector<std::byte> buffer(10);
  const auto says = [](const auto& source, std::string_view words) {
    CAPTURE(std::string(source.detail()));
    return source.detail().find(words) != std::string_view::npos;
  };
  CHECK(f.source.size("a").status() == status::not_found);
  CHECK(f.source.detail().empty());
  CHECK(f.source.put("../a", buffer) == status::invalid_argument);
  CHECK(says(f.source, "no object's file can have this name"));
  CHECK(f.source.put(std::string(300, 'k'), buffer) == status::invalid_argument);
  CHECK(says(f.source, "File name too long"));
  std::filesystem::create_directory(f.folder.path + "/objects/d");
  CHECK(f.source.size("d").status() == status::io_error);
  CHECK(says(f.source, "d: Is a directory"));
  CHECK(f.source.put("d", buffer) == status::io_error);
  CHECK(says(f.source, "d: Is a directory"));
  REQUIRE(f.source.put("b", buffer) == status::ok);
  std::vector<std::byte> more(11);
  const ticket t = f.source.submit({"b", 0, more});
  completion done;
  while (f.source.poll({&done, 1}, 1) == 0) continue;
  CHECK(done.which == t);
  CHECK(done.detail == "b ends 1 bytes too early");

  file_source nowhere(f.folder.path + "/no/such/folder");
  CHECK(nowhere.create() == status::io_error);
  CHECK(says(nowhere, "the folder 'folder' cannot be made: No such file or directory"));
  for (int i = 0; i < 3; ++i) {
    CHECK((i == 0   ? nowhere.put("a", buffer)
           : i == 1 ? nowhere.size("a").status()
                    : read(nowhere, {"a", 0, buffer}, 1)) == status::io_error);
    CHECK(nowhere.detail() == "there is no folder 'folder'");
  }
  memory_source memory(5);
  CHECK(memory.put("a", buffer) == status::no_space);
  CHECK(memory.detail() == "10 bytes do not fit: 0 of 5 are taken");
}

namespace {

// An object that shows where it is torn: its bytes are all alike and say how many they are.
std::vector<std::byte> uniform(int i) {
  return std::vector<std::byte>(std::size_t(1000 + 50'000 * (i % 8)), std::byte(i % 8));
}
bool whole(const std::vector<std::byte>& b) { return !b.empty() && b == uniform(int(b[0])); }

int puts_that_fail(const std::string& folder, int writer) {
  file_source source(folder);
  int failed = 0;
  for (int i = 0; i < 40; ++i) failed += source.put("k" + std::to_string(i % 3), uniform(writer + i)) != status::ok;
  return failed;
}

// Forks a process, in a PID namespace of its own if asked: there it has number 1, as in a container.
template <class F>
pid_t in_process(bool as_in_a_container, F work) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  if (as_in_a_container && ::unshare(CLONE_NEWPID) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0) ::_exit(77);
  const pid_t grandchild = as_in_a_container ? ::fork() : 0;
  if (grandchild == 0) ::_exit(work());
  int state = 0;
  ::waitpid(grandchild, &state, 0);
  ::_exit(WIFEXITED(state) ? WEXITSTATUS(state) : 99);
}

}  // namespace

TEST_CASE("many writers, in threads and processes, also with equal process numbers: no put is lost, nothing is torn") {
  fixture<file_source> f;
  const std::string folder = f.folder.path + "/objects";
  for (const char* key : {"k0", "k1", "k2"}) REQUIRE(f.source.put(key, uniform(7)) == status::ok);
  std::atomic<bool> end{false};
  std::atomic<int> failed{0}, torn{0};
  std::vector<pid_t> children;  // two of four have the same number
  for (int i = 0; i < 4; ++i) children.push_back(in_process(i >= 2, [&] { return puts_that_fail(folder, i); }));
  std::thread reader([&] {
    file_source source(folder);
    for (int i = 0; !end; ++i) {
      const std::string key = "k" + std::to_string(i % 3);
      std::vector<std::byte> bytes(400'000);  // more than there is: what there is, from one file
      const ticket t = source.submit({key, 0, bytes});
      completion done;
      while (source.poll({&done, 1}, 1) == 0) continue;
      CHECK(done.which == t);
      bytes.resize(done.bytes);
      torn += done.state != status::wrong_length || !whole(bytes);
    }
  });
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back([&, i] { failed += puts_that_fail(folder, i); });
  for (std::thread& t : threads) t.join();
  for (std::size_t i = 0; i < children.size(); ++i) {
    int state = 0;
    ::waitpid(children[i], &state, 0);
    REQUIRE(WIFEXITED(state));
    if (i >= 2 && WEXITSTATUS(state) == 77) MESSAGE("no PID namespace may be made here");
    if (i < 2 || WEXITSTATUS(state) != 77) CHECK(WEXITSTATUS(state) == 0);
  }
  end = true;
  reader.join();
  CHECK(failed == 0);
  CHECK(torn == 0);
  for (const char* key : {"k0", "k1", "k2"}) CHECK(whole(read_object(f.source, key, 5).value()));
  CHECK(files_in(folder) == 3);
}

TEST_CASE("many writers of one output file: each is whole or fails, and the last one stands") {
  const servers::temporary_folder folder;
  const std::string path = folder.path + "/out";
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&, i] {
      for (int k = 0; k < 20; ++k) {
        const auto bytes = uniform(i + k);
        output_file file(path);
        for (std::size_t at = 0; at < bytes.size(); at += 10'000)
          file.write(std::span(bytes).subspan(at, std::min<std::size_t>(10'000, bytes.size() - at)));
        failed += !file.commit();
      }
    });
  for (std::thread& t : threads) t.join();
  CHECK(failed == 0);
  file_source in(folder.path);
  CHECK(whole(read_object(in, "out", 5).value()));
  CHECK(files_in(folder.path) == 1);
}

TEST_CASE("what killed writers leave behind blocks no key and is no object") {
  fixture<file_source> f;
  const std::string folder = f.folder.path + "/objects";
  const pid_t child = in_process(false, [&] {
    atomic_file file;
    file.open(folder + "/a");
    file.write(uniform(1));
    ::raise(SIGKILL);
    return 0;
  });
  int state = 0;
  ::waitpid(child, &state, 0);
  REQUIRE(WIFSIGNALED(state));
  REQUIRE(files_in(folder) == 1);
  const std::string left = std::filesystem::directory_iterator(folder)->path().filename().string();
  CHECK(f.source.size(left).status() == status::invalid_argument);
  // Names that earlier versions used, for this process and for the first one of a container.
  for (int pid : {int(::getpid()), 1})
    for (int i = 0; i < 50; ++i)
      std::ofstream(folder + "/a.tmp" + std::to_string(pid) + "." + std::to_string(i)) << "half";
  std::ofstream(folder + "/a.tmp" + std::to_string(::getpid())) << "half";
  CHECK(f.source.size("a").status() == status::not_found);
  CHECK(f.source.put("a", uniform(2)) == status::ok);
  CHECK(read_object(f.source, "a", 1).value() == uniform(2));
  const pid_t in_a_container = in_process(true, [&] { return int(file_source(folder).put("a", uniform(3))); });
  ::waitpid(in_a_container, &state, 0);
  REQUIRE(WIFEXITED(state));
  if (WEXITSTATUS(state) != 77) {
    CHECK(WEXITSTATUS(state) == 0);
    CHECK(read_object(f.source, "a", 1).value() == uniform(3));
  }
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
