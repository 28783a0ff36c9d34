// switchyard: one executable, one file per command.
#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

#include "engine/core/error.h"
#include "tools/command.h"
#include "tools/usage_message.h"

namespace {

using engine::ExitCode;

int report(ExitCode code, const std::string& message) {
  std::fprintf(stderr, "error: %s (exit %d)\n", message.c_str(), static_cast<int>(code));
  return static_cast<int>(code);
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
  tools::add_import(app, chosen);
  tools::add_export(app, chosen);
  tools::add_experts(app, chosen);
  tools::add_bench(app, chosen);
  tools::add_ckpt(app, chosen);
  tools::add_config(app, chosen);
  tools::add_data(app, chosen);
  tools::add_doctor(app, chosen);
  tools::add_completion(app, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return report(ExitCode::usage, tools::usage_message(app, error));
  }
  try {
    const int code = chosen();
    if (std::fflush(stdout) != 0) {
      throw engine::Error(ExitCode::environment, engine::str("cannot write the result: ", std::strerror(errno),
                                                             "; make room where stdout goes"));
    }
    return code;
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
