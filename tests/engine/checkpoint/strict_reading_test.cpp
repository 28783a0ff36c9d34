// What the readers of safetensors headers, indexes, manifests and names refuse: files made by hand, one fault each.
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstring>

#include "engine/checkpoint/manifest.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/checkpoint/weight_index.h"
#include "engine/core/error.h"
#include "tests/support/compare.h"
#include "tests/support/temporary_directory.h"

namespace {

using namespace engine;
using namespace engine::checkpoint;

std::vector<SafetensorsEntry> parse(const std::string& header, int64_t data_bytes) {
  return parse_safetensors_header(header, 8 + static_cast<int64_t>(header.size()) + data_bytes);
}

// What the reader says of a header, "" if it takes it.
template <class Read>
std::string refusal(Read read) {
  try {
    read();
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::checkpoint);
    return error.what();
  }
  return "";
}

const std::string kGood = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";

std::string replaced(const std::string& from, const std::string& to) {
  std::string text = kGood;
  REQUIRE(text.find(from) != std::string::npos);
  return text.replace(text.find(from), from.size(), to);
}

std::string tensor(const std::string& name, const std::string& shape, int64_t begin, int64_t end,
                   const std::string& dtype = "F32") {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":[)" +
         std::to_string(begin) + "," + std::to_string(end) + "]}";
}

}  // namespace

TEST_CASE("strict reading: headers that the format allows are read") {
  CHECK(parse(kGood, 8).size() == 1);
  CHECK(parse("{}", 0).empty());
  CHECK(parse(kGood + "   ", 8).size() == 1);
  CHECK(parse(R"({"__metadata__":{"format":"pt"},)" + kGood.substr(1), 8).size() == 1);
  CHECK(parse("{" + tensor("b", "[1]", 4, 8) + "," + tensor("a", "[1]", 0, 4) + "}", 8)[0].begin > 0);
  CHECK(parse("{" + tensor("a", "[]", 0, 4) + "}", 4)[0].elements() == 1);
  CHECK(parse("{" + tensor("e", "[0,7]", 0, 0) + "," + tensor("a", "[1]", 0, 4) + "}", 4).size() == 2);
  for (const char* dtype : {"BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"}) {
    CHECK(parse("{" + tensor("a", "[3]", 0, 3, dtype) + "}", 3)[0].dtype == dtype);
  }
  CHECK(parse("{" + tensor(std::string(512, 'n'), "[1]", 0, 4) + "}", 4).size() == 1);
  CHECK(parse("{" + tensor("Schl\\u00fcssel", "[1]", 0, 4) + "}", 4)[0].name == "Schl\u00fcssel");
}

TEST_CASE("strict reading: a header with one fault is refused, and the fault is named") {
  struct Bad {
    std::string header;
    int64_t data_bytes;
    const char* message;
  };
  const Bad catalogue[] = {
      // the text
      {"", 0, "does not begin with {"},
      {"[]", 0, "does not begin with {"},
      {" " + kGood, 8, "does not begin with {"},
      {"\xef\xbb\xbf" + kGood, 8, "does not begin with {"},
      {"{", 0, "not valid JSON at byte 2"},
      {"{}x", 0, "not valid JSON"},
      {"{}{}", 0, "not valid JSON"},
      {kGood + std::string(1, '\0'), 8, "not valid JSON"},
      {kGood.substr(0, kGood.size() - 1), 8, "not valid JSON"},
      {"{\"a\":}", 0, "not valid JSON"},
      {"{\"a\":{},}", 0, "lacks its dtype"},
      {replaced("]}}", "]},}"), 8, "not valid JSON"},
      {replaced("{\"a\"", "{/**/\"a\""), 8, "not valid JSON"},
      {replaced("\"a\"", "a"), 8, "not valid JSON"},
      {replaced("\"a\"", "\"\xff\""), 8, "not valid JSON"},
      {replaced("\"a\"", "\"\\ud800\""), 8, "not valid JSON"},
      {replaced("\"a\"", "\"a\nb\""), 8, "not valid JSON"},
      {replaced("[2]", "[02]"), 8, "not valid JSON"},
      {replaced("[2]", "[NaN]"), 8, "not valid JSON"},
      // values in wrong places
      {"{\"a\":null}", 0, "null where that cannot be"},
      {"{\"a\":[]}", 0, "a list where that cannot be"},
      {"{\"a\":\"F32\"}", 0, "a text where that cannot be"},
      {"{\"a\":1}", 0, "a number where that cannot be"},
      {replaced("\"F32\"", "32"), 8, "a number where that cannot be"},
      {replaced("\"F32\"", "{}"), 8, "an object where that cannot be"},
      {replaced("[2]", "2"), 8, "a number where that cannot be"},
      {replaced("[2]", "[[2]]"), 8, "a list where that cannot be"},
      {replaced("[2]", "[\"2\"]"), 8, "a text where that cannot be"},
      {replaced("[2]", "[true]"), 8, "true or false where that cannot be"},
      {replaced("[2]", "[2.0]"), 8, "no integer"},
      {replaced("[2]", "[2e0]"), 8, "no integer"},
      {replaced("[2]", "[-2]"), 8, "a negative number"},
      {replaced("[0,8]", "[-0,8]"), 8, "a negative number"},
      {replaced("[2]", "[18446744073709551616]"), 8, "no integer"},
      {replaced("[0,8]", "{}"), 8, "an object where that cannot be"},
      // keys
      {replaced("\"dtype\":\"F32\",", ""), 8, "lacks its dtype"},
      {replaced("\"shape\":[2],", ""), 8, "lacks its dtype, its shape"},
      {replaced(",\"data_offsets\":[0,8]", ""), 8, "lacks its dtype, its shape or two data_offsets"},
      {replaced("]}", "],\"extra\":1}"), 8, "the unknown key \"extra\""},
      {replaced("\"shape\"", "\"Shape\""), 8, "the unknown key \"Shape\""},
      {replaced("\"shape\"", "\"dtype\":\"F32\",\"shape\""), 8, "\"dtype\" twice"},
      {replaced("\"shape\"", "\"shape\":[2],\"shape\""), 8, "\"shape\" twice"},
      {replaced("]}", "],\"data_offsets\":[0,8]}"), 8, "\"data_offsets\" twice"},
      // names
      {"{" + tensor("a", "[1]", 0, 4) + "," + tensor("a", "[1]", 4, 8) + "}", 8, "tensor a stands twice"},
      {"{" + tensor("a", "[1]", 0, 4) + "," + tensor("\\u0061", "[1]", 4, 8) + "}", 8, "tensor a stands twice"},
      {"{" + tensor("", "[1]", 0, 4) + "}", 4, "may have 1 to 512"},
      {"{" + tensor(std::string(513, 'n'), "[1]", 0, 4) + "}", 4, "may have 1 to 512"},
      {"{" + tensor("a\\u0000b", "[1]", 0, 4) + "}", 4, "control characters"},
      {"{" + tensor("a\\u001b[31m", "[1]", 0, 4) + "}", 4, "control characters"},
      {"{" + tensor("a\x7f", "[1]", 0, 4) + "}", 4, "control characters"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "__metadata__ stands twice"},
      {R"({"__metadata__":{"a":"1","b":"2","a":"3"}})", 0, "__metadata__ has \"a\" twice"},
      {R"({"__metadata__":{"a":1}})", 0, "a number where that cannot be"},
      {R"({"__metadata__":{"a":{"b":"c"}}})", 0, "an object where that cannot be"},
      {R"({"__metadata__":null})", 0, "null where that cannot be"},
      // types, shapes and places
      {replaced("F32", "F31"), 8, "the unknown dtype \"F31\""},
      {replaced("F32", "f32"), 8, "the unknown dtype"},
      {replaced("F32", ""), 8, "the unknown dtype"},
      {replaced("[2]", "[3]"), 8, "8 bytes for 3 elements of F32"},
      {replaced("[2]", "[]"), 8, "8 bytes for 1 elements of F32"},
      {replaced("[2]", "[1,1,1,1,1,1,1,1,2]"), 8, "more than 8 dimensions"},
      {replaced("[2]", "[9223372036854775808]"), 8, "the impossible size"},
      {replaced("[2]", "[4611686018427387904,4]"), 8, "an impossible shape"},
      {replaced("[2]", "[4294967296,4294967296,0]"), 8, "an impossible shape"},
      {replaced("[0,8]", "[8,0]"), 8, "lies outside of the file"},
      {replaced("[0,8]", "[0,9]"), 8, "lies outside of the file"},
      {replaced("[0,8]", "[0]"), 8, "two data_offsets"},
      {replaced("[0,8]", "[0,8,8]"), 8, "more than two offsets"},
      {replaced("[0,8]", "[4,12]"), 12, "a gap or an overlap before tensor a"},
      {kGood, 7, "lies outside of the file"},
      {kGood, 9, "but the file has"},
      {"{}", 1, "but the file has"},
      {"{" + tensor("a", "[2]", 0, 8) + "," + tensor("b", "[2]", 4, 12) + "}", 12,
       "a gap or an overlap before tensor b"},
      {"{" + tensor("a", "[2]", 0, 8) + "," + tensor("b", "[2]", 0, 8) + "}", 8, "a gap or an overlap"},
      {"{" + tensor("a", "[1]", 0, 4) + "," + tensor("b", "[1]", 8, 12) + "}", 12,
       "a gap or an overlap before tensor b"},
      {"{" + tensor("a", "[1]", 0, 4) + "," + tensor("e", "[0]", 2, 2) + "," + tensor("b", "[1]", 4, 8) + "}", 8,
       "a gap or an overlap"},
  };
  for (const Bad& bad : catalogue) {
    const std::string message = refusal([&] { parse(bad.header, bad.data_bytes); });
    CHECK_MESSAGE(message.find(bad.message) != std::string::npos, bad.header, " gives: ", message);
  }
}

TEST_CASE("strict reading: the length of a header is believed only within limits") {
  const auto length = [](uint64_t value, int64_t file_bytes) {
    unsigned char first[8];
    std::memcpy(first, &value, 8);
    return safetensors_header_bytes(first, file_bytes);
  };
  CHECK(length(2, 10) == 2);
  CHECK(length(100'000'000, 1 << 30) == 100'000'000);
  const std::pair<uint64_t, int64_t> bad[] = {
      {0, 100}, {1, 100}, {3, 10}, {93, 100}, {UINT64_MAX, 100}, {100'000'001, 1 << 30}, {uint64_t{1} << 63, 100},
      {2, 8}};
  for (const auto& [value, bytes] : bad) CHECK_FALSE(refusal([&] { length(value, bytes); }).empty());
}

TEST_CASE("strict reading: many tensors take time in proportion, more than a million are refused") {
  std::string header = "{";
  for (int i = 0; i < 200'000; ++i) header += (i > 0 ? "," : "") + tensor("t" + std::to_string(i), "[0]", 0, 0);
  const auto start = std::chrono::steady_clock::now();
  const size_t half = header.find(",\"t100000\"");
  CHECK(parse(header.substr(0, half) + "}", 0).size() == 100'000);
  const auto middle = std::chrono::steady_clock::now();
  CHECK(parse(header + "}", 0).size() == 200'000);
  const auto end = std::chrono::steady_clock::now();
  CHECK((end - middle) < 8 * (middle - start));  // in proportion would be 2
  std::string many = "{";
  for (int i = 0; i <= 1'000'000; ++i) many += "\"x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},";
  many.back() = '}';
  CHECK(refusal([&] { parse(many, 0); }).find("more than 1000000 tensors") != std::string::npos);
}

TEST_CASE("strict reading: only regular files with plain names inside of the directory are opened") {
  test::TemporaryDirectory directory;
  const uint64_t length = kGood.size();
  const std::string whole = std::string(reinterpret_cast<const char*>(&length), 8) + kGood + std::string(8, 'x');
  directory.write("inside/good.safetensors", whole);
  directory.write("outside.safetensors", whole);
  const std::string inside = directory.path() + "/inside";
  CHECK(SafetensorsFile(inside, "good.safetensors").entries().size() == 1);
  REQUIRE(symlink("good.safetensors", (inside + "/link.safetensors").c_str()) == 0);
  REQUIRE(mkfifo((inside + "/fifo.safetensors").c_str(), 0600) == 0);
  REQUIRE(mkdir((inside + "/folder.safetensors").c_str(), 0700) == 0);
  for (const char* name :
       {"../outside.safetensors", "./good.safetensors", "/etc/passwd", ".hidden", "folder.safetensors/x", "", "a\nb",
        "link.safetensors", "fifo.safetensors", "folder.safetensors", "missing.safetensors"}) {
    const std::string message = refusal([&, name = name] { SafetensorsFile(inside, name); });
    CHECK_MESSAGE(!message.empty(), name);
  }
  CHECK(refusal([&] { SafetensorsFile(inside, "fifo.safetensors"); }).find("not a regular file") != std::string::npos);
  CHECK_FALSE(refusal([&] { SafetensorsFile(inside, std::string(129, 'n')); }).empty());
  CHECK_FALSE(refusal([&] { SafetensorsFile(inside, std::string("good.safetensors\0x", 18)); }).empty());
}

TEST_CASE("strict reading: an index with one fault is refused with its line") {
  CHECK(parse_weight_index(R"({"metadata":{"total_size":8},"weight_map":{"a":"model.safetensors"}})", "i").size() == 1);
  const std::pair<const char*, const char*> catalogue[] = {
      {"", "i:1: not valid JSON"},
      {"[]", "has no \"weight_map\""},
      {"{}", "has no \"weight_map\""},
      {"[1]", "has no \"weight_map\""},
      {R"({"weight_map":[]})", "has no \"weight_map\""},
      {R"({"weight_map":{"a":"x"},"weight_map":{}})", "stands twice"},
      {R"({"weight_map":{"a":"x","a":"y"}})", "stands twice"},
      {"{\"weight_map\":{\n\"a\":1}}", "i:2: a is placed in an integer"},
      {R"({"weight_map":{"a":null}})", "is placed in null"},
      {R"({"weight_map":{"a":"../x"}})", "is placed in \"../x\""},
      {R"({"weight_map":{"a":"/etc/passwd"}})", "not a file name"},
      {R"({"weight_map":{"a":"x\u0000"}})", "not a file name"},
      {R"({"weight_map":{"a":".x"}})", "not a file name"},
      {R"({"weight_map":{"a":"\u0456.safetensors"}})", "not a file name"},
      {R"({"weight_map":{"a\u001b":"x"}})", "control characters"},
      {R"({"weight_map":{"":"x"}})", "a tensor's name is empty"},
      {R"({"weight_map":{"a":{"b":{"c":{"d":1}}}}})", "nested more than 4 deep"},
  };
  for (const auto& [text, expected] : catalogue) {
    const std::string message = refusal([&, text = text] { parse_weight_index(text, "i"); });
    CHECK_MESSAGE(message.find(expected) != std::string::npos, text, " gives: ", message);
  }
}

namespace {

// A manifest of one weight of 6 elements whose moments are cut at 4.
std::string manifest_text() {
  const std::string sha(64, 'a'), xxh3(32, 'b');
  return R"({"version":1,"step":3,"state_classes":["weights","exp_avg","exp_avg_sq","state"],
"files":[{"name":"m","bytes":100,"sha256":")" +
         sha + R"("},{"name":"o","bytes":100,"sha256":")" + sha + R"("}],
"weights":[{"name":"w","tensor":"W","file":"m","shape":[2,3],"xxh3":")" +
         xxh3 + R"("}],
"moments":[{"name":"w","file":"o","begin":4,"count":2},{"name":"w","file":"o","begin":0,"count":4}]})";
}

}  // namespace

TEST_CASE("strict reading: a manifest with one fault is refused, and COMMIT names exactly one manifest") {
  const Manifest manifest = parse_manifest(manifest_text(), "m");
  CHECK(manifest.elements() == 6);
  CHECK(manifest.moments.at("w")[1].begin == 4);
  const std::pair<std::pair<const char*, const char*>, const char*> catalogue[] = {
      {{"\"version\":1", "\"version\":2"}, "has format version 2"},
      {{"\"step\":3", "\"step\":-3"}, "\"step\" is -3"},
      {{"\"step\":3", "\"step\":3.5"}, "\"step\" is not an integer"},
      {{"\"step\":3,", ""}, "there is no \"step\""},
      {{",\"state\"]", "]"}, "it lacks the state state"},
      {{"\"exp_avg\",", ""}, "it lacks the state exp_avg"},
      {{"\"name\":\"m\"", "\"name\":\"../m\""}, "\"../m\" is not a file name"},
      {{"\"name\":\"o\"", "\"name\":\"m\""}, "m is listed twice"},
      {{"\"bytes\":100", "\"bytes\":-1"}, "\"bytes\" is -1"},
      {{"\"sha256\":\"aa", "\"sha256\":\"AA"}, "not 64 hexadecimal digits"},
      {{"\"sha256\":\"aa", "\"sha256\":\"a"}, "not 64 hexadecimal digits"},
      {{"\"xxh3\":\"bb", "\"xxh3\":\"b"}, "not 32 hexadecimal digits"},
      {{"\"file\":\"m\"", "\"file\":\"z\""}, "\"z\", which is not listed"},
      {{"[2,3]", "[2,4]"}, "moments of 6 of the 8 elements of w"},
      {{"[2,3]", "[-2,-3]"}, "\"shape\" is impossible"},
      {{"[2,3]", "[0,6]"}, "\"shape\" is impossible"},
      {{"[2,3]", "[1,1,1,1,1,1,1,2,3]"}, "\"shape\" is impossible"},
      {{"[2,3]", "[4503599627370496,4503599627370496]"}, "\"shape\" is impossible"},
      {{"\"begin\":4", "\"begin\":3"}, "begin at element 3 but should at 4"},
      {{"\"begin\":4", "\"begin\":5"}, "begin at element 5 but should at 4"},
      {{"\"begin\":0", "\"begin\":1"}, "begin at element 1 but should at 0"},
      {{"\"count\":2", "\"count\":3"}, "moments of 7 of the 6"},
      {{"\"count\":2", "\"count\":0"}, "begin at element 4 but should at 4"},
      {{"{\"name\":\"w\",\"file\":\"o\",\"begin\":4", "{\"name\":\"v\",\"file\":\"o\",\"begin\":4"},
       "but no such weight"},
      {{"\"moments\":[", "\"moments\":{}, \"x\":["}, "\"moments\" is not a list"},
      {{"\"tensor\":\"W\"", "\"tensor\":\"\""}, "\"tensor\" is no name of a tensor"},
      {{"{\"version\"", "{\"version\":1,\"version\""}, "stands twice"},
  };
  for (const auto& [change, expected] : catalogue) {
    std::string text = manifest_text();
    REQUIRE_MESSAGE(text.find(change.first) != std::string::npos, change.first);
    text.replace(text.find(change.first), std::strlen(change.first), change.second);
    const std::string message = refusal([&] { parse_manifest(text, "m"); });
    CHECK_MESSAGE(message.find(expected) != std::string::npos, change.second, " gives: ", message);
  }
  const std::string text = manifest_text();
  const std::string commit = R"({"magic":"switchyard checkpoint","manifest_bytes":)" + std::to_string(text.size()) +
                             R"(,"manifest_sha256":")" +
                             to_hex(sha256(text.data(), static_cast<int64_t>(text.size()))) + R"("})";
  check_commit(commit, text, "d");
  CHECK(refusal([&] { check_commit(commit, text + " ", "d"); }).find("not the one that COMMIT names") !=
        std::string::npos);
  CHECK_FALSE(refusal([&] { check_commit("", text, "d"); }).empty());
  CHECK_FALSE(refusal([&] { check_commit("{}", text, "d"); }).empty());
  CHECK_FALSE(refusal([&] { check_commit("[]", text, "d"); }).empty());
}
