// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

using json = nlohmann::ordered_json;

/// Ends a command with a message and an exit code: 1 = the data is bad or the work failed, 2 = the call is wrong.
struct failure : std::runtime_error {
  failure(int c, const std::string& what) : std::runtime_error(what), code(c) {}
  int code;
};
inline failure usage_error(const std::string& what) { return failure(2, what); }
inline failure data_error(const std::string& what) { return failure(1, what); }

/// One option of a command; members say what it takes.
class option {
 public:
  option() = default;
  explicit option(CLI::Option* o) : option_(o) {}

  option required() const;
  option range(int low, int high) const;
  option range(std::size_t low, std::size_t high) const;
  option range(double low, double high) const;
  option one_of(const std::vector<std::string>& values) const;
  option delimiter(char between) const;  ///< one word has all values
  option excludes(option other) const;
  /// How often the call gives it.
  std::size_t count() const;

 private:
  CLI::Option* option_ = nullptr;
};

/// Takes the description of a command's options: names as CLI11 spells them ("-o,--output"; without dashes it is positional),
/// where the value goes, whose value before is the default, and what the help says.
class option_list {
 public:
  explicit option_list(CLI::App& app) : app_(&app) {}

  option add_option(const std::string& name, int& to, const std::string& help);
  option add_option(const std::string& name, unsigned long& to, const std::string& help);
  option add_option(const std::string& name, unsigned long long& to, const std::string& help);
  option add_option(const std::string& name, float& to, const std::string& help);
  option add_option(const std::string& name, double& to, const std::string& help);
  option add_option(const std::string& name, std::string& to, const std::string& help);
  option add_option(const std::string& name, std::vector<double>& to, const std::string& help);
  option add_option(const std::string& name, std::vector<std::string>& to, const std::string& help);
  option add_flag(const std::string& name, bool& to, const std::string& help);
  void footer(const std::string& text);

 private:
  CLI::App* app_;
};

/// A program of several commands. Each has a struct of options, a function that describes them, and a function that does
/// the work and returns the exit code: 0 = done, 1 = the data is bad or the work failed, 2 = the call is wrong.
/// Every command has --help, and there is `help COMMAND`; with --json, its result and its errors are JSON on stdout.
/// CLI11 does the reading, in command.cpp alone: it takes longer to compile than a command.
class program {
 public:
  program(std::string name, const std::string& about);
  ~program();
  program(const program&) = delete;
  program& operator=(const program&) = delete;

  /// `name` may be two words, of which the first names a group of commands.
  template <class Options>
  void add(const char* name, const char* about, void (*describe)(option_list&, Options&), int (*work)(const Options&)) {
    const auto options = std::make_shared<Options>();
    option_list list = add(name, about, [options, work] { return work(*options); });
    describe(list, *options);
  }
  /// What the help says of a group of commands.
  void name_group(const char* group, const char* about);
  void version(const std::string& text, const std::string& help);
  void footer(const std::string& text);

  int run(int argc, char** argv);

  /// Writes JSON to stdout, whatever bytes names in it are made of.
  static void print(const json& facts);

 private:
  option_list add(const char* name, const char* about, std::function<int()> work);

  std::string name_;
  std::unique_ptr<CLI::App> app_;
  int code_ = 0;
};

/// A line on stderr that says how far long work is; silent where stderr is no terminal.
class progress {
 public:
  explicit progress(std::string what);
  ~progress();
  void at(std::size_t done, std::size_t total);

 private:
  std::string what_;
  bool shown_, drawn_ = false;
};
