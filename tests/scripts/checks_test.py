#!/usr/bin/env python3
"""Each check passes a small sound tree and reports what is planted in it, at its place."""

import os
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "scripts"))
sys.dont_write_bytecode = True

import check_includes  # noqa: E402
import check_kernels  # noqa: E402
import check_ops  # noqa: E402
import check_style  # noqa: E402
import plant_bugs  # noqa: E402
import summarize_tests  # noqa: E402

OP = "KERNEL(void norm_forward(const A&); void norm_backward(const A&))\n"
OP_CALLS = "void norm_forward(const A& a);\nvoid norm_backward(const A& a);\n"


class TreeTest(unittest.TestCase):
    """A tree of a few files, in a directory of its own without history."""

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.root = self.directory.name
        self.write("engine/core/tensor.h", "#include <cstdint>\n")
        self.write("engine/ops/norm.h", '#include "engine/core/tensor.h"\n' + OP_CALLS + OP)
        for path in ("engine/ops/norm.cpp", "engine/ops/norm_cpu.cpp", "tests/engine/ops/norm_test.cpp"):
            self.write(path, '#include "engine/ops/norm.h"\n')
        self.write("comm/group.h", '#include "engine/core/tensor.h"\n')

    def write(self, path, text):
        path = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


class IncludesTest(TreeTest):
    def problems(self):
        return check_includes.check_tree(self.root)[0]

    def reports(self, path, text, *parts):
        self.write(path, text)
        found = self.problems()
        self.assertEqual(len(found), 1, found)
        for part in (path,) + parts:
            self.assertIn(part, found[0])

    def test_a_sound_tree_passes(self):
        self.assertEqual(self.problems(), [])

    def test_the_line_of_a_violation_is_named(self):
        self.reports("engine/nn/layer.h", '\n#include "comm/group.h"\n', "layer.h:2:", "engine/nn includes comm/group.h")

    def test_the_floor_includes_nothing_above_it(self):
        self.reports("engine/core/buffer.h", '#include "engine/ops/norm.h"\n', "nothing but itself")

    def test_moe_may_include_comm_and_attention_may_not(self):
        self.write("moe/dispatcher.h", '#include "comm/group.h"\n')
        self.reports("attention/layer.h", '#include "comm/group.h"\n', "attention includes comm/group.h")

    def test_attention_and_moe_do_not_see_each_other(self):
        self.write("attention/layer.h", "")
        self.reports("moe/layer.h", '#include "attention/layer.h"\n', "moe includes attention")

    def test_the_model_does_not_include_the_trainer(self):
        self.write("engine/train/trainer.h", "")
        self.reports("engine/model/model.h", '#include "engine/train/trainer.h"\n', "engine/model includes")

    def test_the_trainer_and_the_tools_may_include_all_below(self):
        self.write("engine/model/model.h", "")
        self.write("engine/data/corpus.h", "#include <nlohmann/json.hpp>\n")
        self.write("engine/train/trainer.h", '#include "engine/model/model.h"\n#include "engine/data/corpus.h"\n')
        self.write("tools/main.cpp", '#include <CLI/CLI.hpp>\n#include "engine/train/trainer.h"\n')
        self.assertEqual(self.problems(), [])

    def test_libraries_stay_where_they_belong(self):
        self.write("comm/mpi_group.cpp", "#include <mpi.h>\n#include <nccl.h>\n")
        self.write("engine/ops/norm_cuda.cu", "#include <cuda_runtime.h>\n#include <cub/cub.cuh>\n")
        for path, header in (("moe/layer.cpp", "mpi.h"), ("moe/layer.cpp", "nccl.h"), ("moe/layer.cpp", "cub/cub.cuh"),
                             ("engine/train/trainer.cpp", "CLI/CLI.hpp"), ("moe/layer.cpp", "nlohmann/json.hpp"),
                             ("engine/core/error.h", "cuda_runtime.h"), ("tools/main.cpp", "doctest/doctest.h")):
            with self.subTest(header):
                self.reports(path, f"#include <{header}>\n", f"includes {header}")
                os.remove(os.path.join(self.root, path))

    def test_tests_may_include_anything(self):
        self.write("tests/moe/a_test.cpp", '#include <mpi.h>\n#include "comm/group.h"\n')
        self.assertEqual(self.problems(), [])

    def test_only_tests_include_tests(self):
        self.write("tests/support/compare.h", "")
        self.reports("moe/layer.cpp", '#include "tests/support/compare.h"\n', "only tests may include tests/")

    def test_headers_are_named_from_the_root(self):
        self.reports("engine/ops/cast.h", '#include "norm.h"\n', "not in the tree")
        self.reports("engine/ops/cast.h", "#include <engine/core/tensor.h>\n", 'included with "..."')

    def test_headers_in_a_ring_are_found(self):
        self.write("moe/a.h", '#include "moe/b.h"\n')
        self.reports("moe/b.h", '#include "moe/a.h"\n', "moe/a.h -> moe/b.h -> moe/a.h")

    def test_a_folder_without_a_level_is_found(self):
        self.reports("engine/extra/a.h", "", "engine/extra has no level")

    def test_the_order_of_the_levels_is_acyclic(self):
        self.assertIsNone(check_includes.find_cycle(check_includes.MAY_INCLUDE))

    def test_the_script_ends_with_one_on_a_violation(self):
        script = os.path.join(ROOT, "scripts/check_includes.py")
        command = [sys.executable, "-B", script, self.root]
        self.assertEqual(subprocess.run(command, capture_output=True, check=False).returncode, 0)
        self.write("engine/nn/layer.h", '#include "comm/group.h"\n')
        self.assertEqual(subprocess.run(command, capture_output=True, check=False).returncode, 1)


class OpsTest(TreeTest):
    def problems(self, no_cuda=("engine/ops/norm",), no_backward=()):
        return check_ops.check_tree(self.root, no_cuda, no_backward)[0]

    def one(self, part, **lists):
        found = self.problems(**lists)
        self.assertEqual(len(found), 1, found)
        self.assertIn(part, found[0])

    def test_a_complete_op_passes(self):
        self.assertEqual(self.problems(), [])

    def test_every_missing_file_is_named(self):
        for path in ("engine/ops/norm.cpp", "engine/ops/norm_cpu.cpp", "tests/engine/ops/norm_test.cpp"):
            with self.subTest(path):
                os.rename(os.path.join(self.root, path), os.path.join(self.root, "kept"))
                self.one(f"no {path}")
                os.rename(os.path.join(self.root, "kept"), os.path.join(self.root, path))

    def test_an_op_has_a_gpu_kernel_or_an_entry_but_not_both(self):
        self.one("no engine/ops/norm_cuda.cu", no_cuda=())
        self.write("engine/ops/norm_cuda.cu", "")
        self.assertEqual(self.problems(no_cuda=()), [])
        self.one("take it off the list")

    def test_an_entry_that_is_no_op_is_found(self):
        self.one("engine/ops/gone, which is no op", no_cuda=("engine/ops/norm", "engine/ops/gone"))

    def test_a_forward_has_a_backward_or_an_entry(self):
        self.write("engine/ops/norm.h", "void norm_forward(const A& a);\nKERNEL(void norm_forward(const A&))\n")
        self.one("norm_forward has no norm_backward")
        self.assertEqual(self.problems(no_backward=("norm_forward",)), [])

    def test_a_backward_in_parts_is_a_backward(self):
        self.write("engine/ops/norm.h", "KERNEL(void norm_forward(const A&); void norm_backward_input(const A&))\n")
        self.assertEqual(self.problems(), [])


class KernelsTest(TreeTest):
    def test_symbols_outside_the_namespace_are_found(self):
        listing = "\n".join((
            "0000000000000000 T engine::ops::avx512::norm(engine::ops::A const&)",
            "0000000000000000 W void engine::parallel_for<engine::ops::avx512::norm(A const&)::{lambda()#1}>(long)",
            "                 U memcpy",
            "0000000000000000 t internal()",
            "0000000000000000 V DW.ref.__gxx_personality_v0",
            "0000000000000000 W std::vector<float>::push_back(float)",
            "0000000000000000 T engine::ops::avx2::norm(engine::ops::A const&)",
            "0000000000000000 u engine::table"))
        self.assertEqual(check_kernels.foreign_symbols(listing, "avx512"),
                         ["std::vector<float>::push_back(float)", "engine::ops::avx2::norm(engine::ops::A const&)",
                          "engine::table"])

    def test_a_directory_without_kernels_does_not_pass(self):
        self.assertIn("no objects of kernels", check_kernels.check_build(self.root)[0][0])


class StyleTest(TreeTest):
    def test_long_files_and_paths_of_a_machine_are_found(self):
        self.assertEqual(check_style.check_tree(self.root)[0], [])
        self.write("moe/long.cpp", "\n" * (check_style.MAX_LINES + 1))
        self.write("README.md", "see https://example.org/" + "work/a\nsee /" + "work/a\n")
        found = check_style.check_tree(self.root)[0]
        self.assertEqual([problem.split(" ")[0] for problem in found], ["README.md:2:", "moe/long.cpp:601:"])


class PlantedBugsTest(unittest.TestCase):
    def test_every_bug_fits_the_source_in_one_place(self):
        bugs = plant_bugs.read_bugs()
        self.assertGreater(len(bugs), 100)
        self.assertEqual([bug["what"] for bug in bugs if plant_bugs.times_in_source(bug) != 1], [])


class SummaryTest(unittest.TestCase):
    def test_every_result_is_counted_and_explained(self):
        def test(name, result, output=""):
            return {"name": name, "result": result, "stdout": output, "returncode": 1}

        lines = summarize_tests.summarize(
            [test("a", "OK"), test("b", "FAIL", "first\nwanted 2"), test("c", "SKIP", "skipped: no GPU\n"),
             test("d", "TIMEOUT"), test("e", "EXPECTEDFAIL"), test("f", "UNEXPECTEDPASS")], "unit")
        self.assertEqual(lines[-1], "counts 2 3 1")
        self.assertIn("unit: c skipped: no GPU", lines)
        self.assertIn("    wanted 2", lines)


if __name__ == "__main__":
    unittest.main()
