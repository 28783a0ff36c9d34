// switchyard: one executable, one file per command.
#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>

#include "engine/core/error.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/failure.h"
#include "tools/help_text.h"
#include "tools/usage_message.h"
#include "tools/version.h"

int main(int argc, char** argv) {
  CLI::App app("Switchyard trains mixture-of-experts transformers.", "switchyard");
  app.set_version_flag("--version", std::string("switchyard ") + tools::kVersion);
  app.formatter(std::make_shared<tools::HelpFormatter>());  // commands take it over
  app.require_subcommand(1);
  app.footer("Start with: switchyard train configs/debian_local.json");
  tools::Action chosen;
  tools::CommandLine commands(app, chosen);
  tools::add_train(commands);
  tools::add_eval(commands);
  tools::add_generate(commands);
  tools::add_import(commands);
  tools::add_export(commands);
  tools::add_experts(commands);
  tools::add_plan(commands);
  tools::add_report(commands);
  tools::add_bench(commands);
  tools::add_ckpt(commands);
  tools::add_config(commands);
  tools::add_data(commands);
  tools::add_doctor(commands);
  tools::add_completion(commands);
  tools::add_man(commands);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return tools::report_failure(
        std::make_exception_ptr(engine::Error(engine::ExitCode::usage, tools::usage_message(app, error))));
  }
  try {
    const int code = chosen();
    if (std::fflush(stdout) != 0) {
      throw engine::Error(engine::ExitCode::environment, engine::str("cannot write the result: ", std::strerror(errno),
                                                                     "; make room where stdout goes"));
    }
    return code;
  } catch (...) {
    return tools::report_failure(std::current_exception());
  }
}
