// A command of the program: declared to the command-line parser, run by main.
#pragma once

namespace tools {

class CommandLine;

// Each adds its subcommand and says what it does.
void add_train(CommandLine& program);
void add_eval(CommandLine& program);
void add_generate(CommandLine& program);
void add_import(CommandLine& program);
void add_export(CommandLine& program);
void add_experts(CommandLine& program);
void add_plan(CommandLine& program);
void add_report(CommandLine& program);
void add_bench(CommandLine& program);
void add_ckpt(CommandLine& program);
void add_config(CommandLine& program);
void add_data(CommandLine& program);
void add_doctor(CommandLine& program);
// These know every command added before or after them.
void add_completion(CommandLine& program);
void add_man(CommandLine& program);

}  // namespace tools
