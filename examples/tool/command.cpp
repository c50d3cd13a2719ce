// SPDX-License-Identifier: Apache-2.0
#include "command.hpp"

#include <unistd.h>
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <new>
#include <string_view>
#include <vector>

option option::required() const { return option(option_->required()); }
option option::range(int low, int high) const { return option(option_->check(CLI::Range(low, high))); }
option option::range(std::size_t low, std::size_t high) const { return option(option_->check(CLI::Range(low, high))); }
option option::range(double low, double high) const { return option(option_->check(CLI::Range(low, high))); }
option option::one_of(const std::vector<std::string>& values) const {
  return option(option_->check(CLI::IsMember(values)));
}
option option::delimiter(char between) const { return option(option_->delimiter(between)->allow_extra_args(false)); }
option option::excludes(option other) const { return option(option_->excludes(other.option_)); }
std::size_t option::count() const { return option_->count(); }

option option_list::add_option(const std::string& name, int& to, const std::string& help) {
  return option(app_->add_option(name, to, help));
}
option option_list::add_option(const std::string& name, unsigned long& to, const std::string& help) {
  return option(app_->add_option(name, to, help));
}
option option_list::add_option(const std::string& name, unsigned long long& to, const std::string& help) {
  return option(app_->add_option(name, to, help));
}
option option_list::add_option(const std::string& name, float& to, const std::string& help) {
  return option(app_->add_option(name, to, help));
}
option option_list::add_option(const std::string& name, double& to, const std::string& help) {
  return option(app_->add_option(name, to, help));
}
option option_list::add_option(const std::string& name, std::string& to, const std::string& help) {
  return option(app_->add_option(name, to, help));
}
option option_list::add_option(const std::string& name, std::vector<double>& to, const std::string& help) {
  return option(app_->add_option(name, to, help));
}
option option_list::add_option(const std::string& name, std::vector<std::string>& to, const std::string& help) {
  return option(app_->add_option(name, to, help));
}
option option_list::add_flag(const std::string& name, bool& to, const std::string& help) {
  return option(app_->add_flag(name, to, help));
}
void option_list::footer(const std::string& text) { app_->footer(text); }

program::program(std::string name, const std::string& about)
    : name_(std::move(name)), app_(std::make_unique<CLI::App>(about, name_)) {
  app_->require_subcommand(1);
  app_->set_help_flag("-h,--help", "what can be asked");
  app_->option_defaults()->always_capture_default();
}
program::~program() = default;

option_list program::add(const char* name, const char* about, std::function<int()> work) {
  CLI::App* group = app_.get();
  const std::string_view words = name;
  const std::size_t space = words.find(' ');
  if (space != words.npos) {
    const std::string first(words.substr(0, space));
    const auto there = app_->get_subcommands([&](CLI::App* c) { return c->get_name() == first; });
    group = there.empty() ? app_->add_subcommand(first)->require_subcommand(1) : there[0];
  }
  CLI::App* command = group->add_subcommand(name + (space == words.npos ? 0 : space + 1), about);
  command->final_callback([this, work = std::move(work)] { code_ = work(); });
  return option_list(*command);
}

void program::name_group(const char* group, const char* about) { app_->get_subcommand(group)->description(about); }
void program::version(const std::string& text, const std::string& help) {
  app_->set_version_flag("--version", text, help);
}
void program::footer(const std::string& text) { app_->footer(text); }

int program::run(int argc, char** argv) {
  bool as_json = false;
  for (int i = 1; i < argc; ++i) as_json |= std::string_view(argv[i]) == "--json";
  const auto report = [&](const std::string& message, int code) {
    if (as_json) print(json{{"error", message}});
    std::fprintf(stderr, "%s: %s\n", name_.c_str(), message.c_str());
    return code;
  };
  // `help` and `help COMMAND`, as others have it.
  char ask[] = "--help";
  std::vector<char*> help;
  if (argc > 1 && std::string_view(argv[1]) == "help") {
    help.assign(argv, argv + argc);
    help.erase(help.begin() + 1);
    help.push_back(ask);
    help.push_back(nullptr);
    argv = help.data();
  }
  try {
    app_->parse(argc, argv);
    return std::fflush(stdout) == 0 ? code_ : report("output cannot be written", 1);
  } catch (const CLI::Success& asked) {  // --help, --version
    const int code = app_->exit(asked);
    return std::cout.flush() ? code : report("output cannot be written", 1);
  } catch (const CLI::ParseError& wrong) {
    bool known = argc < 2 || argv[1][0] == '-';
    for (const CLI::App* c : app_->get_subcommands([](CLI::App*) { return true; }))
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

void program::print(const json& facts) {
  std::printf("%s\n", facts.dump(1, ' ', false, json::error_handler_t::replace).c_str());
}

progress::progress(std::string what) : what_(std::move(what)), shown_(::isatty(2) == 1) {}

progress::~progress() {
  if (shown_ && drawn_) std::fprintf(stderr, "\r\033[K");
}

void progress::at(std::size_t done, std::size_t total) {
  if (!shown_ || !total) return;
  drawn_ = true;
  constexpr std::size_t width = 30;
  const std::size_t full = done * width / total;
  std::fprintf(stderr, "\r%s [%s%s] %zu/%zu", what_.c_str(), std::string(full, '#').c_str(),
               std::string(width - full, '.').c_str(), done, total);
  std::fflush(stderr);
}
