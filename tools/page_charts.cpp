// The charts of a page, as inline SVG.
#include <algorithm>
#include <cmath>

#include "engine/train/load_analysis.h"
#include "tools/page.h"

namespace tools::page {
namespace {

using engine::train::print;

// Steps of colour: from 1/4 and less (d5) over 1 (u0) to 4 and more (u5), two to an octave around 1.
const char* color_of(double value) {
  static const char* const kColors[] = {"d5", "d4", "d3", "d2", "d1", "u0", "u1", "u2", "u3", "u4", "u5"};
  if (value <= 0) return "none";
  const double step = std::log2(value) * 2.5;
  return kColors[std::clamp(static_cast<int>(std::lround(step)), -5, 5) + 5];
}

std::string attribute_tip(const std::string& text) {
  return " data-tip=\"" + escape(text) + "\"";
}

}  // namespace

std::string heat_map(const HeatMap& map) {
  constexpr double kLabel = 92, kHead = 18;
  const size_t columns = map.column_names.size();
  const double width = columns <= 16 ? 34 : columns <= 40 ? 18 : 11, height = 22;
  const double all = kLabel + width * static_cast<double>(columns);
  std::string svg = print("<div class=\"wide\"><svg role=\"img\" width=\"%.0f\" height=\"%.0f\">", all,
                          kHead + height * static_cast<double>(map.row_names.size()));
  svg += print("<text x=\"0\" y=\"12\">%s</text>", escape(map.columns).c_str());
  const size_t every = columns <= 16 ? 1 : columns <= 40 ? 4 : 8;
  for (size_t c = 0; c < columns; c += every) {
    svg += print("<text x=\"%.1f\" y=\"12\" text-anchor=\"middle\">", kLabel + width * (static_cast<double>(c) + 0.5)) +
           escape(map.column_names[c]) + "</text>";
  }
  for (size_t r = 0; r < map.row_names.size(); ++r) {
    const double y = kHead + height * static_cast<double>(r);
    std::string name = map.row_names[r];
    if (name.size() > 13) name = name.substr(0, 12) + "…";
    svg += print("<text x=\"0\" y=\"%.0f\">", y + 15) + escape(name) + "</text>";
    for (size_t c = 0; c < columns; ++c) {
      svg += print("<rect class=\"cell\" x=\"%.0f\" y=\"%.0f\" width=\"%.0f\" height=\"%.0f\" fill=\"var(--%s)\"",
                   kLabel + width * static_cast<double>(c), y, width, height, color_of(map.values[r][c])) +
             attribute_tip(map.tips[r][c]) + "/>";
    }
    svg += "\n";
  }
  return svg + "</svg></div>\n";
}

std::string heat_legend() {
  std::string html = "<div class=\"legend\">";
  const std::pair<const char*, const char*> entries[] = {{"none", "nothing"}, {"d5", "a quarter and less"},
                                                         {"d2", "half"},      {"u0", "1 x"},
                                                         {"u2", "2 x"},       {"u5", "4 x and more"}};
  for (const auto& [color, name] : entries) {
    html += print("<span><i style=\"background:var(--%s)\"></i>%s</span>", color, name);
  }
  return html + "</div>\n";
}

namespace {

// Values of an axis: about five round numbers, none closer than `least` to the next.
std::vector<double> ticks(double low, double high, double least = 0) {
  const double rough = (high - low) / 5, base = std::pow(10, std::floor(std::log10(rough)));
  const double round = rough / base < 1.5   ? base
                       : rough / base < 3.5 ? 2 * base
                       : rough / base < 7.5 ? 5 * base
                                            : 10 * base;
  const double step = std::max(least, round);
  std::vector<double> values;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i)
    values.push_back(i * step + 0.0);  // no -0
  return values;
}

// At most so many points, of each stretch the middle one.
std::vector<std::pair<double, double>> thinned(const std::vector<std::pair<double, double>>& points, size_t most) {
  if (points.size() <= most) return points;
  std::vector<std::pair<double, double>> some;
  for (size_t i = 0; i < most; ++i) some.push_back(points[(i * (points.size() - 1)) / (most - 1)]);
  return some;
}

}  // namespace

std::string line_chart(const LineChart& chart) {
  constexpr double kWidth = 860, kHeight = 250, kLeft = 52, kRight = 12, kTop = 10, kBottom = 34;
  double x0 = 1e300, x1 = -1e300, y0 = 1e300, y1 = -1e300;
  for (const Series& series : chart.series) {
    for (const auto& [x, y] : series.points) {
      x0 = std::min(x0, x), x1 = std::max(x1, x), y0 = std::min(y0, y), y1 = std::max(y1, y);
    }
  }
  if (x0 > x1) return "<p class=\"soft\">no points</p>\n";
  if (chart.floor > 0) y0 = std::min(y0, chart.floor), y1 = std::max(y1, chart.floor);
  if (x1 == x0) x1 = x0 + 1;
  const double margin = y1 > y0 ? (y1 - y0) * 0.06 : std::max(1e-3, std::abs(y0) * 0.05);
  y0 = y0 >= 0 && y0 - margin < 0 ? 0 : y0 - margin, y1 += margin;
  const auto place_x = [&](double x) { return kLeft + (x - x0) / (x1 - x0) * (kWidth - kLeft - kRight); };
  const auto place_y = [&](double y) { return kHeight - kBottom - (y - y0) / (y1 - y0) * (kHeight - kTop - kBottom); };
  std::string svg = print("<div class=\"wide\"><svg role=\"img\" width=\"%.0f\" height=\"%.0f\">", kWidth, kHeight);
  for (double y : ticks(y0, y1, chart.whole ? 1 : 0)) {
    svg += print("<line class=\"grid\" x1=\"%.0f\" x2=\"%.0f\" y1=\"%.1f\" y2=\"%.1f\"/>", kLeft, kWidth - kRight,
                 place_y(y), place_y(y));
    svg += print("<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">%g</text>", kLeft - 6, place_y(y) + 4, y);
  }
  for (double x : ticks(x0, x1)) {
    svg += print("<text x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">%g</text>", place_x(x), kHeight - kBottom + 15, x);
  }
  svg += print("<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"end\">", kWidth - kRight, kHeight - 4) + escape(chart.x) +
         "</text>";
  if (chart.floor > 0) {
    svg += print("<line class=\"floor\" x1=\"%.0f\" x2=\"%.0f\" y1=\"%.1f\" y2=\"%.1f\"/>", kLeft, kWidth - kRight,
                 place_y(chart.floor), place_y(chart.floor));
  }
  std::string legend = "<div class=\"legend\"><span>" + escape(chart.y) + "</span>";
  for (size_t s = 0; s < chart.series.size(); ++s) {
    const Series& series = chart.series[s];
    const std::vector<std::pair<double, double>> points = thinned(series.points, 120);
    svg += print("<polyline class=\"curve\" style=\"stroke:var(--s%zu)\" points=\"", s % 8);
    for (const auto& [x, y] : points) svg += print("%.1f,%.1f ", place_x(x), place_y(y));
    svg += "\"/>\n";
    for (const auto& [x, y] : points) {
      svg += print("<circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"5\"", place_x(x), place_y(y)) +
             attribute_tip(series.name + print(", %s %g: %.5g", chart.x.c_str(), x, y)) + "/>";
    }
    if (s < 24) {
      legend += print("<span><i style=\"background:var(--s%zu)\"></i>", s % 8) + escape(series.name) + "</span>";
    }
  }
  if (chart.floor > 0) legend += "<span>- - " + escape(chart.floor_name) + "</span>";
  return legend + "</div>\n" + svg + "</svg></div>\n";
}

}  // namespace tools::page
