// Prometheus' text format, for the textfile collector of node_exporter.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace engine::train {

class PrometheusText {
 public:
  using Labels = std::vector<std::pair<std::string, std::string>>;
  // Labels that every sample has.
  explicit PrometheusText(const Labels& common) : common_(common) {}
  // Samples of one metric may be added at any time; they are written together, as the format demands.
  void gauge(const std::string& name, const std::string& help, double value, const Labels& labels = {});
  std::string text() const;

 private:
  struct Metric {
    std::string name, help, samples;
  };
  Labels common_;
  std::vector<Metric> metrics_;
  std::map<std::string, size_t> index_;
};

}  // namespace engine::train
