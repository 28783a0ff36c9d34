// Parts of a self-contained HTML page: one file with its styles, charts as inline SVG, values under the pointer, no
// network. Every text that comes from outside goes through escape().
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tools::page {

// Text as it may stand in HTML, in an attribute too.
std::string escape(const std::string& text);

// The whole page; light or dark as the reader's system is.
std::string document(const std::string& title, const std::string& body);

// Cells are HTML; the first column is left-aligned, numbers are to the right.
struct Table {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;
};
std::string table(const Table& table);

// Rows of cells coloured by how far their value is above or below 1; `tips` are shown under the pointer.
struct HeatMap {
  std::vector<std::string> row_names, column_names;  // plain text
  std::vector<std::vector<double>> values;           // [row][column]; 0: nothing at all
  std::vector<std::vector<std::string>> tips;        // plain text
  std::string columns;                               // what a column is
};
std::string heat_map(const HeatMap& map);
// What the colours of heat maps mean.
std::string heat_legend();

struct Series {
  std::string name;                               // plain text
  std::vector<std::pair<double, double>> points;  // by x
};
struct LineChart {
  std::vector<Series> series;
  std::string x, y;        // names of the axes
  double floor = 0;        // a dashed line at this value; 0: none
  std::string floor_name;  // what it is
  bool whole = false;      // y are whole numbers
};
std::string line_chart(const LineChart& chart);

}  // namespace tools::page
