// A command of the program: declared to the command-line parser, run by main.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace tools {

// What the chosen command does; returns the exit code. Errors are thrown and mapped to exit codes by main.
using Command = std::function<int()>;

// Each adds its subcommand, whose callback sets `chosen`.
void add_train(CLI::App& app, Command& chosen);
void add_eval(CLI::App& app, Command& chosen);
void add_generate(CLI::App& app, Command& chosen);
void add_import(CLI::App& app, Command& chosen);
void add_export(CLI::App& app, Command& chosen);
void add_experts(CLI::App& app, Command& chosen);
void add_plan(CLI::App& app, Command& chosen);
void add_report(CLI::App& app, Command& chosen);
void add_bench(CLI::App& app, Command& chosen);
void add_ckpt(CLI::App& app, Command& chosen);
void add_config(CLI::App& app, Command& chosen);
void add_data(CLI::App& app, Command& chosen);
void add_doctor(CLI::App& app, Command& chosen);
// These know every command added before or after them.
void add_completion(CLI::App& app, Command& chosen);
void add_man(CLI::App& app, Command& chosen);

}  // namespace tools
