// switchyard: one executable, one file per command.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>

#include "engine/config/problems.h"
#include "engine/core/error.h"
#include "tools/command.h"

namespace {

using engine::ExitCode;

int report(ExitCode code, const std::string& message) {
  std::fprintf(stderr, "error: %s (exit %d)\n", message.c_str(), static_cast<int>(code));
  return static_cast<int>(code);
}

// The parser's own messages say little: add what the word may have been meant for.
int report_usage(const CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  std::string message = error.what(), hint;
  std::vector<std::string> commands;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    commands.push_back(command->get_name());
  if (argc > 1 && std::find(commands.begin(), commands.end(), argv[1]) == commands.end() && argv[1][0] != '-') {
    message = engine::str("there is no command \"", argv[1], "\"");
    const std::string near = engine::nearest(argv[1], commands);
    hint = near.empty() ? "" : engine::str("; did you mean \"", near, "\"?");
  }
  return report(ExitCode::usage, message + hint + "; see switchyard --help");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Switchyard trains mixture-of-experts transformers.", "switchyard");
  app.set_version_flag("--version", "switchyard " SWITCHYARD_VERSION);
  app.require_subcommand(1);
  app.footer("Start with: switchyard train configs/debian_local.json");
  tools::Command chosen;
  tools::add_train(app, chosen);
  tools::add_eval(app, chosen);
  tools::add_generate(app, chosen);
  tools::add_experts(app, chosen);
  tools::add_bench(app, chosen);
  tools::add_ckpt(app, chosen);
  tools::add_config(app, chosen);
  tools::add_data(app, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return report_usage(app, error, argc, argv);
  }
  try {
    return chosen();
  } catch (const engine::Error& error) {
    if (error.code() == ExitCode::bug) {
      return report(error.code(), std::string(error.what()) + "; this is a bug of ours, please report it");
    }
    return report(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return report(ExitCode::environment, "out of memory; use a smaller model, batch or train.micro_batch");
  } catch (const std::exception& error) {
    return report(ExitCode::bug, std::string(error.what()) + "; this is a bug of ours, please report it");
  }
}
