// SPDX-License-Identifier: Apache-2.0
// The command itself, as people call it: what it says, what it exits with, and what it says where a store fails.
#include "tiny_model.hpp"

#include <servers.hpp>

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include <sys/wait.h>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace {

using json = nlohmann::ordered_json;
namespace fs = std::filesystem;

struct outcome {
  int code = -1;
  std::string out, err;
  double seconds = 0;
  json facts() const { return json::parse(out, nullptr, false); }
};

std::string contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

outcome run_engine(const std::vector<std::string>& words) {
  servers::temporary_folder scratch;
  std::string command = "'" SLUICE_ENGINE "'";
  for (const std::string& w : words) command += " '" + w + "'";
  command += " >" + scratch.path + "/out 2>" + scratch.path + "/err </dev/null";
  const auto begin = std::chrono::steady_clock::now();
  const int rc = std::system(command.c_str());
  outcome o;
  o.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  o.code = WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
  o.out = contents(scratch.path + "/out");
  o.err = contents(scratch.path + "/err");
  return o;
}

bool holds(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

// A model, a document of two chunks, and calls about them.
struct fixture {
  servers::temporary_folder folder;
  std::string model = folder.path + "/tiny.gguf", document = folder.path + "/document.txt",
              store = folder.path + "/store";

  fixture() {
    std::ofstream(model, std::ios::binary) << tiny::make_gguf({.arch = "llama", .layers = 2, .seed = 8});
    std::ofstream text(document);
    for (int i = 0; i < 20; ++i) text << "hello world in line " << i << " of all\n";
  }
  std::vector<std::string> call(const char* command, std::vector<std::string> more = {}) const {
    std::vector<std::string> words{command, model, "--prompt-file", document, "--threads", "1", "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  outcome save(std::vector<std::string> more = {}) const {
    return run_engine(call("save", with_store(std::move(more))));
  }
  outcome resume(std::vector<std::string> more = {}) const {
    more.insert(more.end(), {"--question", "what?"});
    if (std::find(more.begin(), more.end(), "--tokens") == more.end()) more.insert(more.end(), {"--tokens", "2"});
    return run_engine(call("resume", with_store(std::move(more))));
  }
  std::vector<std::string> with_store(std::vector<std::string> more) const {
    for (const std::string& w : more)
      if (w == "--store") return more;
    more.insert(more.end(), {"--store", store});
    return more;
  }
  std::vector<std::string> files(const std::string& ending) const {
    std::vector<std::string> out;
    for (const auto& e : fs::directory_iterator(store))
      if (e.path().string().ends_with(ending)) out.push_back(e.path().string());
    return out;
  }
};

}  // namespace

TEST_CASE("command: every command describes itself; what is wrong with a call is said, and exits with 2") {
  const outcome all = run_engine({"--help"});
  CHECK(all.code == 0);
  for (const char* command :
       {"run", "save", "resume", "blend", "perplexity", "calibrate", "quality", "capture", "tokenize"}) {
    CAPTURE(command);
    CHECK(holds(all.out, command));
    const outcome help = run_engine({command, "--help"});
    CHECK(help.code == 0);
    CHECK(run_engine({command, "-h"}).out == help.out);
    CHECK(holds(help.out, "MODEL"));
    CHECK(run_engine({command}).code == 2);
    CHECK(run_engine({command, "--unheard-of"}).code == 2);
  }
  const outcome help = run_engine({"resume", "--help"});
  for (const char* word : {"--strict", "--deadline", "--policy", "--level", "--salt", "--max-tokens", "--question",
                           "=1 ", "progressive_cake", "redis", "--threads"}) {
    CAPTURE(word);
    CHECK(holds(help.out, word));
  }
  CHECK(run_engine({}).code == 2);
  CHECK(run_engine({"unheard-of"}).code == 2);
  fixture f;
  CHECK(f.resume({"--level", "1", "--deadline", "1"}).code == 2);
  CHECK(f.resume({"--policy", "unheard-of"}).code == 2);
  CHECK(f.save({"--levels", "9"}).code == 2);
  const outcome missing = run_engine({"run", f.model, "--prompt-file", f.folder.path + "/nowhere", "--json"});
  CHECK(missing.code == 1);
  CHECK(holds(missing.err, "No such file"));
  CHECK(holds(missing.facts().value("error", ""), "No such file"));
}

TEST_CASE("command: the level that was restored is said, with what a second save made better") {
  fixture f;
  REQUIRE(f.save({"--levels", "1"}).code == 0);
  const outcome coarse = f.resume({"--level", "3"});
  CHECK(coarse.code == 0);
  json facts = coarse.facts();
  REQUIRE(facts.is_object());
  CHECK(facts["level"] == 0);
  CHECK(facts["asked_level"] == 3);
  for (const json& l : facts["chunk_levels"]) CHECK(l == 0);
  REQUIRE(facts["faults"].size() == 1);
  CHECK(holds(coarse.err, "level not present"));
  CHECK(f.resume({"--level", "3", "--strict"}).code == 1);
  CHECK(f.resume({"--level", "0", "--strict"}).code == 0);

  const json refined = f.save().facts();
  CHECK(refined["objects_refined"] == refined["chunks"]);
  CHECK(f.resume({"--level", "3", "--strict"}).facts()["level"] == 3);

  for (const std::string& file : f.files("")) {
    if (file.ends_with(".json")) continue;
    std::string bytes = contents(file);
    bytes[bytes.size() / 2] = char(bytes[bytes.size() / 2] ^ 1);
    std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
  }
  const outcome damaged = f.resume({"--level", "3"});
  CHECK(damaged.code == 0);
  CHECK_FALSE(damaged.facts()["faults"].empty());
  CHECK(f.resume({"--level", "3", "--strict"}).code == 1);
  CHECK(f.save().facts()["objects_repaired"] == refined["chunks"]);
  const outcome sound = f.resume({"--level", "3", "--strict"});
  CHECK(sound.code == 0);
  CHECK(sound.facts()["restored_tokens"] == sound.facts()["document_tokens"]);
  CHECK(f.resume({"--salt", "another"}).facts()["restored_tokens"] == 0);
}

TEST_CASE("command: an answer that was drafted on a coarse level is that of the exact cache") {
  fixture f;
  REQUIRE(f.save({"--exact-copies"}).code == 0);
  const std::string link = f.folder.path + "/link.csv";
  std::ofstream(link) << "duration_s,bandwidth_bps,latency_s\n1000,2000000,0.001\n";
  for (const char* level : {"0", "1"}) {
    json facts =
        f.resume({"--draft-level", level, "--link", link, "--compare", "--ignore-end", "--strict", "--tokens", "90"})
            .facts();
    REQUIRE(facts.is_object());
    CHECK(facts["compare"]["same_answer"] == true);
    CHECK(facts["token_seconds"].size() == 90);
    CHECK(facts["draft"]["accepted"] <= facts["draft"]["tokens"]);
    for (const json& l : facts["chunk_levels"]) CHECK(l == "exact");
  }
  CHECK(f.resume({"--draft-level", "0", "--deadline", "1"}).code == 2);
  CHECK(f.resume({"--draft-level", "0", "--layer-parts", "2"}).code == 2);
}

TEST_CASE("command: hidden states are kept beside keys and values, and answer as these do") {
  fixture f;
  const json saved = f.save({"--payload", "hidden", "--exact-copies"}).facts();
  REQUIRE(saved.is_object());
  CHECK(saved["payload"] == "hidden");
  CHECK(f.resume().facts()["restored_tokens"] == 0);  // they are no keys and values
  json facts = f.resume({"--payload", "hidden", "--level", "3", "--compare", "--strict"}).facts();
  REQUIRE(facts.is_object());
  CHECK(facts["restored_tokens"] == facts["document_tokens"]);
  CHECK(facts["seconds"]["project"] > 0);
  CHECK(facts["raw_bytes"] == saved["raw_bytes"]);
  CHECK(facts["compare"]["kl"] < 0.05);
  for (const char* policy : {"cake", "progressive_cake"}) {
    CAPTURE(policy);
    facts = f.resume({"--payload", "hidden", "--deadline", "5", "--policy", policy, "--compare", "--strict"}).facts();
    REQUIRE(facts.is_object());
    CHECK(facts["computed_tokens"].get<int>() + facts["restored_tokens"].get<int>() ==
          facts["document_tokens"].get<int>() + facts["question_tokens"].get<int>());
    CHECK(facts["compare"]["kl"] < 0.05);
  }
  for (const std::string& file : f.files("")) {
    if (file.ends_with(".json")) continue;
    std::string bytes = contents(file);
    bytes[bytes.size() / 10] = char(bytes[bytes.size() / 10] ^ 1);  // of the base, so that its tokens are computed
    std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
  }
  facts = f.resume({"--payload", "hidden", "--level", "3", "--compare"}).facts();
  CHECK_FALSE(facts["faults"].empty());
  CHECK(facts["compare"]["kl"] < 0.05);
  CHECK(f.resume({"--payload", "hidden", "--layer-parts", "2"}).code == 2);
  CHECK(f.resume({"--payload", "hidden", "--draft-level", "0"}).code == 2);
  CHECK(f.save({"--payload", "hidden", "--measure"}).code == 2);
  CHECK(f.save({"--payload", "unheard-of"}).code == 2);
}

TEST_CASE("command: layers from the text, over this model's caches and another's") {
  fixture f;
  const std::string other = f.folder.path + "/other.gguf";
  std::ofstream(other, std::ios::binary) << tiny::make_gguf({.arch = "llama", .layers = 2, .seed = 9});
  REQUIRE(f.save().code == 0);
  const json own = f.resume({"--level", "3", "--compute-layers", "1", "--compare", "--strict"}).facts();
  REQUIRE(own.is_object());
  CHECK(own["compute_layers"] == 1);
  CHECK(own["compare"]["kl"] < 0.05);
  CHECK(own["bytes"] < f.resume({"--level", "3"}).facts()["bytes"]);
  CHECK(f.resume({"--compute-layers", "1", "--deadline", "5", "--strict"}).code == 0);
  CHECK(f.resume({"--cache-of", other}).facts()["restored_tokens"] == 0);
  std::vector<std::string> call = f.call("save", {"--store", f.store});
  call[1] = other;
  REQUIRE(run_engine(call).code == 0);
  const json its =
      f.resume({"--cache-of", other, "--level", "3", "--compute-layers", "1", "--compare", "--strict"}).facts();
  REQUIRE(its.is_object());
  CHECK(its["restored_tokens"] == its["document_tokens"]);
  CHECK(its["compare"]["kl"] > own["compare"]["kl"]);
  CHECK(f.resume({"--compute-layers", "2"}).code == 2);  // nothing would be fetched
  CHECK(f.resume({"--compute-layers", "1", "--payload", "hidden"}).code == 2);
  CHECK(f.resume({"--compute-layers", "1", "--layer-parts", "2"}).code == 2);
  CHECK(f.resume({"--cache-of", f.folder.path + "/nowhere"}).code == 1);
}

TEST_CASE("command: documents that were cached one by one answer together") {
  fixture f;
  const std::string second = f.folder.path + "/second.txt";
  std::ofstream text(second);
  for (int i = 0; i < 15; ++i) text << "another text about " << i * 7 << " things\n";
  text.close();
  const auto blend = [&](std::vector<std::string> more) {
    std::vector<std::string> words{"blend",   f.model,     "--document", f.document, "--document", second,
                                   "--store", f.store,     "--question", "what?",    "--tokens",   "4",
                                   "--json",  "--threads", "1",          "--compare"};
    words.insert(words.end(), more.begin(), more.end());
    return run_engine(words);
  };
  json facts = blend({"--fraction", "0"}).facts();
  REQUIRE(facts.is_object());
  CHECK(facts["documents_saved"] == 2);
  CHECK(facts["computed_tokens"] == 0);
  const double plain = facts["compare"]["kl"];
  CHECK(plain > 0);
  facts = blend({"--fraction", "1"}).facts();
  CHECK(facts["documents_saved"] == 0);
  CHECK(facts["computed_share"] == 1);
  CHECK(facts["compare"]["kl"] < 1e-3);
  CHECK(facts["compare"]["answer"] == facts["answer"]);
  facts = blend({"--first", "8"}).facts();
  CHECK(facts["computed_tokens"] == 8);
  facts = blend({"--fraction", "0.3"}).facts();
  CHECK(facts["computed_tokens"] > 8);
  CHECK(facts["checked_tokens"] > facts["computed_tokens"]);
  CHECK(blend({"--fraction", "0.3", "--first", "8"}).code == 2);
  CHECK(blend({"--fraction", "1.5"}).code == 2);
  CHECK(blend({"--document", f.folder.path + "/nowhere"}).code == 1);
}

TEST_CASE("command: a deadline needs no note of what computing costs") {
  fixture f;
  REQUIRE(f.save().code == 0);
  const auto costs = [&] {
    const outcome o = f.resume({"--deadline", "5"});
    CHECK(o.code == 0);
    return o.facts().value("costs", "");
  };
  CHECK(costs() == "saved");
  const std::vector<std::string> notes = f.files(".json");
  REQUIRE(notes.size() == 1);
  const std::string sound = contents(notes[0]);
  const auto write = [&](const std::string& text) {
    std::ofstream(notes[0], std::ios::binary | std::ios::trunc) << text;
  };
  for (const std::string& bad : {sound.substr(0, sound.size() / 2), std::string("{}"), std::string("\xff"),
                                 std::string(R"({"of":"another document","seconds_per_token":1})")}) {
    write(bad);
    CHECK(costs() == "measured");
  }
  CHECK(holds(f.resume({"--deadline", "5"}).err, "warning"));
  fs::remove(notes[0]);
  CHECK(costs() == "measured");
  write(sound);
  std::ofstream(f.document, std::ios::app) << "and one line more\n";  // the note is of a shorter one
  CHECK(costs() == "measured");
}

TEST_CASE("command: a store that cannot be reached is said in words, exits with 1 under --strict, and fails a save") {
  fixture f;
  std::vector<std::string> urls;
#ifdef SLUICE_WITH_REDIS
  urls.push_back("redis://:hunter2@127.0.0.1:" + std::to_string(servers::free_port()));
#endif
#ifdef SLUICE_WITH_HTTP
  urls.push_back("http://somebody:hunter2@127.0.0.1:" + std::to_string(servers::free_port()) + "/kv");
#endif
  for (const std::string& url : urls) {
    CAPTURE(url);
    for (const char* way : {"--level", "--deadline"}) {
      CAPTURE(way);
      const outcome o = f.resume({"--store", url, way, "1"});
      CHECK(o.code == 0);
      const json facts = o.facts();
      REQUIRE(facts.is_object());
      CHECK(facts["restored_tokens"] == 0);
      REQUIRE_FALSE(facts["faults"].empty());
      CHECK((facts["faults"][0]["why"] == "connection lost" || facts["faults"][0]["why"] == "timed out"));
      CHECK_FALSE(facts["faults"][0].value("detail", "").empty());
      CHECK(holds(o.err, facts["faults"][0].value("detail", "?")));
      CHECK_FALSE(holds(o.out + o.err, "hunter2"));
      CHECK(f.resume({"--store", url, way, "1", "--strict"}).code == 1);
    }
    const outcome saved = f.save({"--store", url});
    CHECK(saved.code == 1);
    CHECK(holds(saved.err, "the store: connection lost: "));
    CHECK_FALSE(holds(saved.out + saved.err, "hunter2"));
  }
}

#ifdef SLUICE_WITH_REDIS
TEST_CASE("command: redis: a wrong password, none, and a server that never answers") {
  if (servers::find_program("redis-server").empty()) return;
  fixture f;
  const int port = servers::free_port();
  servers::server guarded(servers::redis_command(f.folder.path, port, {"--requirepass", "s3cret"}), port);
  const std::string host = "127.0.0.1:" + std::to_string(port);
  for (const std::string& url : {"redis://:hunter2@" + host, "redis://" + host}) {
    CAPTURE(url);
    const outcome o = f.resume({"--store", url});
    CHECK(o.code == 0);
    const json facts = o.facts();
    REQUIRE_FALSE(facts["faults"].empty());
    CHECK(facts["faults"][0]["why"] == "refused by the store");
    const std::string word = holds(url, "hunter2") ? "WRONGPASS" : "NOAUTH";
    CHECK(holds(facts["faults"][0].value("detail", ""), word));
    CHECK(holds(o.err, word));
    CHECK(f.resume({"--store", url, "--strict"}).code == 1);
    const outcome saved = f.save({"--store", url});
    CHECK(saved.code == 1);
    CHECK(holds(saved.err, word));
    CHECK_FALSE(holds(o.out + o.err + saved.out + saved.err, "hunter2"));
  }
  const std::string right = "redis://:s3cret@" + host;
  CHECK(f.save({"--store", right}).code == 0);
  const outcome restored = f.resume({"--store", right, "--deadline", "5", "--strict"});
  CHECK(restored.code == 0);
  CHECK(restored.facts()["restored_tokens"].get<int>() + restored.facts()["computed_tokens"].get<int>() ==
        restored.facts()["document_tokens"].get<int>() + restored.facts()["question_tokens"].get<int>());
  CHECK_FALSE(holds(restored.out + restored.err, "s3cret"));

  int silent_port = 0;
  const int listener = servers::listen_somewhere(silent_port);
  const outcome silent = f.resume({"--store", "redis://127.0.0.1:" + std::to_string(silent_port), "--deadline", "0.5"});
  ::close(listener);
  CHECK(silent.code == 0);
  CHECK(silent.seconds < 25);
  CHECK_FALSE(silent.facts()["faults"].empty());
}
#endif

TEST_CASE("command: a second store gives what the first lacks, holds less of or is silent with") {
  fixture f;
  const std::string other = f.folder.path + "/other";
  REQUIRE(f.save({"--second", other}).code == 0);
  const auto whole = [&](const std::vector<std::string>& call) {
    const outcome o = f.resume(call);
    CAPTURE(o.err);
    CHECK(o.code == 0);
    const json facts = o.facts();
    CHECK(facts["computed_tokens"] == facts["question_tokens"]);
    CHECK(facts["faults"].empty());
  };
  whole({"--second", other, "--strict"});
  const std::vector<std::string> there = f.files("");
  REQUIRE(there.size() >= 2);
  fs::resize_file(there[0], fs::file_size(there[0]) / 2);
  for (std::size_t i = 1; i < there.size(); ++i) fs::remove(there[i]);
  whole({"--second", other, "--strict"});
  whole({"--second", other, "--strict", "--deadline", "10"});
  int silent_port = 0;
  const int listener = servers::listen_somewhere(silent_port);
  const std::string silent = "redis://127.0.0.1:" + std::to_string(silent_port);
#ifdef SLUICE_WITH_REDIS
  whole({"--store", silent, "--second", other, "--strict"});
#endif
  ::close(listener);
}

TEST_CASE("command: tiers: levels that do not fit wait on the slower one, and the next process finds them") {
  fixture f;
  const std::string fast = f.folder.path + "/fast", slow = f.folder.path + "/slow";
  REQUIRE(f.save().code == 0);
  const auto call = [&](const char* command, std::uintmax_t first, std::vector<std::string> more = {}) {
    more.insert(more.end(), {"--tier", fast + "," + std::to_string(first), "--tier", slow + ",1M"});
    return run_engine(f.call(command, more));
  };
  const auto bytes_in = [](const std::string& folder) {
    std::uintmax_t n = 0;
    for (const auto& e : fs::directory_iterator(folder))
      if (e.path().extension() != ".json") n += e.file_size();  // a note has measured times in it
    return n;
  };
  const std::uintmax_t whole = bytes_in(f.store);
  REQUIRE(call("save", whole / 2).code == 0);
  CHECK(bytes_in(fast) <= whole / 2);
  CHECK(bytes_in(slow) > 0);
  CHECK(bytes_in(fast) + bytes_in(slow) == whole);
  const auto restored = [&](std::uintmax_t first) {
    const outcome o = call("resume", first, {"--question", "what?", "--tokens", "2", "--strict", "--level", "3"});
    CAPTURE(o.err);
    CHECK(o.code == 0);
    return o.facts();
  };
  json facts = restored(whole / 2);
  CHECK(facts["computed_tokens"] == facts["question_tokens"]);
  CHECK(facts["level"] == 3);
  CHECK(bytes_in(fast) <= whole / 2);
  facts = restored(whole * 2);  // there is room now: what was read has come up
  CHECK(facts["level"] == 3);
  CHECK(bytes_in(fast) > whole / 2);
  // The slow tier is lost: what the fast one has is what there is, and the rest is computed.
  fs::remove_all(slow);
  CHECK(call("resume", whole * 2, {"--question", "what?", "--tokens", "2"}).code == 0);
  CHECK(f.resume({"--tier", fast + ",1M"}).code == 2);  // beside a store
  CHECK(run_engine(f.call("save", {"--tier", fast})).code == 2);
  CHECK(run_engine(f.call("save", {"--tier", fast + ",0"})).code == 2);
  CHECK(run_engine(f.call("save", {"--tier", fast + ",1X"})).code == 2);
  CHECK(run_engine(f.call("save")).code == 2);
}

TEST_CASE("command: a prompt beyond the model's context is warned of, and odd names never break JSON") {
  fixture f;
  std::ofstream(f.document) << std::string(4200, 'z');
  const outcome saved = f.save();
  CHECK(saved.code == 0);
  CHECK(holds(saved.err, "trained on 4096"));
  REQUIRE(saved.facts()["warnings"].is_array());
  CHECK(holds(saved.facts()["warnings"].dump(), "trained on 4096"));
  const outcome resumed = f.resume();
  CHECK(holds(resumed.facts()["warnings"].dump(), "trained on 4096"));
  const outcome run = run_engine(f.call("run", {"--tokens", "1"}));
  CHECK(holds(run.facts()["warnings"].dump(), "trained on 4096"));
  CHECK(f.resume({"--max-tokens", "100"}).facts()["warnings"].dump().find("trained on") == std::string::npos);

  const std::string odd = f.folder.path + "/\xff\xc3\xa9\xc3.gguf";
  fs::rename(f.model, odd);
  f.model = odd;
  std::ofstream(f.document) << "hello";
  for (const outcome& o : {f.save(), f.resume(), run_engine(f.call("run", {"--tokens", "4"}))}) {
    CHECK(o.code == 0);
    CHECK(o.facts().is_object());
  }
}
