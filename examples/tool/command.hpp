// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

using json = nlohmann::ordered_json;

/// Ends a command with a message and an exit code: 1 = the data is bad or the work failed, 2 = the call is wrong.
struct failure : std::runtime_error {
  failure(int c, const std::string& what) : std::runtime_error(what), code(c) {}
  int code;
};
inline failure usage_error(const std::string& what) { return failure(2, what); }
inline failure data_error(const std::string& what) { return failure(1, what); }

/// A program of several commands. Each has a struct of options, a function that describes them to CLI11, and a function
/// that does the work and returns the exit code: 0 = done, 1 = the data is bad or the work failed, 2 = the call is wrong.
/// Every command has --help, and there is `help COMMAND`; with --json, its result and its errors are JSON on stdout.
class program {
 public:
  program(std::string name, const std::string& about) : name_(std::move(name)), app_(about, name_) {
    app_.require_subcommand(1);
    app_.set_help_flag("-h,--help", "what can be asked");
    app_.option_defaults()->always_capture_default();
  }
  CLI::App& app() { return app_; }

  template <class Options>
  void add(const char* name, const char* about, void (*describe)(CLI::App&, Options&), int (*work)(const Options&)) {
    const auto options = std::make_shared<Options>();
    CLI::App* command = app_.add_subcommand(name, about);
    describe(*command, *options);
    command->final_callback([this, options, work] { code_ = work(*options); });
  }

  int run(int argc, char** argv) {
    bool as_json = false;
    for (int i = 1; i < argc; ++i) as_json |= std::string_view(argv[i]) == "--json";
    const auto report = [&](const std::string& message, int code) {
      if (as_json) print(json{{"error", message}});
      std::fprintf(stderr, "%s: %s\n", name_.c_str(), message.c_str());
      return code;
    };
    // `help` and `help COMMAND`, as others have it.
    char ask[] = "--help";
    char* help[] = {argv[0], argc > 2 ? argv[2] : ask, ask, nullptr};
    const bool helps = argc > 1 && std::string_view(argv[1]) == "help";
    if (helps) argc = argc > 2 ? 3 : 2, argv = help;
    try {
      app_.parse(argc, argv);
      return std::fflush(stdout) == 0 ? code_ : report("output cannot be written", 1);
    } catch (const CLI::Success& asked) {  // --help, --version
      const int code = app_.exit(asked);
      return std::cout.flush() ? code : report("output cannot be written", 1);
    } catch (const CLI::ParseError& wrong) {
      bool known = argc < 2 || argv[1][0] == '-';
      for (const CLI::App* c : app_.get_subcommands([](CLI::App*) { return true; }))
        known = known || c->get_name() == argv[1];
      if (!known) return report("there is no command " + std::string(argv[1]) + " (see --help)", 2);
      return report(std::string(wrong.what()) + " (see --help)", 2);
    } catch (const failure& f) {
      return report(f.what(), f.code);
    } catch (const std::bad_alloc&) {
      return report("out of memory", 1);
    } catch (const std::exception& e) {
      return report(e.what(), 1);
    }
  }

  /// Writes JSON to stdout, whatever bytes names in it are made of.
  static void print(const json& facts) {
    std::printf("%s\n", facts.dump(1, ' ', false, json::error_handler_t::replace).c_str());
  }

 private:
  std::string name_;
  CLI::App app_;
  int code_ = 0;
};

/// A line on stderr that says how far long work is; silent where stderr is no terminal.
class progress {
 public:
  explicit progress(std::string what) : what_(std::move(what)), shown_(::isatty(2) == 1) {}
  ~progress() {
    if (shown_ && drawn_) std::fprintf(stderr, "\r\033[K");
  }
  void at(std::size_t done, std::size_t total) {
    if (!shown_ || !total) return;
    drawn_ = true;
    constexpr std::size_t width = 30;
    const std::size_t full = done * width / total;
    std::fprintf(stderr, "\r%s [%s%s] %zu/%zu", what_.c_str(), std::string(full, '#').c_str(),
                 std::string(width - full, '.').c_str(), done, total);
    std::fflush(stderr);
  }

 private:
  std::string what_;
  bool shown_, drawn_ = false;
};
