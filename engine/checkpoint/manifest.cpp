#include "engine/checkpoint/manifest.h"

#include <algorithm>

#include "engine/checkpoint/file_system.h"
#include "engine/checkpoint/safetensors_header.h"
#include "engine/config/json_reader.h"
#include "engine/core/error.h"
#include "engine/core/hash.h"

namespace engine::checkpoint {
namespace {

constexpr ExitCode kBad = ExitCode::checkpoint;
constexpr int64_t kLargestManifest = int64_t{1} << 28, kMostElements = int64_t{1} << 50;
constexpr size_t kMostDims = 8;

// Members of an object by name and type.
class Fields {
 public:
  Fields(const JsonValue& object, const std::string& name) : object_(object), name_(name) {}

  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    throw Error(kBad, str(name_, ":", object_.position.line, ": ", parts...));
  }
  const JsonValue& at(const char* key, JsonValue::Type type) const {
    const JsonValue* value = object_.find(key);
    if (value == nullptr) refuse("there is no \"", key, "\"");
    if (value->type != type) refuse("\"", key, "\" is not ", json_type_name(type));
    return *value;
  }
  const std::vector<JsonValue>& list(const char* key) const { return at(key, JsonValue::Type::array).items; }
  const std::string& text(const char* key) const { return at(key, JsonValue::Type::string).string; }
  int64_t count(const char* key) const {
    const int64_t value = at(key, JsonValue::Type::integer).integer;
    if (value < 0 || value > kMostElements) refuse("\"", key, "\" is ", value);
    return value;
  }
  std::string tensor_name(const char* key) const {
    if (!is_tensor_name(text(key))) refuse("\"", key, "\" is no name of a tensor");
    return text(key);
  }
  std::string hex(const char* key, size_t digits) const {
    const std::string& value = text(key);
    if (value.size() != digits || value.find_first_not_of("0123456789abcdef") != std::string::npos) {
      refuse("\"", key, "\" is not ", digits, " hexadecimal digits");
    }
    return value;
  }
  std::string file(const Manifest& manifest) const {
    if (!manifest.files.contains(text("file"))) {
      refuse("\"file\" is ", json_string(text("file").substr(0, 200)), ", which is not listed");
    }
    return text("file");
  }

 private:
  const JsonValue& object_;
  const std::string& name_;
};

void add_file(const Fields& fields, Manifest& manifest) {
  const std::string& file = fields.text("name");
  if (!is_plain_name(file)) fields.refuse(json_string(file.substr(0, 200)), " is not a file name");
  const bool is_new =
      manifest.files.insert({file, {.bytes = fields.count("bytes"), .sha256 = fields.hex("sha256", 64)}}).second;
  if (!is_new) fields.refuse(file, " is listed twice");
}

void add_weight(const Fields& fields, Manifest& manifest) {
  Manifest::Weight weight{.file = fields.file(manifest),
                          .tensor = fields.tensor_name("tensor"),
                          .xxh3 = fields.hex("xxh3", 32),
                          .shape = {},
                          .elements = 1};
  for (const JsonValue& dim : fields.list("shape")) {
    const bool fits = dim.type == JsonValue::Type::integer && dim.integer > 0 && weight.shape.size() < kMostDims &&
                      weight.elements <= kMostElements / dim.integer;
    if (!fits) fields.refuse("\"shape\" is impossible");
    weight.elements *= dim.integer;
    weight.shape.push_back(dim.integer);
  }
  const std::string name = fields.tensor_name("name");
  if (!manifest.weights.insert({name, std::move(weight)}).second) fields.refuse(name, " is listed twice");
}

void add_moments(const Fields& fields, Manifest& manifest) {
  const std::string name = fields.tensor_name("name");
  if (!manifest.weights.contains(name)) fields.refuse("there are moments of ", name, " but no such weight");
  manifest.moments[name].push_back(
      {.file = fields.file(manifest), .begin = fields.count("begin"), .count = fields.count("count")});
}

// The ranges of each weight's moments follow each other from its first element to its last.
void check_moments(const std::string& name, Manifest& manifest) {
  for (const auto& [weight, facts] : manifest.weights) {
    std::vector<Manifest::Moments>& ranges = manifest.moments[weight];
    std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
    int64_t next = 0;
    for (const Manifest::Moments& range : ranges) {
      if (range.begin != next || range.count == 0) {
        throw Error(kBad,
                    str(name, ": moments of ", weight, " begin at element ", range.begin, " but should at ", next));
      }
      next += range.count;
    }
    if (next != facts.elements) {
      throw Error(kBad,
                  str(name, ": there are moments of ", next, " of the ", facts.elements, " elements of ", weight));
    }
  }
}

void check_tensors_once(const std::string& name, const Manifest& manifest) {
  std::map<std::string, std::string> weight_of;
  for (const auto& [weight, facts] : manifest.weights) {
    const auto [other, is_new] = weight_of.insert({facts.tensor, weight});
    if (!is_new) throw Error(kBad, str(name, ": ", other->second, " and ", weight, " are both tensor ", facts.tensor));
  }
}

void check_state_classes(const Fields& root) {
  std::vector<std::string> classes;
  for (const JsonValue& item : root.list("state_classes")) classes.push_back(item.string);
  for (const char* needed : {"weights", "exp_avg", "exp_avg_sq", "state"}) {
    if (std::find(classes.begin(), classes.end(), needed) == classes.end()) root.refuse("it lacks the state ", needed);
  }
}

JsonValue read_object(std::string_view text, const std::string& name) {
  try {
    JsonValue value = read_json(text, {.max_bytes = kLargestManifest, .max_depth = 8}, kBad);
    if (value.type != JsonValue::Type::object) throw Error(kBad, str(name, " is not an object"));
    return value;
  } catch (const JsonError& error) {
    throw Error(kBad, str(name, ":", error.position().line, ": ", error.what()));
  }
}

}  // namespace

int64_t Manifest::elements() const {
  int64_t total = 0;
  for (const auto& [name, weight] : weights) total += weight.elements;
  return total;
}

std::string moment_tensor(const char* moment, const std::string& weight, int64_t begin) {
  return str(moment, ".", weight, "@", begin);
}

Manifest parse_manifest(std::string_view text, const std::string& name) {
  const JsonValue json = read_object(text, name);
  const Fields root(json, name);
  if (root.count("version") != 1) {
    throw Error(kBad, str(name, " has format version ", root.count("version"),
                          " but this program reads 1; use the program that wrote it, or a newer one"));
  }
  Manifest manifest;
  manifest.step = root.count("step");
  check_state_classes(root);
  for (const JsonValue& file : root.list("files")) add_file(Fields(file, name), manifest);
  for (const JsonValue& weight : root.list("weights")) add_weight(Fields(weight, name), manifest);
  for (const JsonValue& moments : root.list("moments")) add_moments(Fields(moments, name), manifest);
  check_tensors_once(name, manifest);
  check_moments(name, manifest);
  return manifest;
}

void check_commit(std::string_view commit, std::string_view manifest, const std::string& directory) {
  const std::string name = directory + "/COMMIT";
  const JsonValue json = read_object(commit, name);
  const Fields root(json, name);
  if (root.text("magic") != "switchyard checkpoint") {
    throw Error(kBad, str(name, " is not the COMMIT of a checkpoint"));
  }
  if (root.count("manifest_bytes") != static_cast<int64_t>(manifest.size()) ||
      root.hex("manifest_sha256", 64) != to_hex(sha256(manifest.data(), static_cast<int64_t>(manifest.size())))) {
    throw Error(kBad, str(directory, "/manifest.json is not the one that COMMIT names"));
  }
}

}  // namespace engine::checkpoint
